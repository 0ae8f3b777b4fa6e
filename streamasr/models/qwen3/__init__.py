"""Qwen3-ASR and Qwen3-ForcedAligner: encoder, decoder, aligner, prompt, answers and languages."""

"""CT-Transformer of FunASR: punctuation of Chinese and English text."""

"""Samples to segments of speech: `vad` classifies frames, `chunker` draws the borders."""

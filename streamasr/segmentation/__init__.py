"""From samples to segments of speech: `vad` judges frames, `chunker` draws the borders."""

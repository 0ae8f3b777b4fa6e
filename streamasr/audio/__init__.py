"""Sources of audio: each delivers blocks of mono float32 at SAMPLE_RATE."""

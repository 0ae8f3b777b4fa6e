"""Where samples come from: every source delivers blocks of mono float32 at SAMPLE_RATE."""

"""Samples to features: numpy only, one front end per file."""

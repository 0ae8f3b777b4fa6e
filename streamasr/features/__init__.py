"""Samples to features, with numpy only; one front end per file."""

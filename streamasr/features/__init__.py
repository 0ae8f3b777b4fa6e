"""Samples to features; one front end per file."""

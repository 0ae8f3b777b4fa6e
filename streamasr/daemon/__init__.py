"""Daemon: wiring, signals and reload."""

"""The daemon: wiring, signals, reload, and work in the background."""

"""Command line: one module for each command, holding its arguments and its `run`."""

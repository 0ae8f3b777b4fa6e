"""Dialects of the wire: messages <-> text, pure; one file for each."""

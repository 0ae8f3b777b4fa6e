"""Paraformer: front end, graphs, integrate-and-fire, text, word times and hotwords."""

"""Paraformer: CIF-based, non-autoregressive speech recognition."""

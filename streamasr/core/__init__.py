"""Vocabulary that every other package shares; it imports no other package of streamasr."""

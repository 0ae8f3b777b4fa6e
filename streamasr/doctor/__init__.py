"""Diagnosis of an installation and verification of a model; pure."""

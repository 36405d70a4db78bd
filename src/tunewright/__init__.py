"""Tunewright: turn your data into a better model, and prove it."""

__version__ = "0.1.0"

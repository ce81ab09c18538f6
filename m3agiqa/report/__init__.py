"""Figures of results; they know nothing of where the numbers come from."""

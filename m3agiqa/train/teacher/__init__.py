"""Descriptions from a large model that somebody else runs."""

"""Measures workers: under load, and beside images and servers that mean ill."""

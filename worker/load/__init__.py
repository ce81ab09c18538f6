"""Measures workers: under load, and beside pictures and servers that mean ill."""

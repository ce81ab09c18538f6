"""Measures workers under load, and under attack by hostile images and servers."""

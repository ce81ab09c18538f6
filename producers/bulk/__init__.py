"""Submits many images: rows of tables, and what lies in a bucket."""

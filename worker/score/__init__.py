"""Scores: fetch, open, score, decide, publish."""

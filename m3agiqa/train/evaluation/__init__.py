"""Predictions of a data set, and how well they follow human scores."""

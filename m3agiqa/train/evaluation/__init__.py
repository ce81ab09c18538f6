"""Predictions of a data set's scores, metrics of how well they follow human ones, and their figures."""

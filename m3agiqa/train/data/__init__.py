"""Data sets: images with prompts and human scores, conversations about them, splits, distorted copies."""

"""Data sets: images with prompts and human scores; checks, splits, descriptions, conversations, distorted copies."""

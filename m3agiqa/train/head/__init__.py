"""Heads, which regress scores from hidden states: module, losses, cached states, and the training itself."""

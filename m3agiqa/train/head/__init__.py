"""Training of the heads that regress scores from hidden states."""

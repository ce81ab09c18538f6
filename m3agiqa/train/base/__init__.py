"""Training of a small base model from nothing."""

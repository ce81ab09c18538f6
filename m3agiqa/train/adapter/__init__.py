"""LoRA fine-tuning of the language model, and what an adapted model answers."""

"""Adapters: LoRA fine-tuning of the language model, and the answers of an adapted model."""

"""Training of everything that is learned, one room a step; `run` keeps what a run goes on from.

data        data sets: read, checked, split, distorted, and their conversations
teacher     descriptions by a large model of somebody else
adapter     LoRA fine-tuning of the language model, and what an adapted model answers
head        heads that regress scores from the hidden states of a frozen model
base        a small base model, trained from nothing
evaluation  predictions held against human scores
"""

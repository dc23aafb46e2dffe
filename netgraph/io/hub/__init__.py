"""Folders as Hugging Face has them: weights, a config, a card, and what belongs to a network."""

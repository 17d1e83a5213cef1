"""Encoded bytes to upright RGB pixels to a model's input. Knows nothing of Ray or of models."""

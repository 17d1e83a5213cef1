"""From encoded bytes to upright RGB pixels to a model's input. Does not import Ray or models."""

"""Fine-tune a network on Ray Train; what leaves is a model folder."""

"""The bulk job: label everything of an input, on workers, into a label store."""

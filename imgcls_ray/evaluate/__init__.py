"""How good a model is on a labelled dataset, exactly: every image once, on Ray Data."""

"""A small data set and a small model, made on the spot: the whole product can be tried without a download."""

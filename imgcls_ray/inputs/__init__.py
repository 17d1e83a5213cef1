"""What is to be labelled: listings, lists, and their order. Knows nothing of Ray."""

"""Networks, weights, model folders, engines and the one classifier. Knows nothing of Ray."""

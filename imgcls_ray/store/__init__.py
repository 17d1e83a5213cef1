"""The label store: plans, parts, leases, and the newest rows. Knows nothing of Ray."""

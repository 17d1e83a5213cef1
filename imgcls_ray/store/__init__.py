"""The label store: plans, parts, leases, and the newest rows. Does not import Ray."""

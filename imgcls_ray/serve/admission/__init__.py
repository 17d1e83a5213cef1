"""What is admitted: in Serve's HTTP proxy, in the replica before its routes, and how much a replica has in work."""

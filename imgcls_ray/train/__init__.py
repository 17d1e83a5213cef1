"""Train a network; what comes out is a model folder."""

WORKER = ("imgcls_ray.train.local_worker", "serve")
"""What a worker on this machine is forked from: module and function. The command needs it before it imports more."""

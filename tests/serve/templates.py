"""The servers of decoder processes that tests of the service fork, instead of loading each in a new Python.

What a fork does is the server's own code, but that large pictures do not give way.
"""

from __future__ import annotations

from imgcls_ray.serve import decoders
from tests.templates import Templates, serve_templates


def decoder_templates() -> Templates:
    """For the servers that decoder processes are forked from."""
    return Templates(__name__, serve_decoder_templates.__name__, keeps_memory=True)


def is_decoders(module: str) -> bool:
    return module.startswith(("imgcls_ray.serve.", "tests.serve.")) and module != __name__


def serve_decoder_templates() -> None:
    def load() -> None:
        decoders.prepare_decoders()
        # Beside other tests no core is ever idle, and large pictures would not be done.
        vars(decoders)["_give_way"] = lambda: None

    serve_templates(load)

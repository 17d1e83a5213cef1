"""The name by which a ``serve_config.yaml`` of an earlier version has Ray Serve find the proxy's middlewares."""

from imgcls_ray.serve.admission.proxy import middlewares

__all__ = ["middlewares"]

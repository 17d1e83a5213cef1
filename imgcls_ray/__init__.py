"""Label images in bulk with a classifier.

``create_model`` is the door for Python; the ``imgcls`` command is the door for people and schedulers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgcls_ray.models.api import create_model as create_model

# OpenVINO and NNCF report each import, and each conversion of a network, to a service for analytics, from a process of
# its own, unless a file in the user's home folder says no. Where this package is missing they report nothing; who has
# imported it already wants it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
__all__ = ["__version__", "create_model"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `import imgcls_ray` and `imgcls --help` must not pay for it.
    if name == "create_model":
        from imgcls_ray.models.api import create_model

        return create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Where what is fetched or made once is kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where converted networks are kept: ``IMGCLS_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("IMGCLS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgcls_ray"

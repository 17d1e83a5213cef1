"""What ``imgcls demo`` is told."""

from __future__ import annotations

from imgcls_ray.config.base import StrictModel


class DemoConfig(StrictModel):
    """One demonstration: ``imgcls demo``."""

    output: str = "demo"
    """Folder to create for the demonstration; it must not exist."""

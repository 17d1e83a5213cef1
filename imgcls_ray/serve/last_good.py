"""The models that a service answered with last, for replicas that start while the configuration names a broken one.

Kept in the table of Ray's head node, which outlives replicas. It counts only as long as some replica goes on saying so:
an application that is gone, and comes back with a folder that cannot be loaded, must fail.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from imgcls_ray.config import ModelsConfig
from imgcls_ray.workers.ray_table import kv_get, kv_put

if TYPE_CHECKING:
    from collections.abc import Callable

# Replicas say so every ten seconds (Serve's health checks); one that died is replaced well within this.
_MAX_AGE_S = 180


class _Note(BaseModel):
    time: float
    models: ModelsConfig


class LastGood:
    """One deployment's note."""

    def __init__(self, application: str, deployment: str, clock: Callable[[], float] = time.time) -> None:
        self._key = f"serve/{application}/{deployment}/last_good".encode()
        self._clock = clock

    def write(self, models: ModelsConfig) -> None:
        """Say that these answer now."""
        kv_put(self._key, _Note(time=self._clock(), models=models).model_dump_json().encode())

    def read(self) -> ModelsConfig | None:
        """What answered until now; None if nothing did."""
        found = kv_get(self._key)
        try:
            note = _Note.model_validate_json(found or b"")
        except ValidationError:
            return None
        return note.models if self._clock() - note.time < _MAX_AGE_S else None

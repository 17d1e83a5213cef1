"""What the command gives each worker of a run, and what a worker gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.train.state import STATE_FILE

if TYPE_CHECKING:
    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.state import Setting, TrainState

STATE_NAME = f"latest/{STATE_FILE}"
"""Where the state of a run is, in its output."""
TITLE = "imgcls-train"
"""Of a worker's process on this machine, for ``ps``."""
EVENT = b"e"
"""First byte of an event that a worker on this machine tells; the others are those of ``workers.local_worker``."""
_MAX_LOADERS = 12


@dataclass(frozen=True)
class TrainTask:
    """The settings that every worker gets."""

    config: TrainConfig
    recipe: Recipe
    batch_size: int
    """Images of one step over all workers."""
    train_size: int
    """Height and width of training images, pixels."""
    output: str
    """Output of the run: an absolute path or URI, the same on every node."""
    teacher: str | None
    """Model folder of the teacher, as ``output``."""
    teacher_fingerprint: str | None
    cpus_per_worker: int
    loader_processes: int
    forks_loaders: bool
    """Whether the worker may fork itself for its loading processes: it has one thread until then."""


def make_task(
    config: TrainConfig, state: TrainState, recipe: Recipe, *, cpus_per_worker: int, forks_loaders: bool = False
) -> TrainTask:
    """Settle what the workers of a run get. Paths are absolute, because workers may run in another folder."""
    return TrainTask(
        config=config,
        recipe=recipe,
        batch_size=state.identity.batch_size,
        train_size=state.identity.start.train_size,
        output=_everywhere(config.output),
        teacher=_everywhere(config.teacher) if config.teacher is not None else None,
        teacher_fingerprint=_text(state.identity.settings.get("teacher")),
        cpus_per_worker=cpus_per_worker,
        loader_processes=config.loader_processes or min(cpus_per_worker, _MAX_LOADERS),
        forks_loaders=forks_loaders,
    )


def _everywhere(place: str) -> str:
    return place if is_object(place) else os.path.abspath(path_from_uri(place))


def _text(setting: Setting) -> str | None:
    return setting if isinstance(setting, str) else None


@dataclass(frozen=True)
class Outcome:
    """How the loop of a worker ended, unless the worker died."""

    kind: Literal["done", "stopped", "failed"]
    reason: str = ""

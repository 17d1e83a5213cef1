"""What the command gives each worker of a run, and what a worker gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imgcls_ray.train.state import STATE_FILE

if TYPE_CHECKING:
    import pyarrow as pa
    from ray import ObjectRef

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.workers.board import Board

STATE_NAME = f"latest/{STATE_FILE}"
"""Where the state of a run is, in its output."""


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
    tables: ObjectRef[dict[str, pa.Table]]
    """Tables of the dataset by split, in Ray's object store."""
    cpus_per_worker: int
    loader_processes: int
    board: Board


@dataclass(frozen=True)
class Outcome:
    """How the loop of a worker ended, unless the worker died."""

    kind: Literal["done", "stopped", "failed"]
    reason: str = ""

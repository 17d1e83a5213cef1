"""What a run needs to go on: one file, written in one step.

Random numbers have no state here: order and augmentation come from the seed, the epoch and the image, dropout and
mixing from the seed and the step. The file is data: it is read with ``weights_only``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from imgcls_ray.storage import Directory

STATE_FILE = "train_state.pt"
_FORMAT = 1


@dataclass
class TrainState:
    """A run between two steps; with ``step`` 0, one that has not begun."""

    model: dict[str, Any]
    """``name``, ``architecture``, ``class_names`` and ``preprocess`` of the model folders."""
    identity: dict[str, Any]
    """What must be the same for a run to go on: data, recipe, sizes, seed."""
    network: Mapping[str, Tensor]
    """Weights."""
    step: int = 0
    """Steps of the optimizer that are done."""
    average: Mapping[str, Tensor] | None = None
    """Averaged weights, where the recipe has them."""
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    """Of fp16's loss."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the epoch that is under way."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of metrics for each epoch that is done."""
    best: Mapping[str, Tensor] | None = None
    """Weights of the best epoch."""
    best_epoch: int = 0
    """From 1; 0: none was evaluated."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, as ``split/number``, and why."""

    def weights_for_use(self) -> Mapping[str, Tensor]:
        """Those that are evaluated and kept: averaged ones, where there are any."""
        return self.network if self.average is None else self.average


def save_state(state: TrainState, directory: Directory, name: str) -> None:
    """Write a state over an older one.

    Raises:
        StorageError: it cannot be written; the older one stays.
    """
    import torch

    with scratch_folder("state") as folder:
        path = Path(folder, STATE_FILE)
        values = {name: getattr(state, name) for name in state.__dataclass_fields__}
        torch.save({"format": _FORMAT, **values}, path)
        directory.replace_from(name, str(path))


def load_state(directory: Directory, name: str) -> TrainState | None:
    """Read a state, on the CPU; ``None`` if there is none.

    Raises:
        ModelFolderError: the file is not a state.
        StorageError: the storage cannot be read.
    """
    import torch

    try:
        # Seekable, and read whole: the file may be an object of a bucket.
        data = io.BytesIO(directory.read(name))
    except FileNotFoundError:
        return None
    try:
        values = torch.load(data, map_location="cpu", weights_only=True)
        if values.pop("format") != _FORMAT:
            raise ValueError("it is of another format")
        return TrainState(**values)
    # Unpickling hostile bytes raises anything.
    except Exception as error:
        raise ModelFolderError(
            f"{directory.uri}/{name}: is not the state of a training run "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); remove it to begin anew"
        ) from error

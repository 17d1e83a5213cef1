"""What a run needs to go on: one file, written in one step.

Random numbers have no state here: order and augmentation come from the seed, the epoch and the image, dropout and
mixing from the seed and the step. The file is data: it is read with ``weights_only``.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture
from imgcls_ray.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.optim.optimizer import StateDict

    from imgcls_ray.storage import Directory

STATE_FILE = "train_state.pt"
_FORMAT = 1


Metrics: TypeAlias = dict[str, float]
"""A row of the history, or the part of it that a model is judged by: ``epoch``, ``val.top1`` and so on."""
Setting: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True)
class ModelDescription:
    """What model folders say of the model beside its weights."""

    name: str
    architecture: Architecture
    class_names: tuple[str, ...]
    preprocess: Preprocess

    def to_values(self) -> dict[str, Any]:
        """Plain values, as a state file holds them."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelDescription:
        """The description of a state file; an error of whatever kind where it is none."""
        return cls(
            values["name"],
            Architecture(**values["architecture"]),
            tuple(values["class_names"]),
            Preprocess(**values["preprocess"]),
        )


@dataclass(frozen=True)
class StartInfo:
    """What a run started from: a command that goes on with it does not look for those weights again."""

    name: str
    family: str | None
    """In the zoo."""
    is_trained: bool
    train_size: int
    """Height and width of training images, pixels."""
    origin: str
    """Where the weights came from, in words."""


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to go on."""

    start: StartInfo
    data: str
    """Fingerprint of the dataset."""
    batch_size: int
    """Images of a step, of all workers together."""
    settings: dict[str, Setting]
    """Keys of the configuration and of the recipe; states of earlier versions may have others."""

    def to_values(self) -> dict[str, Any]:
        """Plain values, as a state file holds them."""
        return {"about": asdict(self.start), "data": self.data, "batch_size": self.batch_size, **self.settings}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RunIdentity:
        """The identity of a state file; an error of whatever kind where it is none."""
        settings = {key: value for key, value in values.items() if key not in ("about", "data", "batch_size")}
        return cls(StartInfo(**values["about"]), values["data"], values["batch_size"], settings)


@dataclass
class TrainState:
    """A run between two steps; with ``step`` 0, one that has not begun."""

    model: ModelDescription
    identity: RunIdentity
    network: Mapping[str, Tensor]
    """Weights."""
    step: int = 0
    """Steps of the optimizer that are done."""
    average: Mapping[str, Tensor] | None = None
    """Averaged weights, where the recipe has them."""
    optimizer: StateDict | None = None
    scaler: StateDict | None = None
    """Of fp16's loss."""
    sums: Metrics = field(default_factory=dict)
    """Of the epoch that is under way."""
    history: list[Metrics] = field(default_factory=list)
    """One row of metrics for each epoch that is done."""
    best: Mapping[str, Tensor] | None = None
    """Weights of the best epoch."""
    best_epoch: int = 0
    """From 1; 0: none was evaluated."""
    best_metrics: Metrics = field(default_factory=dict)
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
        values = {item.name: getattr(state, item.name) for item in fields(state)}
        plain = {"model": state.model.to_values(), "identity": state.identity.to_values()}
        torch.save({"format": _FORMAT, **values, **plain}, path)
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
        model = ModelDescription.from_values(values.pop("model"))
        return TrainState(model, RunIdentity.from_values(values.pop("identity")), **values)
    # Unpickling hostile bytes raises anything.
    except Exception as error:
        raise ModelFolderError(
            f"{directory.uri}/{name}: is not the state of a training run "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); remove it to begin anew"
        ) from error

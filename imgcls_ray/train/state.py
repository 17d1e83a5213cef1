"""The state that a run resumes from: one file, written in one step.

It has no state of random generators: order and augmentation depend on the seed, the epoch and the image, dropout and
mixing on the seed and the step. The file is read with ``weights_only``, so it cannot run code.
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
"""Metrics by name, e.g. ``{"epoch": 3, "val.top1": 0.91}``: one epoch of the history, or its val metrics."""
ClassCounts: TypeAlias = list[list[int]]
"""Three lists with a number for each class: its val images that were predicted right, its val images, and the images
that were predicted to be of it."""
Setting: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True)
class ModelDescription:
    """The content of ``model.json`` that does not change during a run."""

    name: str
    architecture: Architecture
    class_names: tuple[str, ...]
    preprocess: Preprocess

    def to_values(self) -> dict[str, Any]:
        """Plain values, as a state file holds them."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelDescription:
        """Read the description from the values of a state file. Invalid values raise an error of any kind."""
        return cls(
            values["name"],
            Architecture(**values["architecture"]),
            tuple(values["class_names"]),
            Preprocess(**values["preprocess"]),
        )


@dataclass(frozen=True)
class StartInfo:
    """The start of a run. A command that resumes the run does not read those weights again."""

    name: str
    family: str | None
    """Family of the network in the zoo; None for other networks."""
    is_trained: bool
    """Whether the initial weights were trained, not random."""
    train_size: int
    """Height and width of training images, pixels."""
    origin: str
    """Source of the initial weights, in words."""


@dataclass(frozen=True)
class RunIdentity:
    """All settings that must be the same for a run to continue."""

    start: StartInfo
    data: str
    """Fingerprint of the dataset."""
    batch_size: int
    """Images of one step over all workers."""
    settings: dict[str, Setting]
    """Keys of the configuration and of the recipe; states of earlier versions may have others."""

    def to_values(self) -> dict[str, Any]:
        """Plain values, as a state file holds them."""
        return {"about": asdict(self.start), "data": self.data, "batch_size": self.batch_size, **self.settings}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RunIdentity:
        """Read the identity from the values of a state file. Invalid values raise an error of any kind."""
        settings = {key: value for key, value in values.items() if key not in ("about", "data", "batch_size")}
        return cls(StartInfo(**values["about"]), values["data"], values["batch_size"], settings)


@dataclass
class TrainState:
    """A run between two steps. ``step`` is 0 before the first one."""

    model: ModelDescription
    identity: RunIdentity
    network: Mapping[str, Tensor]
    """Current weights."""
    step: int = 0
    """Number of finished optimizer steps."""
    average: Mapping[str, Tensor] | None = None
    """Averaged weights (EMA); None if the recipe has none."""
    optimizer: StateDict | None = None
    scaler: StateDict | None = None
    """State of the loss scaler for fp16; None otherwise."""
    sums: Metrics = field(default_factory=dict)
    """Sums over the finished steps of the current epoch."""
    history: list[Metrics] = field(default_factory=list)
    """Metrics of each finished epoch, and of each evaluation within one: then ``epoch`` is a fraction."""
    class_counts: dict[float, ClassCounts] = field(default_factory=dict)
    """Counts of each evaluation, by the epoch of its row in the history; those of earlier versions have none."""
    best: Mapping[str, Tensor] | None = None
    """Weights of the best epoch; None before the first evaluation."""
    best_epoch: float = 0
    """Number of the best epoch, from 1, or a fraction within one; 0 before the first evaluation."""
    best_metrics: Metrics = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    """Error codes of the images that could not be read, by ``split/number``, e.g. ``{"train/17": "truncated"}``."""

    def weights_for_use(self) -> Mapping[str, Tensor]:
        """The weights that are evaluated and published: the averaged ones, if the recipe has them."""
        return self.network if self.average is None else self.average


def save_state(state: TrainState, directory: Directory, name: str) -> None:
    """Write a state and replace an older one in one step.

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
    """Read a state to the CPU; None if the file does not exist.

    Raises:
        ModelFolderError: the file is not a state of this version.
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
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give another --output to begin anew"
        ) from error

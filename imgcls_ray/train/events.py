"""Events that training workers send to the command: progress, finished epochs, lost workers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from imgcls_ray.train.state import ClassCounts, Metrics


@dataclass(frozen=True)
class WorkersReady:
    """The workers start training: at the start of a run, and again after workers were lost."""

    step: int
    """Number of finished steps of the run."""
    steps_per_epoch: int
    epochs: int
    num_workers: int
    device: str
    """Device of the first worker, as torch names it, e.g. ``cuda:0``."""
    amp: str
    """torch's type of mixed precision, or ``off``."""


@dataclass(frozen=True)
class StepsDone:
    """Another ``log_interval`` steps are done, or the last steps of an epoch."""

    step: int
    """Number of finished steps of the run."""
    epoch: int
    """Number of the current epoch, from 1."""
    loss: float
    """Mean training loss over the images of these steps."""
    learning_rate: float
    images_per_s: float


@dataclass(frozen=True)
class Doing:
    """What the workers do now: for a bar that moves between the sums of ``StepsDone``, and in silent seconds."""

    what: Literal["training", "evaluating", "saving"]
    step: int
    """Steps that are begun or done."""


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and, if ``eval_interval`` says so, evaluated; or there was an evaluation within one."""

    row: Metrics
    """Its row of the history."""
    is_best: bool
    num_bad: int
    """Number of images that could not be read so far."""
    warning: str = ""
    """What is wrong with the metrics, in words."""
    class_counts: ClassCounts | None = None
    """None if the epoch was not evaluated."""


@dataclass(frozen=True)
class WorkersLost:
    """Workers died or became unreachable."""

    reasons: dict[str, str]
    """The reason for each lost worker, by rank."""


Event: TypeAlias = WorkersReady | Doing | StepsDone | EpochDone | WorkersLost

_KINDS: dict[str, type[Event]] = {
    "WorkersReady": WorkersReady,
    "Doing": Doing,
    "StepsDone": StepsDone,
    "EpochDone": EpochDone,
    "WorkersLost": WorkersLost,
}


class RunBoard(Protocol):
    """What the workers of a run and its command tell each other, as the workers see it."""

    def post(self, message: bytes) -> None:
        """Leave a message for the command."""

    def is_stopped(self) -> bool:
        """Whether the command asks for a stop."""


def send(board: RunBoard, event: Event) -> None:
    """Send an event to the command."""
    # As JSON: others of a cluster can write to its table, and a pickle would run what they say.
    board.post(json.dumps([type(event).__name__, asdict(event)]).encode())


def read_event(message: bytes) -> Event:
    """The event that ``send`` made a message of."""
    kind, values = json.loads(message)
    return _KINDS[kind](**values)

"""What the command is told while workers train: how far they are, and of those that are lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from imgcls_ray.train.state import Metrics
    from imgcls_ray.workers.board import Board


@dataclass(frozen=True)
class WorkersReady:
    """The workers begin: at the start of a run, and again after some were lost."""

    step: int
    """Steps that are done."""
    steps_per_epoch: int
    epochs: int
    num_workers: int
    device: str
    """Of the first worker, as torch names it."""
    amp: str
    """torch's type of mixed precision, or ``off``."""


@dataclass(frozen=True)
class StepsDone:
    """As many steps more as ``log_interval`` says, or those up to the epoch's end."""

    step: int
    """Steps that are done."""
    epoch: int
    """From 1."""
    loss: float
    """Mean over the images of these steps."""
    learning_rate: float
    images_per_s: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is learnt and, where it was its turn, evaluated."""

    row: Metrics
    """The epoch's row of the history."""
    is_best: bool
    num_bad: int
    """Images that could not be read so far."""


@dataclass(frozen=True)
class WorkersLost:
    """Workers died, or were not reached any more."""

    reasons: dict[str, str]
    """By rank."""


Event: TypeAlias = WorkersReady | StepsDone | EpochDone | WorkersLost

_KINDS: dict[str, type[Event]] = {
    "WorkersReady": WorkersReady,
    "StepsDone": StepsDone,
    "EpochDone": EpochDone,
    "WorkersLost": WorkersLost,
}


def send(board: Board, event: Event) -> None:
    """Tell the command something."""
    # As JSON: others of a cluster can write to its table, and a pickle would run what they say.
    board.post(json.dumps([type(event).__name__, asdict(event)]).encode())


def receive(board: Board) -> list[Event]:
    """What was told since the last time, in order."""
    messages = [json.loads(message) for message in board.collect()]
    return [_KINDS[kind](**values) for kind, values in messages]

"""The training worker in a process of this machine: a fork of one that has imported everything.

The command sends the task, and later nothing but a wish to stop. Answers are JSON, and no pickles: a decoder that was
taken over must not get at the command.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import select
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from imgcls_ray.train.task import DONE, EVENT, FAILED, TITLE
from imgcls_ray.train.worker import run_worker
from imgcls_ray.workers.child import name_process, read_message, write_message
from imgcls_ray.workers.forks import serve_forks
from imgcls_ray.workers.local_worker import write_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.train.task import Outcome


def serve() -> None:
    """Be the process that the worker is forked from, and another one in its place if it dies."""
    serve_forks(_prepare)
    # Nothing is left to be done, and the end of an interpreter that holds torch takes a moment.
    os._exit(0)


def _prepare() -> Callable[[], None]:
    # What the worker and its loading processes import when they need it.
    import timm.optim  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    return _serve


def _serve() -> None:
    # Unbuffered: what comes after the task must stay where ``is_stopped`` looks for it.
    with (
        io.BufferedReader(io.FileIO(0, closefd=False), buffer_size=1) as messages,
        os.fdopen(os.dup(1), "wb") as answers,
    ):
        # A library that prints must not write between the answers.
        os.dup2(2, 1)
        if (pickled := read_message(messages)) is None:
            return
        try:
            answer = DONE + json.dumps(asdict(_train(pickled, _Command(answers)))).encode()
        except BaseException as error:
            answer = FAILED + write_failure(error)
        write_message(answers, answer)
    # Loading processes end with this one, and all that it has to free goes at once.
    os._exit(0)


def _train(pickled: bytes, command: _Command) -> Outcome:
    import torch

    name_process(TITLE)
    task, files = pickle.loads(pickled)
    return run_worker(task, files, command, rank=0, world_size=1, device=torch.device("cpu"))


class _Command:
    """The command, as the worker sees it: the board of its run."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers

    def post(self, message: bytes) -> None:
        write_message(self._answers, EVENT + message)

    def is_stopped(self) -> bool:
        # Nothing follows the task but the stop, or the command's end.
        waiting = select.poll()
        waiting.register(0, select.POLLIN)
        return bool(waiting.poll(0))

"""The training worker in a process of this machine: a fork of one that has imported everything.

The command sends the task, and later nothing but a wish to stop. Answers are JSON, and no pickles: a decoder that was
taken over must not get at the command.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import tempfile
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from imgcls_ray.train.task import EVENT, TITLE
from imgcls_ray.train.worker import run_worker
from imgcls_ray.workers.child import name_process, open_streams, read_message, write_message
from imgcls_ray.workers.forks import serve_forks
from imgcls_ray.workers.local_worker import DONE, FAILED, write_failure
from imgcls_ray.workers.without_pandas import spare_pandas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.train.task import Outcome

# The address of a socket has at most 107 bytes, and multiprocessing's are "pymp-XXXXXXXX/listener-XXXXXXXX" there.
_MAX_FOLDER_BYTES = 107 - len("/pymp-12345678/listener-12345678")


def serve() -> None:
    """Be the process that the worker is forked from, and another one in its place if it dies."""
    serve_forks(_prepare)
    # Nothing is left to be done, and the end of an interpreter that holds torch takes a moment.
    os._exit(0)


def _prepare() -> Callable[[], None]:
    # Before anything is given to Arrow: else each loading process would import pandas for itself.
    spare_pandas()
    # What the worker and its loading processes import when they need it.
    import timm.optim  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    return _serve


def _serve() -> None:
    # What comes after the task must stay where ``is_stopped`` looks for it.
    messages, answers = open_streams(buffered=False)
    if (pickled := read_message(messages)) is None:
        return
    try:
        answer = DONE + json.dumps(asdict(_train(pickled, _Command(messages, answers)))).encode()
    except BaseException as error:
        answer = FAILED + write_failure(error)
    write_message(answers, answer)
    # Loading processes end with this one, and all that it has to free goes at once.
    os._exit(0)


def _train(pickled: bytes, command: _Command) -> Outcome:
    import torch

    name_process(TITLE)
    task, files, folder = pickle.loads(pickled)
    _keep_temporary_files_in(folder)
    return run_worker(task, files, command, rank=0, world_size=1, device=torch.device("cpu"))


def _keep_temporary_files_in(folder: Path) -> None:
    """Of this process and its loading processes: none of these, if it is killed, removes the folders of its sockets.

    Args:
        folder: of the command, which removes it at its end.
    """
    if len(os.fsencode(folder)) <= _MAX_FOLDER_BYTES:
        # The variable is for processes that are not forks of this one.
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


class _Command:
    """The command, as the worker sees it: the board of its run."""

    def __init__(self, messages: IO[bytes], answers: IO[bytes]) -> None:
        self._messages, self._answers = messages, answers

    def post(self, message: bytes) -> None:
        write_message(self._answers, EVENT + message)

    def is_stopped(self) -> bool:
        # Nothing follows the task but the stop, or the command's end.
        waiting = select.poll()
        waiting.register(self._messages, select.POLLIN)
        return bool(waiting.poll(0))

"""A worker in a process of this machine: the blocks come from its parent, which is told what it begins and what it did.

Messages to the parent are plain bytes, JSON and tables of Arrow, which it parses: a decoder that was taken over must
not get at its parent through a pickle.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from imgcls_ray import errors
from imgcls_ray.errors import ImgclsError, JobFailedError
from imgcls_ray.images.resize import load_resizer
from imgcls_ray.words import shortened
from imgcls_ray.workers.child import name_process, open_streams, read_message, write_message
from imgcls_ray.workers.forks import serve_forks
from imgcls_ray.workers.packing import from_ipc, to_ipc
from imgcls_ray.workers.without_pandas import spare_pandas
from imgcls_ray.workers.worker import Block, BlockWorker, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.workers.board import Stage

BLOCKS_IN_HAND = 2
"""One computes, one waits for storage. More would only be more to do again after a death."""
TITLE = "imgcls-worker"
"""Of a process that does blocks, for ``ps``."""
MAX_WORDS_BYTES = 64 * 2**10
"""Of an account of a failure."""
_MAX_FOREIGN_WORDS = 500

# The first byte of a message. What a process is for, in the first one that it gets:
CALL, WORK = b"c", b"w"
# What a worker gets after that. A block has before it how many workers have died over it:
BLOCK, STOP = b"b", b"s"
NUM_DEATHS = struct.Struct("<I")
# What it says; of a function that was called, DONE with what it returned, or FAILED:
READY, BEGUN, ENDED, DONE, FAILED = b"r", b"b", b"e", b"d", b"f"

# Where the system runs out of memory, a worker goes before the command, and a decoder process of its own before it.
_OOM_SCORE = "500"


def serve_workers(load: Callable[[], object] | None = None) -> NoReturn:
    """Be the process that workers are forked from; it has imported what called this, and so what they need.

    Args:
        load: loads what else they need, and starts no thread.
    """

    def prepare() -> Callable[[], None]:
        # Besides this process's one thread there is one of Arrow's allocator, which stops and starts it around a fork.
        spare_pandas()
        load_resizer()
        if load is not None:
            load()
        return _serve

    serve_forks(prepare)
    # Nothing is left to be done, and the end of an interpreter with many libraries takes a moment.
    os._exit(0)


def _serve() -> None:
    """Be what the first message says."""
    messages, answers = open_streams()
    if (message := read_message(messages)) is None:
        return
    if message[:1] == CALL:
        write_message(answers, _call(message[1:]))
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    _do_blocks(pickle.loads(message[1:]), messages, _Parent(answers))


def _call(pickled: bytes) -> bytes:
    try:
        return DONE + json.dumps(pickle.loads(pickled)()).encode()
    except BaseException as error:
        return FAILED + write_failure(error)


class _Parent:
    """Who gets to know what this worker does: the board of ``BlockWorker``, on whose far side the parent counts."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self.num_deaths: dict[str, int] = {}
        """By the name of a block."""
        self.stopped = False

    def tell(self, kind: bytes, content: bytes = b"") -> None:
        try:
            with self._lock:
                write_message(self._answers, kind + content)
        except OSError:  # nobody is there to do anything for
            os._exit(1)

    def begin(self, stage: Stage, unit: str) -> int:
        # The kernel has this before the work begins: a death now is told all the same.
        self.tell(BEGUN, json.dumps([stage, unit]).encode())
        return self.num_deaths.pop(unit)

    def end(self, stage: Stage, unit: str) -> None:
        self.tell(ENDED, json.dumps([stage, unit]).encode())

    def is_stopped(self) -> bool:
        return self.stopped


def _do_blocks(make_work: Callable[[], Work[Any, Any]], messages: IO[bytes], parent: _Parent) -> NoReturn:
    """Do blocks until the parent is gone, or ends this process."""
    try:
        worker = BlockWorker(make_work, parent, lambda: str(os.getpid()))
    except BaseException as error:
        parent.tell(FAILED, write_failure(error))
        os._exit(1)

    def do(block: Block) -> None:
        try:
            done = worker.run(block)
        except BaseException as error:
            parent.tell(FAILED, write_failure(error))
        else:
            parent.tell(DONE, to_ipc(done.to_table()))

    name_process(TITLE)
    parent.tell(READY)
    executor = ThreadPoolExecutor(BLOCKS_IN_HAND, thread_name_prefix="block")
    while (message := read_message(messages)) is not None:
        if message[:1] == STOP:
            parent.stopped = True
            continue
        block = Block.from_table(from_ipc(message[1 + NUM_DEATHS.size :]))
        (parent.num_deaths[block.name],) = NUM_DEATHS.unpack_from(message, 1)
        executor.submit(do, block)
    os._exit(0)


def write_failure(error: BaseException) -> bytes:
    """Why a worker cannot go on, for its parent."""
    kind = type(error).__name__
    # Ours are one line with the way out. Those of libraries may hold a whole traceback, which the cause has anyway.
    words = str(error) if isinstance(error, ImgclsError) else shortened(f"{kind}: {error}", _MAX_FOREIGN_WORDS)
    trace = "".join(traceback.format_exception(error))[-MAX_WORDS_BYTES // 8 :]
    return json.dumps({"kind": kind, "words": words[: MAX_WORDS_BYTES // 8], "trace": trace}).encode()


def read_failure(told: bytes, before: str = "", after: str = "") -> ImgclsError:
    """What ``write_failure`` wrote, as the error that ends the job: of the kind of the worker's own, if it is ours.

    Its cause has the worker's traceback.

    Args:
        told: by a worker.
        before, after: for people, around what it says.
    """
    failure = json.loads(told)
    kind = getattr(errors, failure["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, ImgclsError)):
        kind = JobFailedError
    error = kind(f"{before}{' '.join(failure['words'].split())}{after}")
    error.__cause__ = RuntimeError(failure["trace"])
    return error

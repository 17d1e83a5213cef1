"""What workers of this machine are told to do in tests: a block's content says it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import ModelFolderError, StorageError
from imgcls_ray.storage import FetchLimits
from imgcls_ray.workers.fetching import any_version
from imgcls_ray.workers.local_pool import LocalPool
from imgcls_ray.workers.local_worker import serve_workers
from imgcls_ray.workers.worker import Block, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from imgcls_ray.errors import ImageError
    from imgcls_ray.models.classifier import StageSeconds


def serve_works() -> None:
    """The process that the workers are forked from."""
    serve_workers()


def pool_of(num_workers: int) -> LocalPool:
    return LocalPool(serve_works.__module__, serve_works.__name__, num_workers)


def block(number: int, do: str = "", **content: object) -> Block:
    """A block that does something: ``die``, ``fail``, ``bug``, ``print``, ``wait`` or nothing."""
    columns = {"number": [number], "do": [do], **{key: [value] for key, value in content.items()}}
    return Block(number, f"block-{number}", f"block {number}", pa.table(columns))


class Told(Work[bytes, dict[str, Any]]):
    """Does what a block's content says, and says who did it.

    Args:
        log: a folder; each block that is begun leaves a line in a file of its own there.
    """

    fetch_limits = FetchLimits()

    def __init__(self, log: str) -> None:
        self._log, self._is_careful = Path(log), False

    def rows(self, content: pa.Table) -> pa.Table:
        if content["do"][0].as_py() == "die early":
            os.kill(os.getpid(), signal.SIGKILL)
        return any_version(pa.array([], pa.string()))

    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[bytes], bytes | ImageError]]:
        self._is_careful = careful
        return nullcontext(lambda data: data)

    def compute(
        self, content: pa.Table, inputs: Iterable[bytes | ImageError], _seconds: StageSeconds
    ) -> dict[str, Any]:
        [row] = content.to_pylist()
        assert list(inputs) == []
        with (self._log / str(row["number"])).open("a") as file:
            file.write(f"{os.getpid()}\n")
        self._do(row)
        return {"number": row["number"], "pid": os.getpid(), "careful": self._is_careful, "data": row.get("data")}

    def _do(self, row: dict[str, Any]) -> None:
        num_before = len((self._log / str(row["number"])).read_text().split()) - 1
        if row["do"] == "die" and num_before < row.get("times", 99):
            os.kill(os.getpid(), signal.SIGKILL)
        elif row["do"] == "fail":
            raise StorageError("the disk is full; make room")
        elif row["do"] == "bug":
            raise TypeError("nobody thought\nof this")
        elif row["do"] == "print":
            print("a library prints", flush=True)
            os.write(1, b"and in C, too\n")
        elif row["do"] == "wait":
            until(self._log / "go")

    def commit(self, _content: pa.Table, _rows: pa.Table, result: dict[str, Any], _seconds: StageSeconds) -> pa.Table:
        return pa.table({key: [value] for key, value in result.items()})


def until(path: Path) -> None:
    """Wait for a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def no_model() -> Told:
    raise ModelFolderError("model: there is no such model folder")


def no_memory() -> Told:
    """As the kernel ends a process for whose model there is no memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def one_has_memory(log: str) -> Told:
    """The first worker that comes has memory, no other."""
    try:
        (Path(log) / "taken").touch(exist_ok=False)
    except FileExistsError:
        return no_memory()
    return Told(log)


def convert(path: str) -> list[str]:
    """What a pool calls in a process of its own."""
    Path(path).write_text(str(os.getpid()))
    return ["converted", path]


def fail_to_convert() -> None:
    raise StorageError("the cache is full; make room")


def die_converting() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(log: str) -> None:
    """A command that waits for its workers: of which one is at work for a minute, and one has nothing to do."""
    pool = pool_of(2)
    with pool:
        for _ in pool.run([block(0, "wait"), block(1, "wait")], partial(Told, log)):
            pass

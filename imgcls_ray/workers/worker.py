"""The worker of every bulk job: it reads ahead, decodes, computes and commits blocks, and survives bad ones.

A job says what it does with a block (``Work``). Who starts the worker and hands it blocks does not matter here: it gets
a board, on which deaths are counted and a stop is asked for, and a way to say its name. ``local_pool`` runs it in
processes of this machine, ``ray_pool`` as actors.

A block begins and ends with waiting for storage; so two are in hand at once, and one of them computes.
"""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa

from imgcls_ray.errors import ImageError, JobFailedError
from imgcls_ray.models.classifier import ModelInput, StageSeconds, decode_model_inputs
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, fetch_inputs
from imgcls_ray.workers.packing import from_ipc, pack_inputs, pixel_column, to_ipc, unpack_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from imgcls_ray.errors import ImageErrorCode
    from imgcls_ray.images.crops import Crop
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.workers.board import Stage

CAREFUL_AFTER_DEATHS = 2
"""Once may be the machine's fault (memory, a lost node); a block that has ended two workers is decoded with care."""
MAX_DEATHS_OF_BLOCK = 5
"""Then it is not the decoding, and going on would be for ever."""

D = TypeVar("D")
R = TypeVar("R")


@dataclass(frozen=True)
class Decoded:
    """The images of a block on their way from the worker that decoded them to the one that classifies them."""

    images: list[dict[str, Any]]
    """Of each image, good or not, as ``pack_inputs`` gives it."""
    size: int
    """Sides of the decoded images, pixels."""
    seconds: StageSeconds
    pixels: pa.Array | pa.ChunkedArray
    """One value, as ``pixel_column`` gives it."""


@dataclass(frozen=True)
class Block:
    """What a worker does in one go, whole, and what is done again if the worker dies."""

    number: int
    """The driver's, by which it knows what is done."""
    name: str
    """On the board."""
    title: str
    """For people: ``unit 3 of run 0001``."""
    content: pa.Table
    """The job's own: at first what is to be done, at last what came of it."""
    is_done: bool = False
    """Another worker had done it: ``content`` is what came of it."""
    skipped_by: tuple[str, ...] = ()
    """Names of the workers that did not begin it, because the command is stopping."""
    decoded: Decoded | None = None

    def to_table(self) -> pa.Table:
        """The block as one row, so that nothing can cut it."""
        decoded = self.decoded
        about = decoded and {"images": decoded.images, "size": decoded.size, "seconds": asdict(decoded.seconds)}
        return pa.table(
            {
                "number": [self.number],
                "name": [self.name],
                "title": [self.title],
                "content": pa.array([to_ipc(self.content)], pa.large_binary()),
                "is_done": [self.is_done],
                "skipped_by": pa.array([self.skipped_by], pa.list_(pa.string())),
                "decoded": [json.dumps(about)],
                "pixels": decoded.pixels if decoded else pixel_column(None),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Block:
        [row] = table.drop_columns(["pixels"]).to_pylist()
        about = json.loads(row.pop("decoded"))
        decoded = about and Decoded(**{**about, "seconds": StageSeconds(**about["seconds"])}, pixels=table["pixels"])
        row |= {"content": from_ipc(row["content"]), "skipped_by": tuple(row["skipped_by"])}
        return cls(**row, decoded=decoded)


def block_of_entries(entries: pa.Table) -> Block:
    """Consecutive entries of a dataset as a block; columns ``number``, which counts from 0, and ``uri``."""
    number = entries["number"][0].as_py()
    title = f"the block of {len(entries)} images from {entries['uri'][0].as_py()} on"
    return Block(number, f"block-{number}", title, entries)


class Work(ABC, Generic[D, R]):
    """What a job does with a block. Each worker makes its own, in its process: a model takes seconds to load.

    ``D`` is a decoded image, ``R`` what is left to commit.
    """

    fetch_limits: FetchLimits

    def done_before(self, content: pa.Table) -> pa.Table | None:
        """What came of a block that another worker has done; None if it is to be done."""
        return None

    @abstractmethod
    def rows(self, content: pa.Table) -> pa.Table:
        """Which images to read: columns ``uri``, ``etag`` and ``size``."""

    @abstractmethod
    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[Any], D | ImageError]]:
        """The ordinary way to decode, or the one that survives every image."""

    def decode(
        self,
        encoded: Iterator[bytes | Crop | ImageError],
        decode: Callable[[Any], D | ImageError],
        seconds: StageSeconds,
        *,
        careful: bool,
    ) -> Iterator[D | ImageError]:
        """Decode images in order with what ``decoder`` gave, one result each."""
        del careful  # in the caller's thread one way is as good as the other
        return decode_model_inputs(encoded, decode, seconds)

    def check(self, rows: pa.Table, errors: Sequence[ImageErrorCode | None]) -> None:
        """End the job where errors mean that more is wrong than images; one for each row."""

    @abstractmethod
    def compute(self, content: pa.Table, inputs: Iterator[D | ImageError], seconds: StageSeconds) -> R:
        """What needs cores. No other block of this worker is computed meanwhile."""

    @abstractmethod
    def commit(self, content: pa.Table, rows: pa.Table, result: R, seconds: StageSeconds) -> pa.Table:
        """Make the result durable, if it is to be. The next block computes meanwhile.

        Returns:
            What the driver gets.
        """


class AnyBoard(Protocol):
    """What a worker needs of a board."""

    def begin(self, stage: Stage, unit: str) -> int:
        """Note that a block begins; how many workers have died over it."""

    def end(self, stage: Stage, unit: str) -> None:
        """Note that it ended."""

    def is_stopped(self) -> bool:
        """Whether nothing more is to be begun."""


class BlockWorker(Generic[D, R]):
    """Does blocks from their first byte to their commit, on one core or on several, as its work does.

    Two threads may call it at once.

    Args:
        make_work: what it does with a block.
        board: shared by all workers of a command.
        name: says which of them this is.
    """

    stage: ClassVar[Stage] = "label"

    def __init__(self, make_work: Callable[[], Work[D, R]], board: AnyBoard, name: Callable[[], str]) -> None:
        self._work, self._board, self._name = make_work(), board, name
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")
        # Computing one block takes all cores of a worker, so it is one block at a time; and one at a time it must be,
        # because the classifier is called by one thread, and a death is to be blamed on as few blocks as possible.
        # Reentrant: who finds that the command stops may hold it already.
        self._computing = threading.RLock()
        self._committing = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.run(Block.from_table(table)).to_table()

    def run(self, block: Block) -> Block:
        """Do a block.

        Raises:
            JobFailedError: it has ended too many workers.
        """
        if block.is_done:
            return block
        if self._is_to_skip(block):
            return self._skip(block)
        work, decoded = self._work, block.decoded
        if decoded is None and (content := work.done_before(block.content)) is not None:
            return replace(block, content=content, is_done=True)
        rows = work.rows(block.content)
        seconds = StageSeconds() if decoded is None else decoded.seconds
        encoded = fetch_inputs(rows, work.fetch_limits, self._executor) if decoded is None else iter(())
        with ExitStack() as commit:
            with self._computing:
                if self._is_to_skip(block):
                    return self._skip(block)
                careful = self._begin(block) >= CAREFUL_AFTER_DEATHS
                if decoded is None:
                    result = self._decode_and_compute(block, rows, encoded, seconds, careful=careful)
                else:
                    inputs: Any = unpack_inputs(decoded.images, decoded.pixels, decoded.size)
                    result = self._compute(block, rows, inputs, seconds)
                # Before the next block may compute, so that at every moment a block in hand is in one of the two.
                commit.enter_context(self._committing)
            block = self._commit(block, rows, result, seconds)
            self._board.end(self.stage, block.name)
        return block

    def _is_to_skip(self, block: Block) -> bool:
        # What is decoded was begun: it is brought to its end.
        return bool(block.skipped_by) or (block.decoded is None and self._board.is_stopped())

    def _skip(self, block: Block) -> Block:
        """Leave a block, and say so when everything that this worker has begun is durable."""
        with self._computing, self._committing:
            return replace(block, skipped_by=(*block.skipped_by, self._name()))

    def _begin(self, block: Block) -> int:
        num_deaths = self._board.begin(self.stage, block.name)
        if num_deaths >= MAX_DEATHS_OF_BLOCK:
            raise JobFailedError(too_many_deaths(block.title, num_deaths))
        return num_deaths

    def _decode_and_compute(
        self,
        block: Block,
        rows: pa.Table,
        encoded: Iterator[bytes | Crop | ImageError],
        seconds: StageSeconds,
        *,
        careful: bool,
    ) -> R:
        errors: list[ImageErrorCode | None] = []
        with self._work.decoder(careful=careful) as decode:
            inputs = self._work.decode(_timed(encoded, seconds), decode, seconds, careful=careful)
            result = self._compute(block, rows, _noted(inputs, errors), seconds)
        self._work.check(rows, errors)
        return result

    def _compute(self, block: Block, _rows: pa.Table, inputs: Iterator[D | ImageError], seconds: StageSeconds) -> R:
        return self._work.compute(block.content, inputs, seconds)

    def _commit(self, block: Block, rows: pa.Table, result: R, seconds: StageSeconds) -> Block:
        return replace(block, content=self._work.commit(block.content, rows, result, seconds), decoded=None)


class BlockDecoder(BlockWorker[ModelInput, Any]):
    """Reads and decodes blocks on one core, for a ``BlockClassifier`` elsewhere."""

    stage = "decode"

    def _compute(
        self, _block: Block, rows: pa.Table, inputs: Iterator[ModelInput | ImageError], seconds: StageSeconds
    ) -> Decoded:
        pixels, images = pack_inputs(inputs, rows.num_rows)
        return Decoded(images, pixels.shape[1], seconds, pixel_column(pixels))

    def _commit(self, block: Block, _rows: pa.Table, decoded: Decoded, _seconds: StageSeconds) -> Block:
        return replace(block, decoded=decoded)


class BlockClassifier(BlockWorker[ModelInput, R]):
    """Classifies and commits decoded blocks on one GPU."""

    stage = "classify"


def too_many_deaths(title: str, num_deaths: int) -> str:
    """Why a block is given up, for people."""
    return (
        f"{title} has ended its worker {num_deaths} times, also when its images were decoded in a process of their own"
    )


def _timed(contents: Iterator[bytes | Crop | ImageError], seconds: StageSeconds) -> Iterator[bytes | Crop | ImageError]:
    while True:
        start = time.perf_counter()
        data = next(contents, None)
        seconds.fetch += time.perf_counter() - start
        if data is None:
            return
        yield data


def _noted(inputs: Iterator[D | ImageError], errors: list[ImageErrorCode | None]) -> Iterator[D | ImageError]:
    for item in inputs:
        errors.append(item.code if isinstance(item, ImageError) else None)
        yield item

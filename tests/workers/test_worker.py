"""The one worker, without Ray: whose turn it is, what deaths change, what a stop leaves, and blocks on their way."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode, JobFailedError
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.storage import FetchLimits
from imgcls_ray.workers.fetching import any_version
from imgcls_ray.workers.worker import (
    Block,
    BlockClassifier,
    BlockDecoder,
    BlockWorker,
    Work,
    block_of_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from imgcls_ray.models.classifier import StageSeconds
    from imgcls_ray.workers.board import Stage

SIZE = 4


@dataclass
class OwnBoard:
    """Keeps what it is told; ``num_deaths`` before the first block is begun."""

    num_deaths: int = 0
    stopped: bool = False
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    def begin(self, stage: Stage, unit: str) -> int:
        self.notes.append(("begin", stage, unit))
        return self.num_deaths

    def end(self, stage: Stage, unit: str) -> None:
        self.notes.append(("end", stage, unit))

    def is_stopped(self) -> bool:
        return self.stopped


class Lengths(Work[ModelInput, list[int]]):
    """Counts the bytes of each image: a picture of one value, as large as the file has bytes."""

    fetch_limits = FetchLimits()

    def __init__(self, **hooks: Callable[[int], None]) -> None:
        self.hooks = hooks
        self.was_careful: list[bool] = []
        self.checked: list[list[ImageErrorCode | None]] = []

    def _reach(self, step: str, content: pa.Table) -> None:
        if hook := self.hooks.get(step):
            hook(content["number"][0].as_py())

    def done_before(self, content: pa.Table) -> pa.Table | None:
        return content.select(["number"]) if "done" in content.column_names else None

    def rows(self, content: pa.Table) -> pa.Table:
        self._reach("rows", content)
        return any_version(content["uri"])

    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[bytes], ModelInput | ImageError]]:
        self.was_careful.append(careful)
        return nullcontext(lambda data: ModelInput(np.full((SIZE, SIZE, 3), len(data), np.uint8), len(data), 1))

    def check(self, _rows: pa.Table, errors: Sequence[ImageErrorCode | None]) -> None:
        self.checked.append(list(errors))

    def compute(
        self, content: pa.Table, inputs: Iterable[ModelInput | ImageError], _seconds: StageSeconds
    ) -> list[int]:
        self._reach("compute", content)
        return [-1 if isinstance(item, ImageError) else int(item.pixels[0, 0, 0]) for item in inputs]

    def commit(self, content: pa.Table, rows: pa.Table, lengths: list[int], _seconds: StageSeconds) -> pa.Table:
        self._reach("commit", content)
        assert len(rows) == len(lengths)
        return pa.table({"length": lengths})


@pytest.fixture
def block_of(tmp_path: Path) -> Callable[..., Block]:
    """A block of files with so many bytes; none for 0."""

    def make(*lengths: int, number: int = 0) -> Block:
        for length in filter(None, lengths):
            (tmp_path / f"{length}").write_bytes(b"x" * length)
        return block_of_entries(
            pa.table(
                {
                    "number": range(number, number + len(lengths)),
                    "uri": [str(tmp_path / str(length or "none")) for length in lengths],
                }
            )
        )

    return make


def worker(
    work: Lengths, board: Any = None, kind: type[BlockWorker[Any, Any]] = BlockWorker, name: str = "me"
) -> BlockWorker[ModelInput, list[int]]:
    return kind(lambda: work, board or OwnBoard(), lambda: name)


def through_ray(block: Block) -> Block:
    """As a row of a table that another process reads."""
    sink = pa.BufferOutputStream()
    table = block.to_table()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Block.from_table(pa.ipc.open_stream(sink.getvalue()).read_all())


def test_what_comes_back_is_the_commits_table_under_the_blocks_number(block_of: Callable[..., Block]) -> None:
    board, work = OwnBoard(), Lengths()
    done = Block.from_table(worker(work, board)(block_of(3, 0, 5, number=7).to_table()))
    assert done.content.to_pydict() == {"length": [3, -1, 5]}
    assert (done.number, done.is_done, done.skipped_by, done.decoded) == (7, False, (), None)
    assert board.notes == [("begin", "label", "block-7"), ("end", "label", "block-7")]
    assert work.checked == [[None, ImageErrorCode.NOT_FOUND, None]]


def test_images_that_another_worker_decoded_are_classified_as_ones_own(block_of: Callable[..., Block]) -> None:
    board, decoding, classifying = OwnBoard(), Lengths(), Lengths()
    decoded = through_ray(worker(decoding, board, BlockDecoder).run(block_of(3, 0, 5)))
    assert decoded.decoded is not None
    done = through_ray(worker(classifying, board, BlockClassifier).run(decoded))
    assert done.content.to_pydict() == {"length": [3, -1, 5]}
    assert done.decoded is None
    assert [note[:2] for note in board.notes] == [
        ("begin", "decode"),
        ("end", "decode"),
        ("begin", "classify"),
        ("end", "classify"),
    ]
    assert (len(decoding.checked), len(classifying.checked)) == (1, 0)


def test_a_block_without_one_good_image_is_classified_too(block_of: Callable[..., Block]) -> None:
    decoded = through_ray(worker(Lengths(), None, BlockDecoder).run(block_of(0, 0)))
    assert worker(Lengths(), None, BlockClassifier).run(decoded).content.to_pydict() == {"length": [-1, -1]}


@pytest.mark.parametrize(("num_deaths", "careful"), [(0, False), (1, False), (2, True), (4, True)])
def test_after_two_deaths_images_are_decoded_with_care(
    block_of: Callable[..., Block], num_deaths: int, careful: bool
) -> None:
    work = Lengths()
    worker(work, OwnBoard(num_deaths)).run(block_of(3))
    assert work.was_careful == [careful]


@pytest.mark.parametrize("kind", [BlockWorker, BlockDecoder, BlockClassifier])
def test_after_five_deaths_a_block_is_given_up(
    block_of: Callable[..., Block], kind: type[BlockWorker[Any, Any]]
) -> None:
    block = block_of(3, 5)
    if kind is BlockClassifier:
        block = worker(Lengths(), None, BlockDecoder).run(block)
    with pytest.raises(
        JobFailedError,
        match=r"^the block of 2 images from .*/3 on has ended its worker 5 times, also when its images were decoded "
        r"in a process of their own$",
    ):
        worker(Lengths(), OwnBoard(5), kind).run(block)


def test_one_computes_while_the_other_reads_or_commits(block_of: Callable[..., Block]) -> None:
    """Whichever computes first is held in its commit until the other computes."""
    commits, computes = threading.Event(), threading.Event()
    computed: list[int] = []

    def on_compute(number: int) -> None:
        computed.append(number)
        if len(computed) == 2:
            assert commits.wait(10), "the first has not come to its commit"
            computes.set()

    def on_commit(number: int) -> None:
        if number == computed[0]:
            commits.set()
            assert computes.wait(10), "the second waits for the first one's commit before it computes"

    own = worker(Lengths(compute=on_compute, commit=on_commit))
    assert lengths_of(own, [block_of(3, number=0), block_of(5, number=10)]) == [[3], [5]]


def test_two_never_compute_at_once_nor_commit_at_once(block_of: Callable[..., Block]) -> None:
    locks = {step: threading.Lock() for step in ("compute", "commit")}

    def alone(step: str) -> Callable[[int], None]:
        def hook(_number: int) -> None:
            assert locks[step].acquire(blocking=False), f"two {step} at once"
            threading.Event().wait(0.02)
            locks[step].release()

        return hook

    own = worker(Lengths(compute=alone("compute"), commit=alone("commit")))
    blocks = [block_of(3, number=number) for number in range(6)]
    assert lengths_of(own, blocks) == [[3]] * 6


def lengths_of(own: BlockWorker[ModelInput, list[int]], blocks: list[Block]) -> list[list[int]]:
    """Run blocks as an actor does, two threads at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as executor:
        return [done.content["length"].to_pylist() for done in executor.map(own.run, blocks)]


def test_a_stop_leaves_what_was_not_begun(block_of: Callable[..., Block]) -> None:
    board, work = OwnBoard(stopped=True), Lengths()
    skipped = through_ray(worker(work, board).run(block_of(3)))
    assert skipped.skipped_by == ("me",)
    assert (board.notes, work.was_careful) == ([], [])


def test_a_stop_while_a_block_waits_for_its_turn_leaves_it(block_of: Callable[..., Block]) -> None:
    board = OwnBoard()

    def stop(_number: int) -> None:
        board.stopped = True

    assert worker(Lengths(rows=stop), board).run(block_of(3)).skipped_by == ("me",)
    assert board.notes == []


def test_a_worker_says_that_it_skips_when_what_it_began_is_committed(block_of: Callable[..., Block]) -> None:
    board, committed = OwnBoard(), threading.Event()
    skipped: list[bool] = []

    def on_commit(_number: int) -> None:
        board.stopped = True
        other.start()
        threading.Event().wait(0.2)
        committed.set()

    own = worker(Lengths(commit=on_commit), board)
    late = block_of(5, number=10)
    other = threading.Thread(target=lambda: skipped.append(bool(own.run(late).skipped_by) and committed.is_set()))
    assert own.run(block_of(3)).content.to_pydict() == {"length": [3]}
    other.join(10)
    assert skipped == [True]


def test_a_stop_lets_decoded_images_be_classified_and_names_both_who_skip(block_of: Callable[..., Block]) -> None:
    decoded = worker(Lengths(), None, BlockDecoder).run(block_of(3))
    board = OwnBoard(stopped=True)
    classifier = worker(Lengths(), board, BlockClassifier, "second")
    assert classifier.run(decoded).content.to_pydict() == {"length": [3]}
    skipped = worker(Lengths(), board, BlockDecoder, "first").run(block_of(5))
    assert classifier.run(through_ray(skipped)).skipped_by == ("first", "second")


def test_what_was_done_before_is_not_begun_and_passes_every_worker(block_of: Callable[..., Block]) -> None:
    board, block = OwnBoard(), block_of(3, number=4)
    block = replace(block, content=block.content.append_column("done", [[True]]))
    done = through_ray(worker(Lengths(), board, BlockDecoder).run(block))
    done = through_ray(worker(Lengths(), board, BlockClassifier).run(done))
    assert (done.is_done, done.content.to_pydict()) == (True, {"number": [4]})
    assert board.notes == []

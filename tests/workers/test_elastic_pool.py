"""The pieces of an elastic pool on Ray: its sizes, copies of slow blocks, and how a stop ends it."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from imgcls_ray.errors import JobFailedError
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.storage import FetchLimits
from imgcls_ray.workers import board as boards
from imgcls_ray.workers import ray_nodes, ray_pool, ray_worker
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.plan import Elastic, WorkerPlan
from imgcls_ray.workers.ray_attempts import outlive_deaths
from imgcls_ray.workers.ray_nodes import new_nodes_used_soon
from imgcls_ray.workers.ray_pool import Joined, RayPool, _attempt, _groups_of_copies, _pool_sizes, _until_stopped
from imgcls_ray.workers.ray_worker import NEEDLESS, RayBlockDecoder, RayBlockWorker, as_task, from_task
from imgcls_ray.workers.worker import Block, Decoded, Work
from tests.workers.survival import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

BLOCKS = [Block(i, f"block-{i}", f"block {i}", pa.table({"number": [i]})) for i in range(4)]


class Notes:
    """A board in this process."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.hand: dict[str, str] = {}
        self.done: set[tuple[str, str]] = set()
        self.stopped = False

    def begin(self, _stage: str, unit: str) -> int:
        self.begun.append(unit)
        return self.begun.count(unit) - 1

    def end(self, stage: str, unit: str) -> None:
        pass

    def join(self, stage: str, worker: str) -> None:
        pass

    def take(self, unit: str, node: str) -> None:
        self.hand[unit] = node

    def leave(self, unit: str) -> None:
        self.hand.pop(unit, None)

    def nodes_at_work(self) -> Iterator[str]:
        yield from self.hand.values()

    def note_done(self, stage: str, unit: str) -> None:
        self.done.add((stage, unit))

    def is_done(self, stage: str, unit: str) -> bool:
        return (stage, unit) in self.done

    def is_stopped(self) -> bool:
        return self.stopped


class Count(Work[Any, int]):
    """Counts how often it computes; waits for a gate, if there is one."""

    fetch_limits = FetchLimits()

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.num_computed, self.gate = 0, gate
        self.is_computing = threading.Event()

    def rows(self, content: pa.Table) -> pa.Table:
        return pa.table({name: pa.array([], pa.string()) for name in ("uri", "etag", "size")})

    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[bytes], Any]]:
        return nullcontext(lambda data: data)

    def compute(self, content: pa.Table, inputs: Any, seconds: Any) -> int:
        self.is_computing.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        self.num_computed += 1
        return self.num_computed

    def commit(self, content: pa.Table, rows: pa.Table, result: int, seconds: Any) -> pa.Table:
        return content


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr(ray_worker, "node_id", lambda: "here")
    monkeypatch.setattr(ray_worker, "load_resizer", lambda: None)
    return Notes()


def worker_of(work: Count, notes: Any) -> RayBlockWorker[Any, Any]:
    return RayBlockWorker(lambda: work, notes, lambda: "worker")


def run_task(worker: RayBlockWorker[Any, Any], *blocks: Block, is_copy: bool = False) -> list[Block]:
    """What comes back of a task."""
    back = list(from_task(worker(as_task(*blocks, is_copy=is_copy))))
    assert {told for _, told in back} == {is_copy}
    return [block for block, _ in back]


def test_a_block_is_in_hand_from_before_the_worker_looks_for_a_stop(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def look() -> bool:
        seen.append(dict(notes.hand))
        return False

    monkeypatch.setattr(notes, "is_stopped", look)
    [back] = run_task(worker_of(Count(), notes), BLOCKS[0])
    assert seen
    assert all(hand == {"block-0": "here"} for hand in seen)
    # The driver takes the note back, when it has the block.
    assert (back.number, notes.hand) == (0, {"block-0": "here"})


def test_a_block_that_a_stop_skips_was_never_begun(notes: Notes) -> None:
    notes.stopped = True
    [back] = run_task(worker_of(Count(), notes), BLOCKS[0])
    assert (back.skipped_by, notes.begun, notes.done) == (("worker",), [], set())


def test_a_copy_of_a_done_block_is_needless(notes: Notes) -> None:
    notes.note_done("label", "block-0")
    worker = worker_of(work := Count(), notes)
    [back] = run_task(worker, BLOCKS[0], is_copy=True)
    assert (back.number, back.skipped_by, work.num_computed) == (0, (NEEDLESS,), 0)


def test_a_copy_of_a_block_that_is_not_done_is_done_and_counts_no_death(notes: Notes) -> None:
    notes.begin("label", "block-0")  # by the slow worker
    worker = worker_of(work := Count(), notes)
    [back] = run_task(worker, BLOCKS[0], is_copy=True)
    assert (back.number, back.name, back.skipped_by, work.num_computed) == (0, "block-0", (), 1)
    assert notes.begun.count("block-0") == 1


def test_a_copy_is_in_hand_beside_its_block_from_before_the_worker_looks_for_a_stop(notes: Notes) -> None:
    notes.take("block-0", "dead")
    notes.stopped = True
    [back] = run_task(worker_of(work := Count(), notes), BLOCKS[0], is_copy=True)
    assert (back.name, back.skipped_by, work.num_computed) == ("block-0", ("worker",), 0)
    assert notes.hand == {"block-0": "dead", "block-0, copy": "here"}


def test_a_needless_copy_was_never_in_hand(notes: Notes) -> None:
    notes.note_done("label", "block-0")
    run_task(worker_of(Count(), notes), BLOCKS[0], is_copy=True)
    assert notes.hand == {}


def test_a_worker_is_ready_to_resize_before_it_loads_its_model(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(ray_worker, "load_resizer", lambda: events.append("resizer"))

    def make_work() -> Count:
        events.append("work")
        return Count()

    board: Any = notes
    RayBlockWorker(make_work, board, lambda: "worker")
    # An engine of torch's chooses its own threads afterwards.
    assert events == ["resizer", "work"]


def test_a_worker_computes_no_copy_of_what_it_has_in_hand_itself(notes: Notes) -> None:
    gate = threading.Event()
    worker = worker_of(work := Count(gate), notes)
    first = threading.Thread(target=worker, args=(as_task(BLOCKS[0], is_copy=False),))
    first.start()
    assert work.is_computing.wait(30)
    found: list[Block] = []
    second = threading.Thread(target=lambda: found.extend(run_task(worker, BLOCKS[0], is_copy=True)))
    second.start()
    second.join(0.2)
    assert found == []
    gate.set()
    first.join(30)
    second.join(30)
    assert (work.num_computed, found[0].skipped_by) == (1, (NEEDLESS,))


def test_a_decoded_block_is_noted_as_decoded_alone(notes: Any) -> None:
    decoder = RayBlockDecoder(Count, notes, lambda: "worker")
    decoded: Any = Decoded([], 8, StageSeconds(), pa.array([b""]))
    decoder._commit(BLOCKS[0], pa.table({}), decoded, StageSeconds())
    assert notes.done == {("decode", "block-0")}


def test_of_a_group_of_copies_only_what_is_not_done_is_done(notes: Notes) -> None:
    for number in (0, 2, 3):
        notes.note_done("label", f"block-{number}")
    worker = worker_of(work := Count(), notes)
    back = run_task(worker, *BLOCKS, is_copy=True)
    assert [block.number for block in back if not block.skipped_by] == [1]
    assert work.num_computed == 1


@pytest.mark.parametrize(("num_blocks", "num_workers"), [(1, 2), (120, 2), (1000, 2), (1000, 400)])
def test_every_block_has_one_copy_and_the_last_ones_groups_of_their_own(num_blocks: int, num_workers: int) -> None:
    blocks = [replace(BLOCKS[0], number=number) for number in range(num_blocks)]
    groups = _groups_of_copies(blocks, WorkerPlan(num_workers))
    assert sorted(block.number for group in groups for block in group) == list(range(num_blocks))
    in_hand = min(2 * num_workers, num_blocks)
    assert [group[0].number for group in groups[:in_hand]] == list(range(num_blocks))[::-1][:in_hand]
    assert len(groups) <= max(128, in_hand)
    joined = _groups_of_copies(blocks, WorkerPlan(1), num_workers)
    to_join = _groups_of_copies(blocks, WorkerPlan(1, elastic=Elastic(1, num_workers)))
    assert len(joined) == len(to_join) == len(groups)
    with_gpus = _groups_of_copies(blocks, WorkerPlan(num_workers, 1))
    assert {len(group) for group in with_gpus} == {1}


def test_a_block_that_comes_back_twice_counts_once_and_the_last_one_ends_the_run() -> None:
    def run(blocks: Any) -> Generator[Block, None, None]:
        yield from (blocks[0], blocks[1], blocks[1], blocks[3], blocks[2])
        pytest.fail("the run waits for what only a straggler could bring")

    assert [block.number for block in outlive_deaths(BLOCKS, run)] == [0, 1, 3, 2]


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "live_nodes", lambda: frozenset({"here"}))
    monkeypatch.setattr(ray_pool, "_LOOK_EVERY_S", 0.0)


def skipped(*by: str, number: int = 0) -> Block:
    return replace(BLOCKS[number], skipped_by=by)


@pytest.mark.usefixtures("alive")
def test_a_stop_ends_the_run_when_no_live_worker_has_a_block_in_hand() -> None:
    notes: Any = Notes()
    for unit, node in (("block-1", "here"), ("block-2", "dead"), ("block-0", "here")):
        notes.take(unit, node)

    def tasks() -> Iterator[tuple[Block, bool]]:
        yield skipped("one"), False
        yield BLOCKS[1], False
        pytest.fail("the run waits for blocks that are skipped, or for those of a dead node")

    assert list(_until_stopped(tasks(), notes)) == [BLOCKS[1]]


@pytest.mark.usefixtures("alive")
def test_a_stop_waits_until_what_is_durable_has_come_back() -> None:
    notes: Any = Notes()
    notes.take("block-1", "here")
    tasks = [(skipped("one"), False), (skipped("one", number=1), True), (BLOCKS[1], False)]
    assert list(_until_stopped(iter(tasks), notes)) == [BLOCKS[1]]


@pytest.mark.usefixtures("alive")
def test_a_stop_waits_for_the_copy_that_a_live_worker_computes_of_a_dead_nodes_block() -> None:
    notes: Any = Notes()
    notes.take("block-1", "dead")
    notes.take("block-1, copy", "here")
    tasks = [
        (skipped("one"), False),
        # Ray gives the block to another worker again: that it is skipped there says nothing of the copy.
        (skipped("one", number=1), False),
        (BLOCKS[1], True),
    ]
    assert list(_until_stopped(iter(tasks), notes)) == [BLOCKS[1]]
    assert notes.hand == {}


@pytest.mark.usefixtures("alive")
def test_a_stop_does_not_wait_for_a_copy_that_was_skipped() -> None:
    notes: Any = Notes()
    notes.take("block-1", "dead")
    notes.take("block-1, copy", "here")

    def tasks() -> Iterator[tuple[Block, bool]]:
        yield skipped("one", number=1), True
        pytest.fail("the run waits for the block of a dead node")

    assert list(_until_stopped(tasks(), notes)) == []
    assert notes.hand == {"block-1": "dead"}


@pytest.mark.usefixtures("alive")
def test_a_needless_copy_is_no_stop() -> None:
    notes: Any = Notes()
    tasks = [(skipped(NEEDLESS), True), (BLOCKS[1], False)]
    assert list(_until_stopped(iter(tasks), notes)) == [BLOCKS[1]]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """The table of the head node, in this process."""
    table: dict[bytes, bytes] = {}

    def delete(key: bytes, *, by_prefix: bool = False) -> None:
        for each in [each for each in table if (each.startswith(key) if by_prefix else each == key)]:
            del table[each]

    monkeypatch.setattr(boards, "kv_put", table.__setitem__)
    monkeypatch.setattr(boards, "kv_get", table.get)
    monkeypatch.setattr(boards, "kv_list", lambda prefix: [key for key in table if key.startswith(prefix)])
    monkeypatch.setattr(boards, "kv_delete", delete)
    return table


@pytest.mark.usefixtures("table")
def test_an_attempt_begins_without_notes_of_workers_that_are_gone() -> None:
    board, other = Board(), Board()
    other.take("block-0", "elsewhere")
    board.join("label", "one")
    board.take("block-0", "here")
    board.note_done("label", "block-1")
    board.begin("label", "block-0")
    board.stop()
    board.begin_attempt()
    assert (board.num_joined("label"), list(board.nodes_at_work())) == (0, [])
    assert not board.is_done("label", "block-1")
    # Deaths are counted over all attempts, and a stop is one for all.
    assert board.begin("label", "block-0") == 1
    assert board.is_stopped()
    assert list(other.nodes_at_work()) == ["elsewhere"]


def test_a_plan_has_the_most_workers_of_any_attempt_and_the_table_is_asked_now_and_then(
    table: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("imgcls_ray.workers.ray_pool.time.monotonic", lambda: now[0])
    pool = RayPool(WorkerPlan(2, elastic=Elastic()))

    def count(*workers: str) -> int:
        for worker in workers:
            pool.board.join("label", worker)
        pool.joined.count(pool.board, "label")
        return pool.plan.num_cpu_workers

    assert count("a") == 2
    assert count("b", "c") == 2
    now[0] += ray_pool._COUNT_EVERY_S
    assert count() == 3
    # The workers of the next wave are others.
    pool.board.begin_attempt()
    now[0] += ray_pool._COUNT_EVERY_S
    assert count("d", "e") == 3
    # An evaluation asks when everything is over.
    pool.board.clear()
    assert not table
    assert pool.plan.num_cpu_workers == 3


class Batches:
    """A dataset whose blocks are all done; somebody else holds its iterators, too."""

    def __init__(self, board: Board) -> None:
        self.board, self.num_ended = board, 0
        self._iterators: list[Iterator[pa.Table]] = []

    def iter_batches(self, **_: Any) -> Batches:
        return self

    def __iter__(self) -> Iterator[pa.Table]:
        self._iterators.append(self._batches())
        return self._iterators[-1]

    def _batches(self) -> Iterator[pa.Table]:
        self.board.join("label", "one")
        try:
            yield from (as_task(block, is_copy=False) for block in BLOCKS)
        finally:
            self.num_ended += 1


@pytest.fixture
def batches(table: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> Batches:
    """What Ray Data would bring."""
    batches = Batches(Board())
    monkeypatch.setattr(ray_pool, "_dataset_of", lambda *_: batches)
    monkeypatch.setattr(ray_pool, "_map", lambda dataset, *_, **__: dataset)
    return batches


@pytest.mark.parametrize(("elastic", "most"), [(Elastic(), 1), (None, 0)])
def test_an_attempt_counts_an_elastic_pool_and_ends_its_actors_when_it_is_closed(
    elastic: Elastic | None, most: int, batches: Batches
) -> None:
    board, joined = batches.board, Joined()
    board.take("block-9", "here")
    attempt = _attempt(BLOCKS, Count, WorkerPlan(2, elastic=elastic), board, joined, "cuda")
    assert next(attempt).number == 0
    assert (joined.most, list(board.nodes_at_work()), batches.num_ended) == (most, [], 0)
    attempt.close()
    assert batches.num_ended == 1


def test_workers_that_cannot_be_counted_end_the_job_in_one_line(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_prefix: bytes) -> list[bytes]:
        raise ConnectionError("the table cannot be reached")

    monkeypatch.setattr(boards, "kv_list", lost)
    pool = RayPool(WorkerPlan(2, elastic=Elastic(1, 4)), board=batches.board)
    with pytest.raises(JobFailedError, match=r"^a worker failed for good: the table cannot be reached; again$"):
        list(pool.run(BLOCKS, Count, what_now="; again"))
    assert batches.num_ended == 1


@pytest.mark.parametrize(
    ("plan", "num_blocks", "sizes"),
    [
        (WorkerPlan(4), 100, (4, 4, 4)),
        (WorkerPlan(4), 3, (3, 3, 3)),
        (WorkerPlan(4, elastic=Elastic()), 100, (1, 100, 4)),
        (WorkerPlan(4, elastic=Elastic()), 2, (1, 2, 2)),
        (WorkerPlan(4, elastic=Elastic(2, 16)), 100, (2, 16, 4)),
        (WorkerPlan(8, elastic=Elastic(8)), 100, (8, 100, 8)),
        (WorkerPlan(8, elastic=Elastic(8, 8)), 5, (5, 5, 5)),
    ],
)
def test_a_pool_is_no_larger_than_its_blocks_and_its_limits(
    plan: WorkerPlan, num_blocks: int, sizes: tuple[int, int, int]
) -> None:
    found = _pool_sizes(plan, num_blocks)
    assert (found["min_size"], found["max_size"], found["initial_size"]) == sizes


def test_a_change_of_the_nodes_is_told_to_ray_data(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, looked = [frozenset({"a"})], []
    monkeypatch.setattr(ray_nodes, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(ray_nodes, "live_nodes", lambda: nodes[0])
    monkeypatch.setattr(ray_nodes, "_look_again", lambda: looked.append(nodes[0]))
    with new_nodes_used_soon():
        threading.Event().wait(0.2)
        assert looked == []
        nodes[0] = frozenset({"a", "b"})
        wait_until(lambda: looked)
        threading.Event().wait(0.1)
    assert looked == [frozenset({"a", "b"})]


def test_nodes_that_cannot_be_asked_for_end_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def fail() -> frozenset[str]:
        asked.append(True)
        raise ConnectionError("Ray has ended")

    monkeypatch.setattr(ray_nodes, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(ray_nodes, "live_nodes", fail)
    with new_nodes_used_soon():
        wait_until(lambda: len(asked) > 2)


def test_ray_data_asks_for_no_nodes_where_nobody_gave_a_largest_number() -> None:
    code = (
        "from imgcls_ray.workers.ray_nodes import ask_for_no_nodes; import imgcls_ray.workers.ray_pool, ray; "
        "ask_for_no_nodes(); from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler; "
        "print(RateBasedClusterAutoscaler.DEFAULT_CLUSTER_SCALING_UP_MAX_RESOURCE_DELTA.cpu)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.split() == ["0.0"]

"""Commands on one store whose storage steps are taken in random order, with random deaths: a seed is a schedule.

The product's own code plans, labels and records (``runs.work_off``), without the lease. Each command is a thread; every
step on its storage waits for its turn, so exactly one runs at a time and a seed always gives the same schedule. A
command may die before a step or just after it (its answer is lost). What a dead command's workers had in hand may still
be written, at any later time, as by a node that was cut off.

By hand::

    python -m tests.predict.schedules --schedules 10000
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from imgcls_ray.errors import ImageErrorCode, LabelStoreDamagedError, StoreInUseError
from imgcls_ray.inputs.tables import table_of
from imgcls_ray.json_files import encode_json
from imgcls_ray.predict.report import PredictReport, RunReport
from imgcls_ray.predict.runs import finish_run, work_off
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.listed import ListedPlace
from imgcls_ray.store import merging, parallel
from imgcls_ray.store import rows as rows_module
from imgcls_ray.store.answers import all_answers
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.label_store import LabelStore
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.plan import PlanCounts, Spool, unanswered, write_plan
from imgcls_ray.store.presence_changes import PresenceChanges
from imgcls_ray.store.records import now, plan_name
from imgcls_ray.store.retrying import RetryRules
from imgcls_ray.store.rows import KEY_COLUMNS
from imgcls_ray.store.verify import verify_store
from tests.store.stores import even_sizes, identity, info, part_bytes, rows_of, run_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit

T = TypeVar("T")
_NUM_INPUTS = 80
_UNIT_SIZE = 16


class MemoryDirectory:
    """A ``Directory`` of names in memory: create-only writes, listings that are always up to date."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {} if files is None else files
        self.uri = "memory"

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        prefix = f"{folder}/" if folder else ""
        names = {name.removeprefix(prefix).split("/")[0] for name in self.files if name.startswith(prefix)}
        return iter(sorted(name for name in names if name.startswith(starts_with)))

    def exists(self, name: str) -> bool:
        return name in self.files

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def create(self, name: str, data: bytes) -> bool:
        if name in self.files:
            return False
        self.files[name] = data
        return True

    def replace(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def replace_from(self, name: str, path: str) -> None:
        self.replace(name, Path(path).read_bytes())

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


class _Killed(BaseException):
    """Ends a command where it stands."""


class _Turn(MemoryDirectory):
    """A command's view of the storage: each step waits until the schedule comes to it."""

    def __init__(self, files: dict[str, bytes], actor: _Actor) -> None:
        super().__init__(files)
        self._actor = actor

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        return self._actor.step(lambda: super(_Turn, self).entries(folder, starts_with=starts_with))

    def exists(self, name: str) -> bool:
        return self._actor.step(lambda: super(_Turn, self).exists(name))

    def read(self, name: str) -> bytes:
        return self._actor.step(lambda: super(_Turn, self).read(name))

    def create(self, name: str, data: bytes) -> bool:
        return self._actor.step(lambda: super(_Turn, self).create(name, data))

    def replace(self, name: str, data: bytes) -> None:
        self._actor.step(lambda: super(_Turn, self).replace(name, data))

    def remove(self, name: str) -> None:
        self._actor.step(lambda: super(_Turn, self).remove(name))


class _Actor:
    """A thread that takes one step whenever it is told to."""

    def __init__(self, work: Callable[[_Actor], None]) -> None:
        self._go, self._parked = threading.Semaphore(0), threading.Semaphore(0)
        self.is_done = self.dies_before = self.dies_after = False
        self.error: BaseException | None = None
        self.left_in_hand: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self._parked.acquire()

    def _run(self, work: Callable[[_Actor], None]) -> None:
        try:
            self._wait()
            work(self)
        except _Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_done = True
        self._parked.release()

    def _wait(self) -> None:
        self._parked.release()
        self._go.acquire()
        if self.dies_before:
            raise _Killed

    def step(self, action: Callable[[], T]) -> T:
        self._wait()
        result = action()
        if self.dies_after:
            raise _Killed
        return result

    def take_step(self) -> None:
        self._go.release()
        self._parked.acquire()


@dataclass
class _Labeller:
    """The job of one command: real plans, and parts as workers write them, in any order."""

    store: LabelStore
    actor: _Actor
    chance: random.Random
    failing: frozenset[str]

    def write_plan(self, planned: Spool, run: int) -> None:
        write_plan(
            self.store, planned, run=run, sizes=even_sizes(planned.num_images, _UNIT_SIZE), about={"input": "/in"}
        )

    def label_units(self, units: list[Unit], report: RunReport) -> set[int]:
        errors = dict.fromkeys(self.failing, ImageErrorCode.FETCH_FAILED.value)
        others = set()
        todo = self.chance.sample(units, len(units))
        for place, unit in enumerate(todo):
            # Two units of a worker are in hand when it dies.
            self.actor.left_in_hand = [
                (other.part_name, part_bytes(rows_of(self.read_only(), other, errors), self.store.schema))
                for other in todo[place : place + 2]
            ]
            rows = rows_of(self.store, unit, errors)
            if not self.store.directory.create(unit.part_name, part_bytes(rows, self.store.schema)):
                others.add(unit.number)
                continue
            report.codes.update(row["error"] or row["status"] for row in rows)
        return others

    def read_only(self) -> LabelStore:
        """The store without waiting: what a worker in hand has read before it is cut off."""
        directory = self.store.directory
        assert isinstance(directory, MemoryDirectory)
        return LabelStore(MemoryDirectory(directory.files), self.store.identity)

    def describe_run(self, report: RunReport) -> RunRecord:
        return run_record(report.run, num_images=report.num_images, counts=dict(report.codes))


@dataclass
class Outcome:
    """What became of one schedule."""

    num_steps: int = 0
    num_deaths: int = 0
    num_refused: int = 0
    num_late_parts: int = 0
    num_merged: int = 0
    """Files that were merged."""
    num_stale: int = 0
    """Commands whose files were removed while they read them."""
    num_reads: int = 0
    num_vanished: int = 0
    """Changes of inputs that are gone, in all complete listings; some of them another command has refused."""
    num_returned: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.doubled or self.problems)


def run_schedule(seed: int, work: Callable[..., None] = work_off) -> Outcome:
    """Play one schedule of two or three commands, then let the same command run alone and look at the store.

    Args:
        seed: of everything random.
        work: what a command does; another one shows that the schedules find faults.
    """
    with _one_thread():
        return _run_schedule(seed, work)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Every step is the schedule's; merged files are small, so that several make a piece, and read in small steps."""
    before = parallel.THREADS, merging._FILE_BYTES, merging._GROUP_ROWS, rows_module._BATCH_ROWS
    parallel.THREADS, merging._FILE_BYTES, merging._GROUP_ROWS, rows_module._BATCH_ROWS = 1, 4000, 24, 7
    try:
        yield
    finally:
        parallel.THREADS, merging._FILE_BYTES, merging._GROUP_ROWS, rows_module._BATCH_ROWS = before


def _run_schedule(seed: int, work: Callable[..., None]) -> Outcome:
    chance = random.Random(seed)
    files: dict[str, bytes] = {}
    create_or_open_store(MemoryDirectory(files), identity())
    outcome = Outcome()
    # Some inputs arrive only while the commands run, some cannot be read at first.
    inputs = [info(f"/in/{i:04d}.jpg") for i in range(_NUM_INPUTS)]
    num_there = chance.choice((0, 0, 16, _NUM_INPUTS))
    failing = frozenset(inp.uri for inp in chance.sample(inputs, chance.choice((0, 0, 3))))
    # Of every second input some go and come back. The others are there from when they came.
    gone: set[str] = set()
    # For how long merged files stay; not at all is what nobody should ask for while others read.
    keep_s = chance.choice((0.0, 0.0, 3600.0))

    def listing() -> list[FileInfo]:
        return [inp for inp in inputs[:num_there] if inp.uri not in gone]

    def come_and_go() -> None:
        gone.symmetric_difference_update(inp.uri for inp in chance.sample(inputs[::2], chance.choice((1, 4, 20))))

    def command(actor: _Actor) -> None:
        with _store_of(files, actor) as store:
            what = chance.random()
            if what < 0.15:
                _read(store, files, [inp.uri for inp in inputs[1::2]], outcome)
                return
            if what < 0.8:
                limit = chance.choice((None, None, None, 20))
                _command(store, _Labeller(store, actor, chance, failing), listing, chance, work, limit, outcome)
            if what > 0.5:
                outcome.num_merged += compact_store(
                    store,
                    keep_s=keep_s,
                    budget_s=chance.choice((None, 60.0)),
                    whole=chance.random() < 0.7,
                ).num_merged_files

    actors: list[_Actor] = []
    late: list[tuple[str, bytes]] = []

    def take_step(actor: _Actor, *, may_die: bool) -> None:
        if may_die and chance.random() < death_rate:
            actor.dies_before, actor.dies_after = chance.choice(((True, False), (False, True)))
            outcome.num_deaths += 1
        actor.take_step()
        outcome.num_steps += 1
        if not actor.is_done:
            return
        actors.remove(actor)
        if isinstance(actor.error, StoreInUseError):
            outcome.num_refused += 1
        elif isinstance(actor.error, LabelStoreDamagedError) and keep_s == 0:
            # Files that it was still reading were removed at once, which it must notice.
            outcome.num_stale += 1
        elif actor.error is not None:
            raise actor.error
        elif actor.dies_before or actor.dies_after:
            late.extend(actor.left_in_hand)

    # The first one runs until it has to stand back, for however long: what a lease cannot exclude (Burckhardt et al.,
    # "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
    change_rate, death_rate = chance.choice((0.05, 0.1, 0.2, 0.4)), chance.choice((0.0, 0.01, 0.03))
    commands_left, most_at_once = chance.choice((3, 5, 7)), chance.choice((2, 3))
    while commands_left or (actors and chance.random() < 0.99):
        if not actors or chance.random() < change_rate:
            if actors:
                actors.insert(chance.randint(0, len(actors)), actors.pop(0))
            if commands_left and (not actors or (len(actors) < most_at_once and chance.random() < 0.7)):
                actors.insert(0, _Actor(command))
                commands_left -= 1
            if chance.random() < 0.4:
                num_there = min(num_there + chance.choice((16, 32)), _NUM_INPUTS)
            if chance.random() < 0.4:
                come_and_go()
            if late and chance.random() < 0.3:
                outcome.num_late_parts += _write_late(files, late, chance)
        take_step(actors[0], may_die=True)
    num_there = _NUM_INPUTS
    gone.clear()
    store = LabelStore(MemoryDirectory(files), identity())

    def alone() -> None:
        _command(store, _Labeller(store, _Idle(), chance, frozenset()), listing, chance, work, None, outcome)
        compact_store(store, keep_s=keep_s, whole=chance.random() < 0.5)

    # A command runs alone and to its end, and finds the work of others; then those wake up that stood still.
    alone()
    while late:
        outcome.num_late_parts += _write_late(files, late, chance)
    while actors:
        take_step(chance.choice(actors), may_die=False)
    for _ in range(chance.choice((1, 3))):
        come_and_go()
        alone()
        _look_at(store, [inp.uri for inp in inputs], gone, outcome)
    return outcome


def _write_late(files: dict[str, bytes], late: list[tuple[str, bytes]], chance: random.Random) -> bool:
    name, data = late.pop(chance.randrange(len(late)))
    return MemoryDirectory(files).create(name, data)


class _Idle(_Actor):
    def __init__(self) -> None:
        self.left_in_hand = []


@contextmanager
def _store_of(files: dict[str, bytes], actor: _Actor) -> Iterator[LabelStore]:
    yield LabelStore(_Turn(files, actor), identity())


def _command(
    store: LabelStore,
    job: _Labeller,
    listing: Callable[[], list[FileInfo]],
    chance: random.Random,
    work: Callable[..., None],
    limit: int | None,
    outcome: Outcome,
) -> None:
    # What is listed up to a limit says nothing of what is behind it.
    place = ListedPlace("/in/", is_whole=True, has_inputs=True)
    presence = PresenceChanges(ListingCounts(places=[place])) if limit is None else None

    @contextmanager
    def plans(limit: int | None) -> Iterator[Iterator[Spool]]:
        # Tomorrow: how long a failure waits is another test's subject.
        rules = RetryRules(store, time=datetime.now(UTC) + timedelta(days=30))
        yield _plans(unanswered(iter(listing()), store, PlanCounts(), rules, presence), presence, chance)

    work(store, job, plans, PredictReport(store.uri), limit=limit)
    if presence is not None:
        outcome.num_vanished += presence.num_vanished
        outcome.num_returned += presence.num_returned


def _plans(files: Iterator[FileInfo], presence: PresenceChanges | None, chance: random.Random) -> Iterator[Spool]:
    """What ``plan_ahead`` gives, in one thread: one plan, or one after the other while the listing goes on."""
    for number in itertools.count():
        rows = list(itertools.islice(files, chance.choice((16, 32, 10_000))))
        is_last = presence is not None and presence.is_complete
        if not rows and number and not (presence is not None and presence.is_any):
            return
        with Spool() as spool:
            if rows:
                spool.add(table_of(rows))
            spool.presence = presence if is_last else None
            yield spool.complete()
        if is_last:
            return


def work_off_without_claims(
    store: LabelStore, job: _Labeller, plans: Callable[..., Any], report: PredictReport, *, limit: int | None
) -> None:
    """How runs got their numbers before they were claimed: a run with nothing to label only wrote its record.

    Kept to show that the schedules find what it did wrong.
    """
    while True:
        run = store.next_run()
        planned = set(store.planned_runs())
        for number in store.begun_runs():
            closed = {"run": number, "num_images": 0, "num_units": 0, "abandoned": now()}
            if number not in planned and store.directory.create(plan_name(number), encode_json(closed)):
                store.finish_run(number, run_record(number))
        if not (open_runs := store.open_runs()):
            break
        report.runs += [finish_run(store, job, number) for number in open_runs]
    with plans(limit) as spools:
        for number, spool in enumerate(spools, run):
            if spool.num_images:
                job.write_plan(spool, number)
                finish_run(store, job, number)
            else:
                store.finish_run(number, run_record(number))


def _read(store: LabelStore, files: dict[str, bytes], always: list[str], outcome: Outcome) -> None:
    """A reader beside the commands: what was answered when it began it sees, and each row once.

    Args:
        store: through which it reads.
        files: of the store.
        always: inputs that never go away.
        outcome: is told what is wrong.
    """
    before = {(answer.uri, answer.run) for answer in all_answers(LabelStore(MemoryDirectory(dict(files)), identity()))}
    seen = Counter((answer.uri, answer.run) for answer in all_answers(store))
    outcome.num_reads += 1
    outcome.problems += [f"{uri}: of run {run}, was not seen" for uri, run in sorted(before - seen.keys())]
    outcome.problems += [f"{uri}: of run {run}, was seen twice" for (uri, run), n in sorted(seen.items()) if n > 1]
    outcome.problems += [f"{uri}: is told as not present" for uri in sorted(_absent(store).intersection(always))]


def _absent(store: LabelStore) -> set[str]:
    rows = (row for table in latest_rows(store, KEY_COLUMNS) for row in table.to_pylist())
    return {row["uri"] for row in rows if not row["present"]}


def _look_at(store: LabelStore, uris: list[str], gone: set[str], outcome: Outcome) -> None:
    good = Counter(answer.uri for answer in all_answers(store) if answer.error is None)
    outcome.lost = [uri for uri in uris if not good[uri]]
    outcome.doubled = [uri for uri in uris if good[uri] > 1]
    outcome.problems += verify_store(store).problems
    outcome.problems += [f"{uri}: presence is told wrong" for uri in sorted(_absent(store) ^ gone)]


def main() -> None:
    """Play schedules and tell what they found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--without-claims", action="store_true", help="numbers as they were taken before: has faults")
    arguments = parser.parse_args()
    start, total, faulty = time.monotonic(), Counter[str](), []
    for seed in range(arguments.first, arguments.first + arguments.schedules):
        outcome = run_schedule(seed, work_off_without_claims if arguments.without_claims else work_off)
        total.update(
            steps=outcome.num_steps,
            deaths=outcome.num_deaths,
            refused=outcome.num_refused,
            late_parts=outcome.num_late_parts,
            merged=outcome.num_merged,
            stale=outcome.num_stale,
            reads=outcome.num_reads,
            vanished=outcome.num_vanished,
            returned=outcome.num_returned,
            schedules_with_lost_rows=bool(outcome.lost),
            schedules_with_doubled_rows=bool(outcome.doubled),
            schedules_that_verify_refuses=bool(outcome.problems),
        )
        if not outcome.is_sound:
            faulty.append(seed)
    print(f"{arguments.schedules:,} schedules in {time.monotonic() - start:.0f} s: {dict(total)}")
    print(f"faulty: {len(faulty)} {faulty[:20]}")


if __name__ == "__main__":
    main()

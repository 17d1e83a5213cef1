"""Label units: the work of one actor, from plan rows to a durable part file.

Three callables for Ray Data, which also run without Ray: ``UnitLabeller`` does all of a unit on one core;
``UnitDecoder`` and ``UnitClassifier`` share it between CPUs and a GPU. Each takes a table of unit descriptors; what
comes back is one row of counts per unit. Pixels stay in the process, or cross once as uint8.

A unit begins and ends with waiting for storage; so two are in hand at once, and one of them computes.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import ImageError, JobFailedError
from imgcls_ray.inputs.absence import check_absences
from imgcls_ray.models.classifier import StageSeconds, decode_model_inputs
from imgcls_ray.storage import open_directory
from imgcls_ray.store.label_store import open_store
from imgcls_ray.store.parts import commit_unit, done_before, skipped
from imgcls_ray.store.schema import Unit
from imgcls_ray.workers.classifier_task import ClassifierTask
from imgcls_ray.workers.decoding import MAX_DEATHS_OF_UNIT, load_decoders
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, fetch_inputs
from imgcls_ray.workers.packing import error_of, pack_inputs, pixel_column, unpack_inputs
from imgcls_ray.workers.ray_pool import worker_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.workers.board import Board, Stage


@dataclass(frozen=True)
class LabelTask(ClassifierTask):
    """What every worker of a run is told."""

    store: str
    source: str | None = None
    """The INPUT that the run's inputs were listed in; a path is absolute. ``None``: what is missing stays missing."""
    limits: dict[str, Any] = field(default_factory=dict)
    """What decides whether a failed input is asked again under wider limits, by the configuration's keys."""

    def open_store(self) -> LabelStore:
        return open_store(open_directory(self.store, self.fetch_limits.s3))

    def check_absences(self, rows: pa.Table, results: Iterable[object]) -> None:
        """End the job where inputs are missing because their storage is away.

        Raises:
            StorageError: with the way out.
        """
        errors = (result.code if isinstance(result, ImageError) else None for result in results)
        check_absences(rows, errors, source=self.source, store=self.store, s3=self.fetch_limits.s3)


def describe_units(units: Sequence[Unit]) -> pa.Table:
    """Unit descriptors as the table that Ray Data carries."""
    return pa.table({name: [getattr(unit, name) for unit in units] for name in Unit._fields})


def units_of(table: pa.Table) -> list[Unit]:
    return [Unit(**row) for row in table.select(Unit._fields).to_pylist()]


class _Turns:
    """Lets a worker have two units in hand: one computes while the other reads ahead, waits or is written.

    A worker is one core, so computing is one unit at a time; and one at a time it must be, because the classifier is
    not made for threads and the decoding timer is the process's only one.
    """

    def __init__(self, stage: Stage, board: Board | None, num_deaths: int = 0) -> None:
        self._stage, self._board, self._num_deaths = stage, board, num_deaths
        # Reentrant: who finds that the command stops may hold it already.
        self.computing = threading.RLock()
        self.committing = threading.Lock()

    def is_stopping(self) -> bool:
        return self._board is not None and self._board.is_stopped()

    def wait_until_idle(self) -> str:
        """Wait until what this worker has begun is durable. Returns the worker's name."""
        with self.computing, self.committing:
            return worker_name()

    def begin(self, unit: Unit) -> int:
        """Note that computing begins; says how many workers have died over the unit.

        Raises:
            JobFailedError: too many.
        """
        num_deaths = self._num_deaths if self._board is None else self._board.begin(self._stage, unit.part_name)
        if num_deaths >= MAX_DEATHS_OF_UNIT:
            raise JobFailedError(
                f"unit {unit.number} of run {unit.run:04d} has ended its worker {num_deaths} times, also when its "
                "images were decoded in a process of their own"
            )
        return num_deaths

    def end(self, unit: Unit) -> None:
        if self._board is not None:
            self._board.end(self._stage, unit.part_name)


class UnitLabeller:
    """Fetches, decodes, classifies and commits units on one core. Two threads may call it at once.

    ``num_deaths`` stands for the board where there is none: how many processes have died over the one unit.
    """

    def __init__(
        self, task: LabelTask, board: Board | None = None, *, num_threads: int = 1, num_deaths: int = 0
    ) -> None:
        load_decoders()
        self._task = task
        self._store = task.open_store()
        self._classifier = task.load_classifier(task.open_model(), device="cpu", num_threads=num_threads)
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")
        self._turns = _Turns("label", board, num_deaths)

    def __call__(self, units: pa.Table) -> pa.Table:
        return pa.concat_tables([self._label(unit) for unit in units_of(units)])

    def _label(self, unit: Unit) -> pa.Table:
        turns, seconds = self._turns, StageSeconds()
        if turns.is_stopping():
            return skipped(unit, [turns.wait_until_idle()])
        if self._store.directory.exists(unit.part_name):
            return done_before(unit)
        rows = self._store.read_unit(unit)
        encoded = fetch_inputs(rows, self._task.fetch_limits, self._executor)
        with ExitStack() as commit:
            with turns.computing:
                if turns.is_stopping():
                    return skipped(unit, [turns.wait_until_idle()])
                with self._task.decoder(self._classifier.folder.spec.preprocess, turns.begin(unit)) as decode:
                    inputs = decode_model_inputs(_timed(encoded, seconds), decode, seconds)
                    results = list(self._classifier.classify_inputs(inputs, seconds))
                self._task.check_absences(rows, results)
                # Before the next unit may compute, so that at every moment a unit in hand is in one of the two.
                commit.enter_context(turns.committing)
            counts = commit_unit(
                self._store, self._classifier.folder.spec.class_names, unit, rows, results, seconds, self._task.limits
            )
            turns.end(unit)
        return counts


class UnitDecoder:
    """Fetches and decodes units on one core, for a classifier elsewhere: one row per unit, pixels as one value.

    A unit is one row so that no batching between the stages can cut it. Two threads may call it at once.
    """

    def __init__(self, task: LabelTask, board: Board) -> None:
        load_decoders()
        self._task = task
        self._store = task.open_store()
        self._preprocess = task.open_model().spec.preprocess
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")
        self._turns = _Turns("decode", board)

    def __call__(self, units: pa.Table) -> pa.Table:
        return pa.concat_tables([self._decode(unit) for unit in units_of(units)])

    def _decode(self, unit: Unit) -> pa.Table:
        turns, seconds = self._turns, StageSeconds()
        if turns.is_stopping():
            return self._decoded(unit, skipped_by=turns.wait_until_idle())
        if self._store.directory.exists(unit.part_name):
            return self._decoded(unit, done=True)
        rows = self._store.read_unit(unit)
        encoded = fetch_inputs(rows, self._task.fetch_limits, self._executor)
        with turns.computing:
            if turns.is_stopping():
                return self._decoded(unit, skipped_by=turns.wait_until_idle())
            with self._task.decoder(self._preprocess, turns.begin(unit)) as decode:
                inputs = decode_model_inputs(_timed(encoded, seconds), decode, seconds)
                pixels, about = pack_inputs(inputs, unit.num_rows, self._preprocess.crop_size)
            self._task.check_absences(rows, (error_of(item) for item in about))
        turns.end(unit)
        return self._decoded(unit, pixels, about, seconds)

    def _decoded(
        self,
        unit: Unit,
        pixels: np.ndarray | None = None,
        about: list[dict[str, Any]] | None = None,
        seconds: StageSeconds | None = None,
        *,
        done: bool = False,
        skipped_by: str = "",
    ) -> pa.Table:
        columns = {
            "done": [done],
            "skipped_by": [skipped_by],
            "about": [json.dumps(about or [])],
            "seconds": [json.dumps(asdict(seconds or StageSeconds()))],
        }
        table = pa.table({**describe_units([unit]).to_pydict(), **columns})
        return table.append_column("pixels", pixel_column(pixels))


class UnitClassifier:
    """Classifies and commits decoded units on one GPU. Two threads may call it at once."""

    def __init__(self, task: LabelTask, board: Board, device: str = "cuda") -> None:
        self._task = task
        self._store = task.open_store()
        self._classifier = task.load_classifier(task.open_model(), device=device, num_threads=1)
        self._turns = _Turns("classify", board)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return pa.concat_tables([self._classify(decoded.slice(i, 1)) for i in range(decoded.num_rows)])

    def _classify(self, row: pa.Table) -> pa.Table:
        [unit] = units_of(row)
        turns = self._turns
        if decoder := row["skipped_by"][0].as_py():
            return skipped(unit, [decoder, turns.wait_until_idle()])
        if row["done"][0].as_py():
            return done_before(unit)
        seconds = StageSeconds(**json.loads(row["seconds"][0].as_py()))
        spec = self._classifier.folder.spec
        size = spec.preprocess.crop_size
        inputs = unpack_inputs(json.loads(row["about"][0].as_py()), row["pixels"], size)
        rows = self._store.read_unit(unit)
        with ExitStack() as commit:
            with turns.computing:
                turns.begin(unit)
                results = list(self._classifier.classify_inputs(inputs, seconds))
                commit.enter_context(turns.committing)
            counts = commit_unit(self._store, spec.class_names, unit, rows, results, seconds, self._task.limits)
            turns.end(unit)
        return counts


def _timed(contents: Iterator[bytes | ImageError], seconds: StageSeconds) -> Iterator[bytes | ImageError]:
    while True:
        start = time.perf_counter()
        data = next(contents, None)
        seconds.fetch += time.perf_counter() - start
        if data is None:
            return
        yield data

"""The label store: plans, parts and runs of one directory.

Every file appears complete, under a name that is never written twice. So the listing alone shows what is done, and no
lock is needed.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import LabelStoreDamagedError, StoreInUseError
from imgcls_ray.inputs.tables import with_columns
from imgcls_ray.json_files import encode_json
from imgcls_ray.store.records import (
    IDENTITY_FILE,
    is_plan_record,
    is_run_record,
    now,
    plan_name,
    run_name,
    segment_name,
)
from imgcls_ray.store.schema import PLAN_SCHEMA, Unit, parse_part_name, part_schema, precision_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from imgcls_ray.json_files import Json
    from imgcls_ray.storage import Directory
    from imgcls_ray.store.delta_log import Log
    from imgcls_ray.store.records import PlanRecord, RunRecord, StoreIdentity

_CLAIM_FILE = "claim.json"
_SMALL_FILE_BYTES = 2**20
_RUN_FILE = re.compile(r"^(\d{4,})\.json$")
_RUN_ENTRY = re.compile(r"^(\d{4,})(?:\.json)?$")


@dataclass(frozen=True)
class LabelStore:
    """An open label store."""

    directory: Directory
    identity: StoreIdentity
    logs: list[Log] = field(default_factory=list, repr=False, compare=False)
    """The commit log as it was read last, if it was: what follows it need be read alone."""

    @property
    def uri(self) -> str:
        return self.directory.uri

    @property
    def schema(self) -> pa.Schema:
        identity = self.identity
        return part_schema(
            fingerprint=identity.fingerprint,
            calibration=identity.calibration,
            embedding=identity.embedding,
            logits=identity.logits,
        )

    # ``after``: a run up to which all are finished, as the log says. The few numbers behind it are looked up one by
    # one, in place of the whole history. Numbers have no gaps, and plans and records are never removed.

    def begun_runs(self, after: int = 0) -> dict[int, bool]:
        """Numbers of the runs that have a plan, or only a claim, ascending, and whether the plan is complete."""
        if after:
            return dict(self._tail(after))
        names = list(self.directory.entries("plans"))
        planned = set(self._numbers(_RUN_FILE, names))
        return {run: run in planned for run in self._numbers(_RUN_ENTRY, names)}

    def planned_runs(self, after: int = 0) -> list[int]:
        """Numbers of the runs whose plan is complete, ascending."""
        return [run for run, is_planned in self.begun_runs(after).items() if is_planned]

    def finished_runs(self, after: int = 0, *, begun: Iterable[int] | None = None) -> list[int]:
        """Numbers of the runs with a record, ascending.

        Args:
            after: a run up to which all are finished, which are not told.
            begun: those that may be among them, if they are known.
        """
        if after:
            runs = self.begun_runs(after) if begun is None else begun
            return [run for run in runs if self.directory.exists(run_name(run))]
        return self._numbers(_RUN_FILE, self.directory.entries("runs"))

    def open_runs(self, after: int = 0) -> list[int]:
        """Numbers of the runs that were planned and not finished, ascending."""
        planned = self.planned_runs(after)
        return sorted(set(planned) - set(self.finished_runs(after, begun=planned)))

    def next_run(self, after: int = 0) -> int:
        """The next number that no run has used, not even a run that was given up while it was planned."""
        return self._number_behind(after, self.begun_runs(after))

    def _number_behind(self, after: int, begun: Iterable[int]) -> int:
        # Once there is a log, no run has a record alone.
        number: int = max((after, *begun, *(() if after else self.finished_runs())))
        return number + 1

    def claim_next_run(self, after: int = 0) -> int | None:
        """Claim a number for a new plan, or return ``None`` if an open run has to be finished first.

        The number is read before the open runs are listed, and claimed afterwards. So after a successful claim every
        earlier run is finished, and a listing that is compared with the store from now on sees all their rows. A plan
        that another command began and did not finish is closed for good. Of two commands that plan at the same time,
        with or without a lease, one finds its number or its plan taken, and no input is planned twice.

        Args:
            after: a run up to which all are finished, as the log says. That an old one is given, by a command that
                stood still for however long, costs look-ups alone: plans and records stay.

        Raises:
            StoreInUseError: another command has claimed the number in the meantime.
        """
        begun = self.begun_runs(after)
        number = self._number_behind(after, begun)
        for run, is_planned in begun.items():
            closed: PlanRecord = {"run": run, "num_images": 0, "num_units": 0, "abandoned": now()}
            if not is_planned and self.directory.create(plan_name(run), encode_json(closed)):
                nothing: RunRecord = {
                    "run": run,
                    "num_images": 0,
                    "num_units": 0,
                    "abandoned": closed["abandoned"],
                    "finished": now(),
                    "counts": {},
                }
                self.finish_run(run, nothing)
        if self.open_runs(after):
            return None
        self.claim_run(number)
        return number

    def claim_run(self, run: int) -> None:
        """Claim a number that follows a finished run of this command.

        Raises:
            StoreInUseError: another command has claimed it.
        """
        claim = {"run": run, "claimed": now(), "host": socket.gethostname(), "pid": os.getpid()}
        if not self.directory.create(f"plans/{run:04d}/{_CLAIM_FILE}", encode_json(claim)):
            raise StoreInUseError(
                f"{self.uri}: another command is planning into this store (run {run:04d} is claimed); run again later"
            )

    def _tail(self, after: int) -> Iterator[tuple[int, bool]]:
        """The runs behind one, and whether their plan is complete."""
        for run in itertools.count(after + 1):
            is_planned = self.directory.exists(plan_name(run))
            if not is_planned and next(iter(self.directory.entries(f"plans/{run:04d}")), None) is None:
                return
            yield run, is_planned

    @staticmethod
    def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
        matches = (pattern.match(name) for name in names)
        return sorted({int(match.group(1)) for match in matches if match})

    def plan_record(self, run: int) -> PlanRecord:
        """What is said of a plan.

        Raises:
            LabelStoreDamagedError: the record is damaged.
        """
        record = self._record(plan_name(run))
        if not is_plan_record(record):
            raise self._damaged(plan_name(run))
        return record

    def run_record(self, run: int) -> RunRecord:
        """What is said of a finished run.

        Raises:
            LabelStoreDamagedError: the record is damaged.
        """
        record = self._record(name := run_name(run))
        if not is_run_record(record):
            raise self._damaged(name)
        return record

    def _record(self, name: str) -> Json:
        try:
            record: Json = json.loads(self.directory.read(name))
        except OSError as error:
            raise LabelStoreDamagedError(f"{self.uri}: {name} cannot be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise self._damaged(name) from error
        return record

    def _damaged(self, name: str) -> LabelStoreDamagedError:
        return LabelStoreDamagedError(f"{self.uri}: {name} is damaged; bring it back from a copy")

    def units(self, run: int) -> Iterator[Unit]:
        """The units of a planned run in order, read from the footers of its plan files.

        Raises:
            LabelStoreDamagedError: a plan file is damaged or lost.
        """
        for _, units in self._segments(run, self.plan_record(run)):
            yield from units

    def planned_rows(self, run: int, record: PlanRecord) -> Iterator[tuple[Unit, pa.Table]]:
        """The units of a planned run in order, with the plan's rows of each; one request for each plan file.

        Raises:
            LabelStoreDamagedError: a plan file is damaged or lost.
        """
        for file, units in self._segments(run, record):
            for unit in units:
                with self._reading_plan(unit.segment):
                    # Callers read many runs at once: threads for the columns of each only wait for each other.
                    rows = file.read_row_group(unit.row_group, use_threads=False)
                    rows = with_columns(rows, PLAN_SCHEMA)
                    rows.validate(full=True)
                yield unit, rows

    def _segments(self, run: int, record: PlanRecord) -> Iterator[tuple[pq.ParquetFile, list[Unit]]]:
        """The plan files of a run, each open and with its units."""
        num_units = record["num_units"]
        number = first_row = 0
        # No units: also a plan that was given up half-way, whose files mean nothing.
        for place in itertools.count():
            if number >= num_units:
                break
            segment = f"plans/{run:04d}/{segment_name(place)}"
            units = []
            with self._reading_plan(segment), self.directory.open(segment) as content:
                file = _parquet_of(content)
                for row_group in range(file.num_row_groups):
                    num_rows = file.metadata.row_group(row_group).num_rows
                    units.append(Unit(run, number, segment, row_group, first_row, num_rows))
                    number, first_row = number + 1, first_row + num_rows
                yield file, units
        if number != num_units:
            raise LabelStoreDamagedError(
                f"{self.uri}: the files of plans/{run:04d} hold {number:,} of {num_units:,} units; "
                "bring the lost ones back from a copy"
            )

    def answered_units(self, run: int) -> set[int]:
        """Numbers of the units of a run that have a part file."""
        parts = (parse_part_name(name) for name in self.directory.entries("predictions", starts_with=f"{run:04d}-"))
        return {part[1] for part in parts if part is not None}

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a part file.

        Raises:
            LabelStoreDamagedError: the file is damaged.
        """
        with self.reading_rows(name), self.directory.open(name) as file:
            return pq.ParquetFile(file).read(columns=columns)

    def part_precision(self, name: str) -> str | None:
        """``precision_of`` a part file, of which the footer alone is read; raises as ``read_part``."""
        with self.reading_rows(name), self.directory.open(name) as file:
            return precision_of(pq.read_schema(file))

    @contextmanager
    def reading_rows(self, name: str) -> Iterator[None]:
        """The block reads a file with rows.

        Raises:
            LabelStoreDamagedError: the file is damaged or lost.
        """
        try:
            yield
        except (OSError, UnicodeDecodeError, ValueError, LookupError, pa.ArrowException) as error:
            raise LabelStoreDamagedError(
                f"{self.uri}: {name} cannot be read ({' '.join(str(error).split())}); bring it back from a copy, or "
                f"remove it and run `imgcls store compact {self.uri} --forget-lost`, and its images are labelled again"
            ) from error

    def read_unit(self, unit: Unit) -> pa.Table:
        """The plan's rows of one unit.

        Raises:
            LabelStoreDamagedError: the plan file is damaged.
        """
        with self._reading_plan(unit.segment), self.directory.open(unit.segment) as file:
            rows = pq.ParquetFile(file, pre_buffer=True).read_row_group(unit.row_group)
            return with_columns(rows, PLAN_SCHEMA)

    def create_of_plan(self, name: str, data: bytes) -> None:
        """Write a file of a plan that is being made.

        Raises:
            StoreInUseError: it exists, so another run makes the same plan.
        """
        if not self.directory.create(name, data):
            raise StoreInUseError(
                f"{self.uri}: another run is planning into this store ({name} exists); run again later"
            )

    @contextmanager
    def _reading_plan(self, name: str) -> Iterator[None]:
        try:
            yield
        # Without it, the units behind the gap would be labelled under the names of others.
        except FileNotFoundError as error:
            raise LabelStoreDamagedError(f"{self.uri}: {name} is lost; bring it back from a copy") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise LabelStoreDamagedError(
                f"{self.uri}: {name} cannot be read ({' '.join(str(error).split())}); bring it back from a copy: "
                "it says what an open run is to label"
            ) from error

    def refuse_earlier_versions(self) -> None:
        """Before files are merged: a version that knows parts alone would find no rows, and label everything again.

        Raises:
            LabelStoreDamagedError: the identity cannot be read.
            StorageError: the storage fails.
        """
        if self.identity.format_version == 2:
            return
        identity = self._record(IDENTITY_FILE)
        if isinstance(identity, dict) and identity.get("format_version") != 2:
            self.directory.replace(IDENTITY_FILE, encode_json({**identity, "format_version": 2}))

    def finish_run(self, run: int, record: RunRecord) -> None:
        self.directory.create(run_name(run), encode_json(record))


def _parquet_of(content: BinaryIO) -> pq.ParquetFile:
    """A small file is read in one go: Arrow's threads would wait for Python's lock at each read of a piece of it."""
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    return pq.ParquetFile(pa.BufferReader(content.read()) if size <= _SMALL_FILE_BYTES else content, pre_buffer=True)

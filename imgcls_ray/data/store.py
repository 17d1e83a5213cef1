"""The label store: identity, plans, parts and runs of one directory.

Every file appears whole, under a name that is never written twice; so whatever is listed is true, and what is not
there has not happened. No lock is needed for that, and none is trusted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from imgcls_ray.config import StrictModel
from imgcls_ray.data.schema import Unit, parse_part_name, part_schema
from imgcls_ray.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage import Directory

IDENTITY_FILE = "store.json"
_RUN_FILE = re.compile(r"^(\d{4,})\.json$")
_RUN_ENTRY = re.compile(r"^(\d{4,})(?:\.json)?$")
_SEGMENT_FILE = re.compile(r"^\d{6,}\.parquet$")


class StoreIdentity(StrictModel):
    """What all rows of a store have in common; a run that does not match is refused."""

    format_version: Literal[1] = 1
    model: str
    """Name of the model, for people; the fingerprint decides."""
    fingerprint: str
    num_classes: int
    top_k: int
    embedding: bool
    logits: bool


@dataclass(frozen=True)
class LabelStore:
    """An open label store."""

    directory: Directory
    identity: StoreIdentity

    @property
    def uri(self) -> str:
        return self.directory.uri

    @property
    def schema(self) -> pa.Schema:
        identity = self.identity
        return part_schema(fingerprint=identity.fingerprint, embedding=identity.embedding, logits=identity.logits)

    def planned_runs(self) -> list[int]:
        """Numbers of the runs whose plan is complete, ascending."""
        return self._numbers("plans", _RUN_FILE)

    def finished_runs(self) -> list[int]:
        """Numbers of the runs with a record, ascending."""
        return self._numbers("runs", _RUN_FILE)

    def open_runs(self) -> list[int]:
        """Numbers of the runs that were planned and not finished, ascending."""
        return sorted(set(self.planned_runs()) - set(self.finished_runs()))

    def next_run(self) -> int:
        """A number that no run has used: planned, finished, or given up while it was planned."""
        return max((*self._numbers("plans", _RUN_ENTRY), *self.finished_runs()), default=0) + 1

    def take_next_run(self) -> int | None:
        """Take a number for a new plan, or ``None`` if an open run has to be finished first.

        The number is read before the open runs, and a plan that somebody began and did not end is closed for good: so
        of two runs that plan at once, with or without a lease, one finds its number or its plan taken, and no input
        is planned twice.
        """
        number = self.next_run()
        planned = set(self.planned_runs())
        for run in self._numbers("plans", _RUN_ENTRY):
            closed = {"run": run, "num_images": 0, "num_units": 0, "abandoned": now()}
            if run not in planned and self.directory.create(f"plans/{run:04d}.json", encode_json(closed)):
                self.finish_run(run, {**closed, "finished": now(), "counts": {}, "images_per_s": 0.0})
        return None if self.open_runs() else number

    def _numbers(self, folder: str, pattern: re.Pattern[str]) -> list[int]:
        matches = (pattern.match(name) for name in self.directory.entries(folder))
        return sorted({int(match.group(1)) for match in matches if match})

    def plan_record(self, run: int) -> dict[str, Any]:
        return self._record(f"plans/{run:04d}.json", {"num_images", "num_units"})

    def run_record(self, run: int) -> dict[str, Any]:
        return self._record(f"runs/{run:04d}.json", {"num_images", "counts", "images_per_s", "finished"})

    def _record(self, name: str, needed: set[str]) -> dict[str, Any]:
        try:
            record = json.loads(self.directory.read(name))
        except ValueError as error:
            raise StoreError(f"{self.uri}: {name} is damaged; bring it back from a copy") from error
        if not isinstance(record, dict) or not needed <= record.keys():
            raise StoreError(f"{self.uri}: {name} is damaged; bring it back from a copy")
        return record

    def units(self, run: int) -> Iterator[Unit]:
        """The units of a planned run in order, read from the footers of its plan files."""
        if self.plan_record(run)["num_units"] == 0:
            return  # also a plan that was given up half-way, whose files mean nothing
        number = first_row = 0
        segments = sorted(
            (name for name in self.directory.entries(f"plans/{run:04d}") if _SEGMENT_FILE.match(name)),
            key=lambda name: (len(name), name),
        )
        for name in segments:
            segment = f"plans/{run:04d}/{name}"
            with self.directory.open(segment) as file:
                footer = pq.read_metadata(file)
            for row_group in range(footer.num_row_groups):
                num_rows = footer.row_group(row_group).num_rows
                yield Unit(run, number, segment, row_group, first_row, num_rows)
                number, first_row = number + 1, first_row + num_rows

    def answered_units(self, run: int) -> set[int]:
        """Numbers of the units of a run that have an answer."""
        parts = (parse_part_name(name) for name in self.directory.entries("predictions", starts_with=f"{run:04d}-"))
        return {part[1] for part in parts if part is not None}

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a part file.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            with self.directory.open(name) as file:
                return pq.ParquetFile(file).read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.uri}: {name} cannot be read ({' '.join(str(error).split())}); bring it back from a copy, or "
                f"remove it and the record of its run under runs/, and the command labels its images again"
            ) from error

    def read_unit(self, unit: Unit) -> pa.Table:
        """The plan's rows of one unit."""
        with self.directory.open(unit.segment) as file:
            return pq.ParquetFile(file, pre_buffer=True).read_row_group(unit.row_group)

    def finish_run(self, run: int, record: dict[str, Any]) -> None:
        self.directory.create(f"runs/{run:04d}.json", encode_json(record))


def create_or_open_store(directory: Directory, identity: StoreIdentity) -> LabelStore:
    """Open the store for a run of this identity, or make it.

    Raises:
        StoreError: the directory is something else, or a store of another model or other columns.
    """
    if not is_store(directory):
        content = {**identity.model_dump(), "created": now()}
        # Of two runs that make the store at once, one wins; both then check what is there. The second try must fail:
        # on a storage that lets names be written twice, nothing of what a store promises would hold.
        data = encode_json(content)
        if directory.create(IDENTITY_FILE, data) and directory.create(IDENTITY_FILE, data):
            raise StoreError(
                f"{directory.uri}: this storage writes over what is there although it is asked not to "
                "(If-None-Match); a label store cannot be kept on it"
            )
    store = open_store(directory)
    check_identity(store, identity)
    return store


def is_store(directory: Directory) -> bool:
    """Whether there is a store; if not, there is a place for one.

    Raises:
        StoreError: the directory is something else.
    """
    if directory.exists(IDENTITY_FILE):
        return True
    try:
        taken = next((name for name in directory.entries() if not name.startswith(".")), None)
    except OSError as error:
        raise StoreError(
            f"{directory.uri}: cannot be looked into ({error.strerror}); give --output a directory"
        ) from error
    # Looked for again: another run may have made the store between the two looks.
    if taken and not directory.exists(IDENTITY_FILE):
        raise StoreError(
            f"{directory.uri}: is not a label store (it holds {taken!r} and no {IDENTITY_FILE}); "
            "give --output a new or empty directory"
        )
    return directory.exists(IDENTITY_FILE)


def check_identity(store: LabelStore, identity: StoreIdentity) -> None:
    """Refuse a run whose rows would not be of the store's kind.

    Raises:
        StoreError: naming the first difference and the way out.
    """
    have, want = store.identity, identity
    if have.fingerprint != want.fingerprint:
        raise StoreError(
            f"{store.uri}: belongs to another model ({have.model}, fingerprint {have.fingerprint[:12]}; this one is "
            f"{want.model}, {want.fingerprint[:12]}); use that model, or another --output"
        )
    for field in ("top_k", "embedding", "logits"):
        if getattr(have, field) != getattr(want, field):
            raise StoreError(
                f"{store.uri}: was made with {field}={getattr(have, field)}, this run has "
                f"{field}={getattr(want, field)}; use the same, or another --output"
            )


def open_store(directory: Directory) -> LabelStore:
    """Open an existing store.

    Raises:
        StoreError: there is no store, or its identity cannot be read.
    """
    try:
        content = json.loads(directory.read(IDENTITY_FILE))
        content.pop("created", None)
        return LabelStore(directory, StoreIdentity.model_validate(content))
    except OSError as error:
        raise StoreError(f"{directory.uri}: is not a label store (no readable {IDENTITY_FILE})") from error
    except (ValueError, AttributeError, TypeError, ValidationError) as error:
        raise StoreError(f"{directory.uri}: {IDENTITY_FILE} is damaged, or of another version") from error


def encode_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def now() -> str:
    """The time for records: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")

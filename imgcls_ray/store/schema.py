"""The label store's tables and names: what every reader and writer of a store agrees on.

plans/NNNN/SSSSSS.parquet        inputs of run NNNN; one row group is one unit of work
plans/NNNN/presence-S.parquet    inputs that its listing did not find any more, or found again
plans/NNNN/values-S.parquet      what its lists say of inputs in other columns, where the store did not have it
plans/NNNN.json                  written after them: the plan is complete and never changes again
predictions/NNNN-UUUUUU.parquet  rows of unit U of run N; if the file exists, the unit is done
predictions/merged-*.parquet     rows of several finished runs, in place of their parts
predictions/_delta_log/          which files hold the rows of the finished runs (a Delta table)
runs/NNNN.json                   written last: run N is finished
store.json                       the identity: which model, which columns
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from imgcls_ray.inputs.tables import FILE_SCHEMA
from imgcls_ray.models.profile import Profile

if TYPE_CHECKING:
    import numpy as np

    from imgcls_ray.models.calibration import Calibration

_ROW_BITS = 40
_PART_NAME = re.compile(r"^(\d{4,})-(\d{6,})\.parquet$")

# What a list says of an input in other columns is beside the plan.
PLAN_SCHEMA = pa.schema(
    [pa.field("image_id", pa.int64(), nullable=False), *(field for field in FILE_SCHEMA if field.name != "values")]
)

FINGERPRINT_KEY = b"imgcls.fingerprint"
LIMITS_KEY = b"imgcls.limits"
"""Key in a part file's metadata: the limits of its run, as JSON."""
PRECISION_KEY = b"imgcls.precision"
"""Key in a part file's metadata: the number format that its rows were computed in. Earlier versions wrote none."""
PROFILE_KEY = b"imgcls.profile"
"""Key in a part file's metadata: what its images are like, as JSON. Merged files have none; the run's record has it."""
RANGES_KEY = b"imgcls.limits_from"
"""Key in a merged file's metadata: pairs of the first ``image_id`` and the limits from there on, ascending, as JSON."""
PRECISION_RANGES_KEY = b"imgcls.precision_from"
"""Key in a merged file's metadata: likewise, with the number format."""
STATUS_OK = "ok"
STATUS_ERROR = "error"


class Unit(NamedTuple):
    """Consecutive rows of one plan, which one worker labels and commits in one step."""

    run: int
    number: int
    """Number of the unit in its run, from 0."""
    segment: str
    """Name of the plan file that holds it."""
    row_group: int
    first_row: int
    """Number of the unit's first row in the plan, from 0."""
    num_rows: int

    @property
    def part_name(self) -> str:
        return f"predictions/{_part_name(self.run, self.number)}"


def _nullable_integers(*names: str) -> bytes:
    """pandas' own metadata: it reads these columns as integers with gaps, where it would make floats of them."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": "int32", "numpy_type": "Int32", "metadata": None}
        for name in names
    ]
    return json.dumps({"index_columns": [], "column_indexes": [], "columns": columns}).encode()


# Rows with an error have none of these.
_PANDAS = _nullable_integers("label_id", "width", "height")


def _part_name(run: int, number: int) -> str:
    return f"{run:04d}-{number:06d}.parquet"


def image_id(run: int, row: int) -> int:
    """Name one row of one plan: unique in the store, ordered like the plans.

    >>> image_id(2, 5) == 2 * 2**40 + 5
    True
    """
    return (run << _ROW_BITS) | row


def run_of(row_id: int) -> int:
    """The run of an ``image_id``."""
    return row_id >> _ROW_BITS


def run_and_row(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs, and rows in their plans, of many ``image_id``."""
    return ids >> _ROW_BITS, ids & ((1 << _ROW_BITS) - 1)


def parse_part_name(name: str) -> tuple[int, int] | None:
    """Run and unit of a file directly under ``predictions/``; ``None`` for a foreign name.

    >>> parse_part_name("0003-000017.parquet")
    (3, 17)
    """
    match = _PART_NAME.match(name)
    if match is None:
        return None
    number = (int(match.group(1)), int(match.group(2)))
    # "0001-0000000.parquet" would answer unit 0 beside its real part: only the name that a writer gives counts.
    return number if name == _part_name(*number) else None


def precision_of(schema: pa.Schema) -> str | None:
    """Number format that the rows of a part file were computed in; ``None`` if an earlier version wrote it."""
    text = (schema.metadata or {}).get(PRECISION_KEY)
    return text.decode(errors="replace") if text is not None else None


TRUST_FIELDS = (
    pa.field("probability", pa.float32()),
    pa.field("decision", pa.string()),
    pa.field("ood_score", pa.float32()),
)
"""Columns that stores of earlier versions lack. Those whose model had no temperature lack ``probability``."""


def profile_of_part(schema: pa.Schema) -> Profile:
    """What the images of a part file are like; empty if an earlier version wrote it."""
    text = (schema.metadata or {}).get(PROFILE_KEY)
    return Profile.model_validate_json(text) if text is not None else Profile()


def part_schema(*, fingerprint: str, calibration: Calibration | None, embedding: bool, logits: bool) -> pa.Schema:
    """The columns of a part file, with the model's fingerprint in the file's metadata."""
    fields = [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
    if calibration is not None:
        # A column of nulls would be taken for probabilities.
        has_probability = calibration.temperature is not None
        fields += [field for field in TRUST_FIELDS if has_probability or field.name != "probability"]
    if embedding:
        fields.append(pa.field("embedding", pa.list_(pa.float32())))
    if logits:
        fields.append(pa.field("logits", pa.list_(pa.float32())))
    return pa.schema(fields, metadata={FINGERPRINT_KEY: fingerprint.encode(), b"pandas": _PANDAS})

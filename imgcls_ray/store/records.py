"""What stands in the JSON files of a label store: its identity, a plan, a finished run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Required, TypedDict

from imgcls_ray.config import StrictModel
from imgcls_ray.models.calibration import Calibration

if TYPE_CHECKING:
    from typing import TypeGuard

    from imgcls_ray.json_files import Json
    from imgcls_ray.store.side_pieces import PresenceRecord, ValuesRecord

IDENTITY_FILE = "store.json"


class PlanRecord(TypedDict, total=False):
    """``plans/NNNN.json``: its counts are checked when it is read, the rest is what some version wrote."""

    run: int
    num_images: Required[int]
    num_units: Required[int]
    created: Json
    """The time, as ``now`` tells it."""
    abandoned: str
    """Likewise, in place of all below: the plan was begun and never ended."""
    input: str | list[str]
    """As it was given to the command that planned; of many, the first ones."""
    like: str
    """The label store whose inputs these are, if they come from one."""
    place: str | list[str]
    """The same, wherever one looks from; of several, those that are folders, prefixes and patterns."""
    include: list[str]
    exclude: list[str] | None
    """The command's own, by the keys of its configuration."""
    left_out: dict[str, int]
    """Numbers of files and folders that the listing left out until then, by rule."""
    sample: Json
    """Size and seed of the random sample that these are from; ``None`` if they are not."""
    retried: Json
    """Codes that the command named."""
    limits: Json
    """The command's own limits, by the keys of its configuration."""
    presence: PresenceRecord
    """Of the last plan of a complete listing: what it found changed."""
    values: ValuesRecord
    """What its lists tell of inputs that the store does not have like that."""


class RunRecord(TypedDict, total=False):
    """``runs/NNNN.json``; what is needed is checked when it is read, the rest is what some version wrote."""

    run: int
    num_images: Required[int]
    num_units: int
    counts: Required[dict[str, int]]
    """Images per status."""
    images_per_s: float
    """Absent where it was not measured; earlier versions wrote 0."""
    stage_seconds: Json
    """Of all workers together in each stage, of the command that finished the run; in ``decode`` and ``forward`` of all
    their cores."""
    verdict: Json
    """What bounds the rate, as ``predict.verdict`` judges it; absent where that was not measured."""
    finished: Required[str]
    abandoned: str
    fingerprint: str
    input: str | list[str]
    left_out: dict[str, int]
    seconds: float
    cost_per_million_images: float
    """Absent without ``price_per_hour``, whose currency it has."""
    profile: Json
    """What its images are like; absent if it has none, or earlier versions wrote it."""
    drift: Json
    """How far these are from those of the model's evaluation; absent if the store knows nothing of them."""
    precisions: list[str]
    """Number formats that its rows were computed in: one, unless ``predict.runs.finish_run`` warned of two."""
    config: Json
    versions: dict[str, str]


class StoreIdentity(StrictModel):
    """Model and columns that all rows of a store share; a run with others is refused."""

    format_version: Literal[1, 2] = 1
    """Version of the format of the store: 2 once files were merged, which versions before cannot read."""
    model: str
    """Name of the model, for people; runs are compared by the fingerprint."""
    fingerprint: str
    """Fingerprint of the model folder that labels."""
    num_classes: int
    """Number of classes of the model."""
    top_k: int
    """Number of labels in each row, best first."""
    embedding: bool
    """Rows also have the features before the classifier head."""
    logits: bool
    """Rows also have the raw score of every class."""
    tta: Literal["none", "hflip"] = "none"
    """Test-time augmentation of all rows; stores of earlier versions have none."""
    calibration: Calibration | None = None
    """Calibration that the labels of all runs are judged by: that of the model folder when the store began. Null in a
    store of an earlier version, whose rows have no columns for it."""


def is_plan_record(record: Json) -> TypeGuard[PlanRecord]:
    return isinstance(record, dict) and all(_is_count(record.get(key)) for key in ("num_images", "num_units"))


def is_run_record(record: Json) -> TypeGuard[RunRecord]:
    if not isinstance(record, dict):
        return False
    counts, rates = record.get("counts"), (record.get(key, 0) for key in ("images_per_s", "cost_per_million_images"))
    return (
        _is_count(record.get("num_images"))
        and isinstance(counts, dict)
        and all(map(_is_count, counts.values()))
        and all(isinstance(rate, int | float) for rate in rates)
        and isinstance(record.get("finished"), str)
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def plan_name(run: int) -> str:
    """Name of the file that marks a plan as complete."""
    return f"plans/{run:04d}.json"


def run_name(run: int) -> str:
    """Name of the file that marks a run as finished."""
    return f"runs/{run:04d}.json"


def segment_name(number: int) -> str:
    """One file of a plan, within the plan's folder."""
    return f"{number:06d}.parquet"


def now() -> str:
    """The time for records: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")

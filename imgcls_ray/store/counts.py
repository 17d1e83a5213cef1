"""What became of a unit, as it travels from the worker that committed it to the command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.models.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class UnitCounts:
    """What became of one unit."""

    number: int
    """Of the unit, in its run."""
    num_images: int
    committed: bool
    """False if another worker's part was there first."""
    codes: Mapping[str, int]
    """Images per status: ``ok`` or an error code; none where nothing was committed here."""
    seconds: StageSeconds
    precision: str | None = None
    """Number format that the rows were computed in; ``None`` where nothing was committed here."""
    profile: Profile = field(default_factory=Profile)
    """Of its images; empty where nothing was committed here."""

    def to_table(self) -> pa.Table:
        """One row, which ``from_table`` reads."""
        row = {"number": self.number, "num_images": self.num_images, "committed": self.committed}
        about = {
            "codes": json.dumps(self.codes),
            "precision": self.precision,
            "profile": self.profile.model_dump_json(),
        }
        return pa.Table.from_pylist([{**row, **about, **asdict(self.seconds)}])

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Read the one row of ``to_table``."""
        [row] = table.to_pylist()
        seconds = StageSeconds(**{one.name: row[one.name] for one in fields(StageSeconds)})
        codes = json.loads(row["codes"])
        profile = Profile.model_validate_json(row["profile"])
        return cls(row["number"], row["num_images"], row["committed"], codes, seconds, row["precision"], profile)

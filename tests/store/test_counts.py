"""What a worker says of a unit that it has committed."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.store.counts import UnitCounts

COUNTS = UnitCounts(
    7, 32, True, {"ok": 30, "corrupt": 2}, StageSeconds(fetch=0.5, decode=1.25, forward=2.0, write=0.1), "bf16"
)


@pytest.mark.parametrize("counts", [COUNTS, UnitCounts(0, 16, False, Counter(), StageSeconds())], ids=["new", "there"])
def test_counts_come_back_as_they_were(counts: UnitCounts) -> None:
    assert UnitCounts.from_table(counts.to_table()) == counts


def test_a_table_of_another_length_is_none() -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        UnitCounts.from_table(pa.concat_tables([COUNTS.to_table(), COUNTS.to_table()]))

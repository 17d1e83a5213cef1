"""From a unit's results to its durable part file, and to its counts."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.models.profile import profile_of
from imgcls_ray.store.counts import UnitCounts
from imgcls_ray.store.schema import LIMITS_KEY, PRECISION_KEY, PROFILE_KEY, STATUS_ERROR, STATUS_OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.models.engines.engine import Computed
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.retrying import Limits
    from imgcls_ray.store.schema import Unit


def commit_unit(
    store: LabelStore,
    class_names: Sequence[str],
    unit: Unit,
    rows: pa.Table,
    results: Sequence[Prediction | ImageError],
    seconds: StageSeconds,
    limits: Limits,
    precision: Computed,
) -> UnitCounts:
    """Write a unit's part file in one create-only step. Returns its counts.

    The file's metadata has the limits of the run, so that an input that failed by a limit is tried again with a wider
    one, and the number format that its rows were computed in. If the part exists already, it is kept: another worker
    has written the same rows.
    """
    start = time.perf_counter()
    table = part_table(store.schema, class_names, rows, results)
    profile = profile_of(results)
    about = {
        LIMITS_KEY: json.dumps(limits).encode(),
        PRECISION_KEY: precision.encode(),
        PROFILE_KEY: profile.model_dump_json().encode(),
    }
    table = table.replace_schema_metadata({**table.schema.metadata, **about})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    committed = store.directory.create(unit.part_name, buffer.getvalue())
    codes = Counter(result.code.value if isinstance(result, ImageError) else STATUS_OK for result in results)
    seconds.write += time.perf_counter() - start
    if not committed:
        return UnitCounts(unit.number, unit.num_rows, False, codes, seconds)
    return UnitCounts(unit.number, unit.num_rows, True, codes, seconds, precision, profile)


def part_table(
    schema: pa.Schema, class_names: Sequence[str], rows: pa.Table, results: Sequence[Prediction | ImageError]
) -> pa.Table:
    """The rows of a part file: one per planned row, in the plan's order."""
    if len(results) != rows.num_rows:
        raise AssertionError(f"{len(results)} results for {rows.num_rows} planned rows")
    columns = {name: rows.column(name) for name in ("image_id", "uri", "etag")}
    good = [None if isinstance(result, ImageError) else result for result in results]
    columns["status"] = [STATUS_ERROR if result is None else STATUS_OK for result in good]
    columns["error"] = [result.code.value if isinstance(result, ImageError) else None for result in results]
    columns["label"] = [result and class_names[result.class_ids[0]] for result in good]
    columns["label_id"] = [result and int(result.class_ids[0]) for result in good]
    columns["score"] = [result and float(result.scores[0]) for result in good]
    columns["labels"] = [result and [class_names[i] for i in result.class_ids] for result in good]
    columns["scores"] = [result and result.scores for result in good]
    columns["width"] = [result and result.width for result in good]
    columns["height"] = [result and result.height for result in good]
    for name in ("probability", "decision", "ood_score"):
        if name in schema.names:
            columns[name] = [result and getattr(result, name) for result in good]
    if "embedding" in schema.names:
        columns["embedding"] = [result and result.embedding for result in good]
    if "logits" in schema.names:
        columns["logits"] = [result and result.logits for result in good]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def done_before(unit: Unit) -> UnitCounts:
    """Counts of a unit whose part existed already."""
    return UnitCounts(unit.number, unit.num_rows, False, Counter(), StageSeconds())

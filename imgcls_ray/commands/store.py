"""``imgcls store``: the content of a label store, its consistency, and its newest rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from imgcls_ray.config import LatestConfig, StoreConfig, make_config, read_values
from imgcls_ray.errors import JobFailedError
from imgcls_ray.options import s3_options
from imgcls_ray.storage import open_directory
from imgcls_ray.store.label_store import open_store
from imgcls_ray.store.latest import write_jsonl, write_latest
from imgcls_ray.store.lease import lease_holder
from imgcls_ray.store.verify import verify_store
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.config import Values
    from imgcls_ray.store.label_store import LabelStore

_MAX_PROBLEMS_SHOWN = 20


def status(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Show model, runs, open units and lease holder of a store."""
    store = _open(make_config(StoreConfig, read_values(StoreConfig, config_file, overrides, flags)))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    identity = store.identity
    columns = "".join(f", {name}" for name in ("embedding", "logits") if getattr(identity, name))
    console.print(
        f"{store.uri}: {identity.model}, {counted(identity.num_classes, 'class', 'classes')}, "
        f"top {identity.top_k}{columns}"
    )
    console.print(f"fingerprint {identity.fingerprint}")
    finished, planned = store.finished_runs(), store.planned_runs()
    table = Table("run", "state", "images", "ok", "errors", "images/s", "finished")
    for column in table.columns[2:6]:
        column.justify = "right"
    num_empty = 0
    for run in sorted({*finished, *planned}):
        if run in finished:
            record = store.run_record(run)
            if not record["num_images"]:
                num_empty += 1
                continue
            num_ok = record["counts"].get("ok", 0)
            table.add_row(
                f"{run:04d}",
                "finished",
                f"{record['num_images']:,}",
                f"{num_ok:,}",
                f"{record['num_images'] - num_ok:,}",
                f"{rate:,}" if (rate := record.get("images_per_s")) else "",
                record["finished"][:16].replace("T", " "),
            )
            continue
        answered = store.answered_units(run)
        num_done = sum(unit.num_rows for unit in store.units(run) if unit.number in answered)
        num_images = store.plan_record(run)["num_images"]
        table.add_row(f"{run:04d}", f"open, {num_done:,} have their row", f"{num_images:,}")
    console.print(table)
    if num_empty:
        # Such a command has claimed a number before it could know that it has nothing to do.
        console.print(f"{counted(num_empty, 'other run')} found nothing new to label")
    if holder := lease_holder(store.directory):
        console.print(f"in use by {holder}")


def verify(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Count gaps, doubles and foreign files.

    Raises:
        JobFailedError: there are some.
    """
    store = _open(make_config(StoreConfig, read_values(StoreConfig, config_file, overrides, flags)))
    report = verify_store(store)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    counts = ", ".join(f"{code} {count:,}" for code, count in report.counts.most_common())
    console.print(
        f"{store.uri}: {counted(report.num_planned, 'input')} planned, {counted(report.num_rows, 'row')} "
        f"({counts or 'none'})"
    )
    for problem in report.problems[:_MAX_PROBLEMS_SHOWN]:
        console.print(f"  {problem}")
    if report.num_problems > _MAX_PROBLEMS_SHOWN:
        console.print(f"  and {report.num_problems - _MAX_PROBLEMS_SHOWN:,} more")
    if holder := lease_holder(store.directory):
        console.print(f"  in use by {holder}: inputs that it has not labelled yet count as missing")
    if not report.is_sound:
        raise JobFailedError(
            f"{store.uri}: {counted(report.num_problems, 'problem')}, {counted(report.num_missing, 'input')} without a "
            f"row, {counted(report.num_doubled, 'row')} doubled"
        )
    console.print("every planned input has exactly one row")


def latest(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Write the newest row of every input, to a file or to stdout."""
    config = make_config(LatestConfig, read_values(LatestConfig, config_file, overrides, flags))
    store = _open(config)
    if config.output is None:
        try:
            write_jsonl(store, sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has enough (`| head`); Python would complain once more when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    print(f"{config.output}: {write_latest(store, Path(config.output)):,} rows")


def _open(config: StoreConfig) -> LabelStore:
    return open_store(open_directory(config.store, s3_options(config)))

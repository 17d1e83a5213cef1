"""``imgcls store``: the content of a label store, its consistency, and its newest rows."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.config import (
    CompactConfig,
    HistoryConfig,
    LatestConfig,
    StatusConfig,
    StoreConfig,
    make_config,
    read_values,
)
from imgcls_ray.errors import JobFailedError
from imgcls_ray.json_files import encode_json
from imgcls_ray.options import storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.store.lease import lease_holder
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.schema import STATUS_OK
from imgcls_ray.store.status import all_runs, read_status
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from imgcls_ray.config import Values
    from imgcls_ray.store.label_store import LabelStore

# Monitors ask for the status every few seconds: what only other commands need is imported in these.
_MAX_PROBLEMS_SHOWN = 20


def status(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Show model, rows, open runs and lease holder of a store."""
    config = make_config(StatusConfig, read_values(StatusConfig, config_file, overrides, flags))
    store = _open(config)
    found = read_status(store)
    if config.json_:
        print(encode_json(found.to_record()).decode(), end="")
        return
    console = _console()
    identity = store.identity
    columns = "".join(f", {name}" for name in ("embedding", "logits") if getattr(identity, name))
    columns += f", tta {identity.tta}" if identity.tta != "none" else ""
    console.print(
        f"{store.uri}: {identity.model}, {counted(identity.num_classes, 'class', 'classes')}, "
        f"top {identity.top_k}{columns}"
    )
    console.print(f"fingerprint {identity.fingerprint}")
    codes = ", ".join(f"{code} {count:,}" for code, count in found.codes.most_common())
    console.print(f"{counted(found.num_rows, 'row')} of {counted(found.num_runs, 'run')} ({codes or 'none'})")
    if found.num_files:
        console.print(f"{counted(found.num_files, 'file')}, {found.num_bytes / 1e6:,.1f} MB")
    if found.last_finished:
        rate = f", {found.images_per_day:,.0f} images a day" if found.images_per_day is not None else ""
        console.print(f"last finished {_short_time(found.last_finished)}{rate}")
    if (cost := found.cost_per_million_images) is not None:
        console.print(f"cost of the newest run with --price-per-hour: {cost:,.2f} for a million images")
    for run in found.open_runs:
        console.print(f"run {run.run:04d} is open: {run.num_done:,} of {run.num_images:,} images have their row")
    if found.num_unlogged:
        # Of an earlier version, or of a command that was killed behind its last step: the next run does it.
        console.print(f"{counted(found.num_unlogged, 'finished run')} not in the log yet")
    if found.holder:
        console.print(f"in use by {found.holder}")


def history(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """List the runs of a store."""
    from rich.table import Table

    config = make_config(HistoryConfig, read_values(HistoryConfig, config_file, overrides, flags))
    store = _open(config)
    if config.json_:
        for run in all_runs(store):
            print(json.dumps(run.to_record()))
        return
    table = Table("run", "state", "images", "ok", "errors", "images/s", "finished")
    for column in table.columns[2:6]:
        column.justify = "right"
    num_empty = 0
    for run in all_runs(store):
        if run.record is None:
            table.add_row(f"{run.run:04d}", f"open, {run.num_done:,} have their row", f"{run.num_images:,}")
        elif not run.num_images:
            num_empty += 1
        else:
            num_ok = run.record["counts"].get(STATUS_OK, 0)
            table.add_row(
                f"{run.run:04d}",
                "finished",
                f"{run.num_images:,}",
                f"{num_ok:,}",
                f"{run.num_images - num_ok:,}",
                f"{rate:,}" if (rate := run.record.get("images_per_s")) else "",
                _short_time(run.record["finished"]),
            )
    console = _console()
    console.print(table)
    if num_empty:
        # Such a command has claimed a number before it could know that it has nothing to do.
        console.print(f"{counted(num_empty, 'other run')} found nothing new to label")


def compact(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Merge files of finished runs, and remove what has been merged before."""
    from imgcls_ray.storage.create_only import prove_create_only
    from imgcls_ray.store.compact import compact_store

    config = make_config(CompactConfig, read_values(CompactConfig, config_file, overrides, flags))
    store = _open(config)
    prove_create_only(store.directory)
    report = compact_store(store, keep_s=config.keep_s, whole=config.whole, is_lost_forgotten=config.forget_lost)
    console = _console()
    if report.num_forgotten_rows:
        console.print(f"{counted(report.num_forgotten_rows, 'row')} lost; the next run labels their images again")
    console.print(
        f"{store.uri}: {counted(report.num_merged_files, 'file')} merged into {report.num_new_files:,} "
        f"({counted(report.num_rows, 'row')}); the rows are in {counted(report.num_pieces, 'sorted piece')}"
    )
    if report.num_removed_files:
        console.print(f"{counted(report.num_removed_files, 'file')} removed that had been merged before")
    if report.num_late_files:
        console.print(f"{counted(report.num_late_files, 'file')} of late writers, which no reader looks at, go later")


def _console() -> Console:
    return StdoutConsole(highlight=False, markup=False, soft_wrap=True)


def _short_time(text: str) -> str:
    return text[:16].replace("T", " ")


def verify(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Count gaps, doubles and foreign files.

    Raises:
        JobFailedError: there are some.
    """
    from imgcls_ray.store.verify import verify_store

    store = _open(make_config(StoreConfig, read_values(StoreConfig, config_file, overrides, flags)))
    report = verify_store(store)
    console = _console()
    counts = ", ".join(f"{code} {count:,}" for code, count in report.counts.most_common())
    console.print(
        f"{store.uri}: {counted(report.num_planned, 'input')} planned, {counted(report.num_rows, 'row')} "
        f"({counts or 'none'})"
    )
    if report.precisions:
        precisions = ", ".join(f"{name} {count:,}" for name, count in report.precisions.most_common())
        console.print(f"  rows by precision: {precisions}")
    for problem in report.problems[:_MAX_PROBLEMS_SHOWN]:
        console.print(f"  {problem}")
    if report.num_problems > _MAX_PROBLEMS_SHOWN:
        console.print(f"  and {report.num_problems - _MAX_PROBLEMS_SHOWN:,} more")
    if report.num_forgotten:
        console.print(f"  {counted(report.num_forgotten, 'row')} lost and forgotten; the next run labels their images")
    for name in report.ignored[:_MAX_PROBLEMS_SHOWN]:
        console.print(f"  {name}: is ignored, a late writer left it; `imgcls store compact` removes it")
    if (more := len(report.ignored) - _MAX_PROBLEMS_SHOWN) > 0:
        console.print(f"  and {more:,} more that are ignored")
    if holder := lease_holder(store.directory):
        console.print(f"  in use by {holder}: inputs that it has not labelled yet count as missing")
    if not report.is_sound:
        raise JobFailedError(
            f"{store.uri}: {counted(report.num_problems, 'problem')}, {counted(report.num_missing, 'input')} without a "
            f"row, {counted(report.num_doubled, 'row')} doubled"
        )
    console.print("every planned input has exactly one row")


def latest(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Write the newest row of every input, to a file, to a folder or to stdout."""
    from imgcls_ray.store.export import write_latest
    from imgcls_ray.store.latest import LatestTable
    from imgcls_ray.store.table_files import write_jsonl

    config = make_config(LatestConfig, read_values(LatestConfig, config_file, overrides, flags))
    store = _open(config)
    if config.output is None:
        try:
            write_jsonl(LatestTable(store, only_present=config.only_present).tables(), sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has enough (`| head`); Python would complain once more when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    storage = storage_options(config)
    num_rows = write_latest(store, config.output, storage, kind=config.format, only_present=config.only_present)
    print(f"{config.output}: {num_rows:,} rows")


def _open(config: StoreConfig) -> LabelStore:
    return open_store(open_directory(config.store, storage_options(config)))

"""``imgcls store diff``: two label stores side by side, in tables, as JSON, and as a page with pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from imgcls_ray.commands.check import check_output, plain
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.config import DiffConfig, make_config, read_values
from imgcls_ray.errors import UsageError
from imgcls_ray.json_files import encode_json
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.store.diff import diff_stores
from imgcls_ray.store.diff_result import ranked
from imgcls_ray.store.opening import open_store
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.store.diff_result import StoreDiff

_NUM_MOVES, _NUM_CLASSES = 20, 20


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Compare what the configuration says; flags win over overrides, overrides over the file."""
    config = make_config(DiffConfig, read_values(DiffConfig, config_file, overrides, flags))
    storage = storage_options(config)
    if config.output is not None:
        check_output(config.output, storage)
    a, b = (open_store(open_directory(place, storage)) for place in config.stores)
    if a.uri == b.uri:
        raise UsageError(f"{a.uri}: is given twice; give two label stores, A and B")
    diff = diff_stores(a, b, num_examples=config.num_examples)
    if config.output is not None:
        from imgcls_ray.report.store_diff import write_report

        write_report(diff, config.output, fetch_limits=fetch_limits(config), decode_limits=decode_limits(config))
    if config.json_:
        print(encode_json(diff.to_record()).decode(), end="")
        return
    _tell(diff)
    if config.output is not None:
        print(f"report: {config.output.rstrip('/')}/store_diff/report.html")


def _tell(diff: StoreDiff) -> None:
    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    console.print(f"A: {diff.a.uri}: {diff.a.model}, fingerprint {diff.a.fingerprint[:12]}")
    console.print(f"B: {diff.b.uri}: {diff.b.model}, fingerprint {diff.b.fingerprint[:12]}")
    share = f" ({diff.num_changed / diff.num_compared:.2%})" if diff.num_compared else ""
    console.print(
        f"{counted(diff.num_compared, 'input')} with a label in both, {diff.num_changed:,} with another one{share}"
    )
    if diff.num_changed:
        console.print(_moves_table(diff))
        console.print(_classes_table(diff))
    for (status_a, status_b), count in ranked(diff.codes):
        console.print(f"not compared: {counted(count, 'input')}, {status_a} in A and {status_b} in B")
    for number, what in (
        (diff.num_other_version, "of another version in B"),
        (diff.num_only_a, "only in A"),
        (diff.num_only_b, "only in B"),
        (diff.num_vanished, "in one of both, and not there any more"),
    ):
        if number:
            console.print(f"not compared: {counted(number, 'input')} {what}")


def _moves_table(diff: StoreDiff) -> Table:
    of_a = {change.name: change.num_a for change in diff.classes}
    moves = diff.moves
    table = Table("class in A", "class in B", "inputs", "of the class in A", "for example", box=box.SIMPLE_HEAD)
    for column in table.columns[2:4]:
        column.justify = "right"
    for move in moves[:_NUM_MOVES]:
        example = plain(move.examples[0].uri) if move.examples else ""
        share = f"{move.num_inputs / of_a[move.label_a]:.1%}"
        table.add_row(plain(move.label_a), plain(move.label_b), f"{move.num_inputs:,}", share, example)
    if more := moves[_NUM_MOVES:]:
        table.add_row(f"{len(more):,} others", "", f"{sum(move.num_inputs for move in more):,}", "", "")
    return table


def _classes_table(diff: StoreDiff) -> Table:
    changed = [change for change in diff.classes if change.num_changed]
    table = Table("class", "in A", "in B", "left", "came", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for change in changed[:_NUM_CLASSES]:
        numbers = (change.num_a, change.num_b, change.num_left, change.num_came)
        table.add_row(plain(change.name), *(f"{number:,}" for number in numbers))
    if more := changed[_NUM_CLASSES:]:
        table.add_row(f"{len(more):,} others")
    return table

"""``imgcls split``: split a labelled dataset anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.config import SplitConfig, make_config, read_values
from imgcls_ray.datasets.split import split_dataset
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.datasets.split import SplitReport


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Split, and show the numbers of images."""
    config = make_config(SplitConfig, read_values(SplitConfig, config_file, overrides, flags))
    report = split_dataset(
        config.data,
        train_percent=config.train_percent,
        val_percent=config.val_percent,
        test_percent=config.test_percent,
        seed=config.seed,
        group_by=config.group_by,
        delimiter=config.delimiter,
        split_folders=config.split_places,
    )
    StdoutConsole(highlight=False, markup=False).print(_table(report))
    for line in _notes(report):
        print(line)


def _table(report: SplitReport) -> Table:
    table = Table("split", box=box.SIMPLE_HEAD)
    table.add_column("images", justify="right")
    table.add_column("share", justify="right")
    total = sum(report.num_images.values())
    for split, num in report.num_images.items():
        table.add_row(split, f"{num:,}", f"{100 * num / total:.2f} %")
    return table


def _notes(report: SplitReport) -> list[str]:
    notes = []
    if report.num_groups is not None:
        notes.append(f"{counted(report.num_groups, 'group')}, each in one split only")
    if report.num_duplicates:
        notes.append(f"duplicate lines that were left out: {report.num_duplicates:,}")
    deviation = report.deviation
    notes.append(
        "every class has its exact share in each split"
        if deviation.num_images == deviation.wanted
        else f"largest deviation from the shares: {deviation.class_name} has "
        f"{deviation.num_images:,} images in {deviation.split}, its exact share is {deviation.wanted:,.2f}"
    )
    if report.backups:
        kept = ", ".join(f"{name} as {backup}" for name, backup in report.backups.items())
        notes.append(f"originals kept: {kept}")
    else:
        notes.append("there were no lists before, so there is no backup")
    return notes

"""``imgcls split``: split a labelled dataset anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import CheckConfig, SplitConfig, make_config, read_values
from imgcls_ray.datasets.split import split_dataset
from imgcls_ray.errors import StoppedError
from imgcls_ray.options import storage_options
from imgcls_ray.words import counted
from imgcls_ray.workers.progress import image_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.datasets.duplicate_groups import Looks
    from imgcls_ray.datasets.labelled import Entry
    from imgcls_ray.datasets.split import SplitReport


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Split, and show the numbers of images."""
    config = make_config(SplitConfig, read_values(SplitConfig, config_file, overrides, flags))
    same = CheckConfig.model_fields.keys() & SplitConfig.model_fields.keys()
    check = make_config(CheckConfig, {key: getattr(config, key) for key in same})
    try:
        report = split_dataset(
            config.data,
            train_percent=config.train_percent,
            val_percent=config.val_percent,
            test_percent=config.test_percent,
            seed=config.seed,
            group_by=config.group_by,
            delimiter=config.delimiter,
            split_folders=config.split_places,
            storage=storage_options(config),
            measure=measuring(check, Console(stderr=True)),
        )
    except KeyboardInterrupt as error:
        raise StoppedError("stopped before the split was made; nothing was written") from error
    StdoutConsole(highlight=False, markup=False).print(_table(report))
    for line in _notes(report):
        print(line)


def measuring(config: CheckConfig, console: Console) -> Callable[[Sequence[Entry]], Looks]:
    """How the images of a dataset are looked at, with progress."""

    def measure(images: Sequence[Entry]) -> Looks:
        from imgcls_ray.datasets.duplicate_groups import measure_looks

        with native_stderr_aside(), image_progress("reading", console) as add:
            return measure_looks(images, config, add)

    return measure


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
    if report.num_unknown:
        notes.append(
            f"{counted(report.num_unknown, 'image')} could not be read, or look like so many others that not all were "
            "compared; `imgcls check` names them"
        )
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

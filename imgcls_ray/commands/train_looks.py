"""``imgcls train --preview``, ``--lr-find`` and ``--auto-batch``: look at a run, and end before it begins."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from imgcls_ray.commands.check import plain
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.options import storage_options
from imgcls_ray.report.range_test import draw_range_test
from imgcls_ray.report.sheet import draw_samples
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.train.begin import continued, new_state
from imgcls_ray.train.entries import read_entries
from imgcls_ray.train.job import check_output
from imgcls_ray.train.largest_batch import find_largest_batch
from imgcls_ray.train.network import check_recipe
from imgcls_ray.train.preview import preview_run
from imgcls_ray.train.range_test import run_range_test
from imgcls_ray.train.result import PREVIEW_FILE, RANGE_FILE
from imgcls_ray.train.trial import Begun
from imgcls_ray.words import counted, duration

if TYPE_CHECKING:
    from imgcls_ray.config import TrainConfig
    from imgcls_ray.storage import Directory

logger = logging.getLogger(__name__)


def look(config: TrainConfig, *, is_shared: bool) -> None:
    """Do what is asked for of the three, and tell it.

    Args:
        config: the run.
        is_shared: as of ``train.job.train``.

    Raises:
        UsageError: the configuration cannot work.
        JobFailedError: training fails in its first steps.
    """
    storage = storage_options(config)
    directory = open_directory(config.output, storage)
    check_output(directory, config.output, is_shared=is_shared)
    entries = read_entries(config.data, delimiter=config.delimiter, split_folders=config.split_places, storage=storage)
    state = new_state(config, entries)
    config, recipe = continued(config, entries, state)
    model = state.model
    check_recipe(model.name, model.architecture, recipe, grad_checkpointing=config.grad_checkpointing)
    begun = Begun(config, entries, state, recipe)
    if config.auto_batch:
        _tell_largest_batch(begun)
    if config.lr_find:
        _tell_range(begun, directory)
    if config.preview:
        _tell_preview(begun, directory)


def _tell_preview(begun: Begun, directory: Directory) -> None:
    preview = preview_run(begun)
    recipe, num_images = begun.recipe, len(begun.entries.tables["train"])
    table = Table("setting", "value", "from", box=box.SIMPLE_HEAD)
    for choice in preview.choices:
        value = f"{choice.value:.3g}" if isinstance(choice.value, float) else str(choice.value)
        table.add_row(choice.key, value, plain(choice.origin))
    StdoutConsole(highlight=False, markup=False).print(table)
    steps = num_images // begun.batch_size
    print(f"{counted(recipe.epochs, 'epoch')} of {counted(steps, 'step')} of {counted(begun.batch_size, 'image')}")
    print(_rate_in_words(begun))
    memory = f"{preview.memory_bytes / 2**30:.2f} GiB of memory"
    workers = counted(begun.config.num_workers or 1, "worker")
    print(
        f"one worker on {preview.device}: {preview.images_per_s:.1f} images/s, {memory}; an epoch takes "
        f"{duration(preview.epoch_s)}, the run {duration(recipe.epochs * preview.epoch_s)} (it has {workers})"
    )
    _write(directory, PREVIEW_FILE, draw_samples(preview.pictures, preview.captions), "augmented pictures")


def _rate_in_words(begun: Begun) -> str:
    recipe = begun.recipe
    rise = f"from 0 in {recipe.warmup_epochs:.3g} epochs" if recipe.warmup_epochs else "from the first step"
    fall = {
        "cosine": f"then along a cosine to {recipe.min_learning_rate:.3g}",
        "step": "then a tenth at 1/4, 1/2 and 3/4 of the epochs",
        "constant": "then constant",
    }
    return f"learning rate of {recipe.optimizer}: {recipe.learning_rate:.3g} {rise}, {fall[recipe.schedule]}"


def _tell_range(begun: Begun, directory: Directory) -> None:
    found = run_range_test(begun)
    here = begun.recipe.learning_rate
    print(
        f"the loss falls fastest at a learning rate of {found.steepest:.2g}, and no more above {found.lowest:.2g}; "
        f"the run has {here:.2g}"
    )
    marks = {"falls fastest": found.steepest, "lowest": found.lowest, "of the run": here}
    _write(directory, RANGE_FILE, draw_range_test(found.rates, found.losses, marks), "range test")


def _tell_largest_batch(begun: Begun) -> None:
    found = find_largest_batch(begun)
    how = "tried out"
    if found.bytes_per_image is not None and found.limit_bytes is not None:
        how = (
            f"{found.bytes_per_image / 2**20:.1f} MiB for each image, {found.limit_bytes / 2**30:.1f} GiB left; "
            "extrapolated from batches of 8 and 32"
        )
    more = ", which are all training images" if found.is_all else ""
    print(f"largest batch of one worker: {counted(found.batch_size, 'image')}{more} ({how})")
    print(f"the run has {begun.batch_size}; with few images, smaller batches learn more (docs/train.md)")


def _write(directory: Directory, name: str, data: bytes, what: str) -> None:
    if not is_object(directory.uri):
        os.makedirs(path_from_uri(directory.uri), exist_ok=True)
    directory.replace(name, data)
    print(f"{what}: {directory.uri}/{name}")

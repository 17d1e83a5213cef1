"""The training job: prepare, train, report, write the result. Run again, it resumes.

One worker on CPUs is a process of this machine. Several workers, GPUs and clusters are Ray Train's, which starts the
workers, connects them, and restarts them after a death. They resume from our own state in the output folder, on storage
that all workers share.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from imgcls_ray.config import dump_config
from imgcls_ray.errors import ImgclsError, JobFailedError, StoppedError, UsageError
from imgcls_ray.json_files import write_failure
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.open import open_model
from imgcls_ray.options import storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import ADDRESSES, is_object
from imgcls_ray.storage.taken import foreign_name
from imgcls_ray.store.lease import LEASE_FILE, hold_lease
from imgcls_ray.train.begin import continued, given_keys, new_state, recipe_of
from imgcls_ray.train.entries import read_entries
from imgcls_ray.train.local import train_here, worker_pool
from imgcls_ray.train.network import check_recipe
from imgcls_ray.train.recipe import LARGEST_ADAMW_RATE
from imgcls_ray.train.reporter import report_to
from imgcls_ray.train.result import (
    CONFIG_FILE,
    PREVIEW_FILE,
    RANGE_FILE,
    RESULT_FILE,
    RUN_NAMES,
    TrainResult,
    write_result,
)
from imgcls_ray.train.saving import BEST
from imgcls_ray.train.state import load_state, save_state
from imgcls_ray.train.task import STATE_NAME
from imgcls_ray.words import counted
from imgcls_ray.workers.pool import is_trained_here
from imgcls_ray.workers.prepare import check_resources

if TYPE_CHECKING:
    from rich.console import Console

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.reporter import Reporter
    from imgcls_ray.train.state import Setting, TrainState
    from imgcls_ray.train.task import Outcome
    from imgcls_ray.workers.forks import ForkServer
    from imgcls_ray.workers.local_pool import LocalPool

logger = logging.getLogger(__name__)

# What the other commands leave in an output that they share with this one (all have the default "output"), and what is
# left of a run that failed before it had a state.
_OF_OTHER_COMMANDS = frozenset(
    {"check_dataset", "evaluate", "inference", LEASE_FILE, PREVIEW_FILE, RANGE_FILE}
    | {f"{mode}_result.json" for mode in ("check_dataset", "train", "evaluate", "export", "predict")}
)


def train(
    config: TrainConfig, console: Console, *, is_shared: bool = False, server: ForkServer | None = None
) -> TrainResult:
    """Run ``imgcls train``.

    Args:
        config: the run.
        console: for the progress.
        is_shared: whether the output may hold any files of others, but none under the names of a run: PaddleX's
            commands and scripts save predictions in the same folder.
        server: process that a worker on this machine is forked from, if it loads already.

    Raises:
        UsageError: the configuration cannot work; raised before workers start.
        JobFailedError: training failed; the last saved state stays.
        StoppedError: a signal stopped the run; the same command resumes it.
    """
    storage = storage_options(config)
    check_resources(
        config,
        num_workers=(config.num_workers or 1) * (config.cpus_per_worker or 1),
        num_gpus=(config.num_workers or 0) if config.uses_gpus else 0,
        some_gpus="device=gpu with num_workers={}",
    )
    directory = open_directory(config.output, storage)
    check_output(directory, config.output, is_shared=is_shared)
    with worker_pool(server) as pool:
        if is_trained_here(config):
            pool.load()
        return _train(config, directory, console, pool)


def _train(config: TrainConfig, directory: Directory, console: Console, pool: LocalPool) -> TrainResult:
    storage = storage_options(config)
    entries = read_entries(config.data, delimiter=config.delimiter, split_folders=config.split_places, storage=storage)
    with hold_lease(directory):
        state = load_state(directory, STATE_NAME)
        is_new = state is None
        if state is None:
            state = new_state(config, entries)
        config, recipe = continued(config, entries, state)
        model = state.model
        check_recipe(model.name, model.architecture, recipe, grad_checkpointing=config.grad_checkpointing)
        if is_new:
            save_state(state, directory, STATE_NAME)
        try:
            return _run(config, entries, state, recipe, directory, console, pool, is_new=is_new)
        except ImgclsError as error:
            write_failure(directory, RESULT_FILE, error)
            raise


def check_output(directory: Directory, output: str, *, is_shared: bool) -> None:
    """Refuse a file, and an output with files of somebody else, which the run would replace or mix with its own.

    Args:
        is_shared: as of ``train``.

    Raises:
        UsageError: it is one of these.
    """
    if not is_object(output) and os.path.isfile(path := path_from_uri(output)):
        raise UsageError(f"{path}: is a file; give a folder for the run, or {ADDRESSES}")
    known = _OF_OTHER_COMMANDS
    if is_shared:
        known |= {name.rstrip("/") for name in directory.entries()} - RUN_NAMES
    if (taken := foreign_name(directory, STATE_NAME, known)) is not None:
        raise UsageError(
            f"{output}: is not the output of a training run (it holds {taken!r} and no {STATE_NAME}); give --output a "
            "new or empty folder"
        )


def _run(
    config: TrainConfig,
    entries: Entries,
    state: TrainState,
    recipe: Recipe,
    directory: Directory,
    console: Console,
    pool: LocalPool,
    *,
    is_new: bool,
) -> TrainResult:
    steps = len(entries.tables["train"]) // state.identity.batch_size
    was_done = state.step >= recipe.epochs * steps and state.best_epoch > 0
    if not was_done:
        _write_config(config, recipe, state.identity.batch_size, directory)
        with report_to(directory, state, console) as reporter:
            _tell_beginning(config, entries, state, recipe, is_new=is_new)
            try:
                outcome = _train_workers(config, entries, state, recipe, reporter, pool)
            finally:
                reporter.close()
        if outcome.kind == "failed":
            raise JobFailedError(f"training failed: {outcome.reason}")
        if outcome.kind == "stopped":
            raise StoppedError(
                f"stopped {outcome.reason}; the same command goes on from there; {config.output} has the state so far"
            )
        state = load_state(directory, STATE_NAME) or state
    write_result(state, entries, directory, data=config.data)
    # Last, when everything of the run is saved: it takes seconds and may fail.
    _bundle(f"{config.output.rstrip('/')}/{BEST}", storage_options(config))
    return TrainResult(
        config.output, state.best_epoch, state.best_metrics, state.history[-1], len(state.bad), was_done=was_done
    )


def _train_workers(
    config: TrainConfig, entries: Entries, state: TrainState, recipe: Recipe, reporter: Reporter, pool: LocalPool
) -> Outcome:
    if is_trained_here(config):
        return train_here(config, entries, state, recipe, reporter, pool)
    from imgcls_ray.train.workers import train_on_ray

    return train_on_ray(config, entries, state, recipe, reporter)


def _bundle(model: str, storage: StorageOptions) -> None:
    """Put the converted network into the model folder, which is whole without it."""
    add_bundle(model, open_model(model if is_object(model) else path_from_uri(model), storage), storage)


def _tell_beginning(config: TrainConfig, entries: Entries, state: TrainState, recipe: Recipe, *, is_new: bool) -> None:
    start = state.identity.start
    counts = ", ".join(f"{counted(len(table), 'image')} to {split}" for split, table in entries.tables.items())
    logger.info("%s: %s, %s", config.data, counted(len(entries.class_names), "class", "classes"), counts)
    if empty := [
        entries.class_names[label] for label, count in enumerate(entries.images_per_class("train")) if not count
    ]:
        logger.warning("%s have no training image, e.g. %s", counted(len(empty), "class", "classes"), empty[0])
    logger.info("%s from %s, at %d pixels", start.name, start.origin, start.train_size)
    values = {"batch_size": state.identity.batch_size, **asdict(recipe)}
    given = given_keys(config, state)
    for what, keys in (("given", given), ("chosen by number of images, weights and network", values.keys() - given)):
        if told := [f"{key}={_short(value)}" for key, value in values.items() if key in keys]:
            logger.info("%s: %s", what, ", ".join(told))
    if recipe.optimizer == "adamw" and recipe.learning_rate > LARGEST_ADAMW_RATE:
        usual = recipe_of(config.model_copy(update={"learning_rate": None}), entries, start)
        logger.warning(
            "learning_rate=%g is too high for AdamW, which learns with %.2g here; leave it out, or give optimizer=sgd",
            recipe.learning_rate,
            usual.learning_rate,
        )
    if not is_new:
        logger.info("%s: holds this run already; it continues after step %d", config.output, state.step)


def _short(value: Setting) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_config(config: TrainConfig, recipe: Recipe, batch_size: int, directory: Directory) -> None:
    values = {**config.model_dump(), **asdict(recipe), "batch_size": batch_size}
    directory.replace(CONFIG_FILE, dump_config(values).encode())

"""``imgcls train``: train, and show the best metrics and the model folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.commands.threads import let_threads_sleep
from imgcls_ray.config import TrainConfig, make_config, read_values
from imgcls_ray.errors import StoppedError
from imgcls_ray.train import WORKER
from imgcls_ray.words import counted
from imgcls_ray.workers.ahead import is_device_settled, loading_ahead
from imgcls_ray.workers.pool import is_trained_here

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.train.result import TrainResult


def run(config_file: Path | None, overrides: Sequence[str], flags: Values, *, is_shared: bool = False) -> None:
    """Train what the configuration says; flags win over overrides, overrides over the file.

    Args:
        config_file: a file of keys.
        overrides: pairs ``key=value``.
        flags: values by key.
        is_shared: whether the output may hold files of others.

    Raises:
        JobFailedError: training failed; ``train_result.json`` has the reason.
    """
    let_threads_sleep()
    values = read_values(TrainConfig, config_file, overrides, flags)
    config = make_config(TrainConfig, values)
    if config.only_looks:
        _look(config, is_shared=is_shared)
        return
    try:
        # What is imported here takes as long as what the worker imports.
        with native_stderr_aside(), loading_ahead(partial(is_surely_here, config), *WORKER) as server:
            from imgcls_ray.commands.device import settle_device
            from imgcls_ray.train.job import train
            from imgcls_ray.workers.without_pandas import spare_pandas

            if server is not None:
                spare_pandas()
            result = train(settle_device(config), Console(stderr=True), is_shared=is_shared, server=server)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped before training began") from error
    _tell(result)


def _look(config: TrainConfig, *, is_shared: bool) -> None:
    from imgcls_ray.commands.device import settle_device
    from imgcls_ray.commands.train_looks import look

    try:
        with native_stderr_aside():
            look(settle_device(config), is_shared=is_shared)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped; nothing was trained") from error


def is_surely_here(config: TrainConfig) -> bool:
    """Whether the one worker is certain to run on this machine; raises as ``is_trained_here``."""
    return is_device_settled(config.device) and is_trained_here(config)


def _tell(result: TrainResult) -> None:
    output = result.output.rstrip("/")
    best, last = result.best_metrics, result.last_metrics
    if result.was_done:
        print(f"{output}: this run is finished already")
    if result.num_bad:
        print(
            f"{counted(result.num_bad, 'image')} could not be read; {output}/bad_images.csv lists them with the reasons"
        )
    print(
        f"best epoch: {result.best_epoch:g} of {last['epoch']:.0f}, val top-1 {best['val.top1']:.2%}, "
        f"top-5 {best['val.top5']:.2%}"
    )
    print(f"model folder: {output}/best_model; curves: {output}/curves.png")

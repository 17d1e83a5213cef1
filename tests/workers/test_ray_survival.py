"""What labelling on Ray survives, on the session's Ray. ``test_survival.py`` shows it of every job as a command."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.units import label_units
from tests.ray_processes import own_ray_processes
from tests.workers.survival import Dataset, assert_all_found, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.store.counts import UnitCounts

pytestmark = pytest.mark.usefixtures("ray_session")


def label(data: Dataset, model: ModelFolder, output: Path, **values: Any) -> None:
    """Label the pictures with two actors, in units of 16."""
    paths = {"input": str(data.root / "images"), "model": str(model.path), "output": str(output)}
    config = make_config(
        PredictConfig, {**paths, "on": "ray", "num_workers": 2, "batch_size": 16, "unit_size": 16, **values}
    )
    predict(config, Console(stderr=True, force_terminal=False))


def test_an_actor_that_is_killed_costs_no_image(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pictures of two megapixels: what comes for an actor comes in the middle of a unit.
    data = Dataset(tmp_path / "data", 160, size=(1600, 1200))
    killed: list[int] = []
    num_behind: list[int] = []

    def kill_one(*args: Any, **kwargs: Any) -> Iterator[UnitCounts]:
        for counts in label_units(*args, **kwargs):
            yield counts
            if not killed:
                killed.append(wait_until(lambda: own_ray_processes("BlockWorker)).submit"))[0])
                os.kill(killed[0], signal.SIGKILL)
            else:
                num_behind.append(counts.num_images)

    monkeypatch.setattr("imgcls_ray.predict.job.label_units", kill_one)
    label(data, small_model, tmp_path / "out")
    assert len(killed) == 1
    assert sum(num_behind) > 0
    assert_all_found("predict", data, tmp_path / "out")


def test_images_that_end_their_actor_cost_themselves_alone(small_model: ModelFolder, tmp_path: Path) -> None:
    data = Dataset(tmp_path / "data", 96, size=(96, 80))
    # Of one unit: the first one ends its actors, by the time limit, and both are told apart when it is done image by
    # image. Each death costs the start of an actor.
    data.poison(36, "LOOP")
    data.poison(44, "CRASH")
    label(data, small_model, tmp_path / "out", decode_timeout_s=2)
    assert_all_found("predict", data, tmp_path / "out")

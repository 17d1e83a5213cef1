"""Runs on Ray Train: several workers, lost ones, object storage."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from imgcls_ray.errors import ResourceError, StorageError
from imgcls_ray.train.job import train
from tests.ray_processes import own_ray_processes
from tests.train.on_s3 import train_through_a_kill

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult
    from tests.s3.server import S3Server

pytestmark = pytest.mark.usefixtures("ray_session", "quick_checks")


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train looks every two seconds whether a worker has ended or died."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


def run(config: TrainConfig) -> TrainResult:
    return train(config, Console(file=io.StringIO()))


def history_of(output: str) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads(Path(output, "train_result.json").read_text())["history"]
    return history


def kill_worker_after(path: Path) -> threading.Thread:
    """Kill the worker when a file is there, once."""

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            # The file first: to look through all processes takes a part of the core that Ray needs to start.
            if path.exists() and (pids := own_ray_processes("RayTrainWorker")):
                os.kill(pids[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_the_run_is_what_it_would_have_been(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    tmp_path: Path,
) -> None:
    config = make_train_config(output=str(tmp_path / "killed"), epochs=8)
    killer = kill_worker_after(tmp_path / "killed" / "best_model" / "model.json")
    run(config)
    killer.join()
    log = (tmp_path / "killed" / "train.log").read_text()
    # Each worker that begins says where.
    assert log.count("steps each; 1 worker on cpu") == 2
    assert "WARNING worker 0 was lost (" in log
    assert [row["epoch"] for row in history_of(config.output)] == list(range(1, 9))
    whole = make_train_config(output=str(tmp_path / "whole"), epochs=8)
    train_here(whole)
    one, other = (load_file(Path(c.output, "latest", "model.safetensors")) for c in (config, whole))
    assert all(one[name].allclose(other[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_two_workers_share_every_batch(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], tmp_path: Path
) -> None:
    # A linear probe: batch norm, which each worker does for itself, has no part in it.
    settings: dict[str, Any] = {"freeze": "backbone", "epochs": 2, "optimizer": "sgd", "learning_rate": 0.1}
    two = make_train_config(output=str(tmp_path / "two"), num_workers=2, **settings)
    run(two)
    one = make_train_config(output=str(tmp_path / "one"), **settings)
    train_here(one)
    for a, b in zip(history_of(two.output), history_of(one.output), strict=True):
        # Dropout is drawn by each worker for itself: a mean over few images is not the same to the last digit.
        assert a["train.loss"] == pytest.approx(b["train.loss"], rel=0.2)
        assert a["val.top5"] == b["val.top5"] == 1.0
    assert "2 workers on cpu" in (tmp_path / "two" / "train.log").read_text()


@pytest.mark.slow
def test_workers_on_object_storage_go_on_after_their_command_was_killed(
    make_train_config: Callable[..., TrainConfig], colours: Path, bucket: str, s3: S3Server
) -> None:
    log = train_through_a_kill(make_train_config, colours, bucket, s3, num_workers=2)
    assert "2 workers on cpu" in log


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_run_with_the_reason(
    make_train_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_train_config(max_failures=0)
    # What a full disk, say, does to each attempt.
    Path(config.output).mkdir(parents=True)
    Path(config.output, "best_model").write_text("in the way")
    with pytest.raises(StorageError, match=r"a worker failed for good: .*best_model.*the same command goes on from"):
        run(config)
    assert json.loads(Path(config.output, "train_result.json").read_text())["done_flag"] is False


def test_more_than_there_is_is_refused(make_train_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ResourceError, match=r"needs 6 CPUs \(3 workers of 2\)"):
        run(make_train_config(num_workers=3, cpus_per_worker=2))

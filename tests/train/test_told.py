"""What a run tells of its model is what the model folder does, however many workers trained it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from imgcls_ray.config import EvaluateConfig, make_config
from imgcls_ray.evaluate.job import evaluate
from tests.train.conftest import write_colours

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult

NUM_VAL = 31


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colours"
    write_colours(folder, num_val=NUM_VAL)
    return folder


def evaluated(data: Path, model: Path, output: Path) -> dict[str, float]:
    """What ``imgcls evaluate`` says of a folder."""
    values = {"data": str(data), "model": str(model), "output": str(output), "engine": "torch", "precision": "fp32"}
    evaluate(
        make_config(EvaluateConfig, {**values, "num_workers": 1, "on": "local", "calibrate": False}),
        Console(stderr=True),
    )
    metrics: dict[str, float] = json.loads((output / "evaluate_result.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize(
    ("num_workers", "ema_decay"),
    [
        (2, 0.9),
        pytest.param(1, 0.0, marks=pytest.mark.slow),
        pytest.param(2, 0.0, marks=pytest.mark.slow),
        pytest.param(4, 0.9, marks=pytest.mark.slow),
    ],
)
def test_what_is_told_is_what_is_published(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    data: Path,
    tmp_path: Path,
    num_workers: int,
    ema_decay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imgcls_ray.train.job.check_resources", lambda *_, **__: None)
    config = make_train_config(data=str(data), num_workers=num_workers, ema_decay=ema_decay, epochs=3)
    result = train_here(config)
    told, published = result.best_metrics, evaluated(data, Path(config.output, "best_model"), tmp_path)
    assert round(NUM_VAL * told["val.top1"]) == round(NUM_VAL * published["val.top1"])
    for key, other in (("loss", "nll"), ("macro_f1", "macro_f1"), ("balanced_accuracy", "balanced_accuracy")):
        assert told[f"val.{key}"] == pytest.approx(published[f"val.{other}"], abs=1e-4)


@pytest.mark.slow
def test_workers_that_were_stopped_go_on_to_the_same_weights(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"num_workers": 2, "ema_decay": 0.9, "epochs": 2}
    whole = make_train_config(output=str(tmp_path / "whole"), **settings)
    train_here(whole)
    parts = make_train_config(output=str(tmp_path / "parts"), **settings)
    with pytest.raises(Exception, match="stopped"):
        train_here(parts, stop_after=2)
    train_here(parts)
    one, other = (load_file(Path(config.output, "latest", "model.safetensors")) for config in (whole, parts))
    assert all(one[name].equal(other[name]) for name in one)

"""A training run on every storage: its dataset, its output, and the model folder that it leaves."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from typing import TYPE_CHECKING

import pytest

from imgcls_ray import create_model
from imgcls_ray.storage import open_directory
from tests.train.conftest import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult


@pytest.mark.parametrize(
    "place", ["s3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("local", "gs", "az"))], indirect=True
)
def test_a_run_reads_and_writes_on_any_storage(
    place: str,
    colours: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
) -> None:
    directory = open_directory(place)
    files = [path for path in colours.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda p: directory.replace(f"data/{p.relative_to(colours)}", p.read_bytes()), files))
    # Loading processes have the environment of their server, which may be one of other tests.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    train_here(make_train_config(data=f"{place}/data", output=f"{place}/run", epochs=1))
    result = json.loads(directory.read("run/train_result.json"))
    assert result["done_flag"] is True
    assert create_model(f"{place}/run/best_model").class_names == CLASSES

"""Promises that belong to no single module; ``guards`` has all of them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from benchmarks.faults import NOT_OUTLIVED, OUTLIVED
from imgcls_ray import create_model, errors
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.classifier import ImageClassifier
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pytest

    from imgcls_ray.models.engines.load import EngineOutput
    from imgcls_ray.models.folder import ModelFolder

ROOT = Path(__file__).parent.parent


def test_exit_codes_mean_what_they_always_meant() -> None:
    meant: dict[type[errors.ImgclsError], int] = {
        errors.JobFailedError: 1,
        errors.CheckFailedError: 1,
        errors.UsageError: 2,
        errors.ConfigError: 2,
        errors.InputError: 2,
        errors.ModelFolderError: 2,
        errors.LabelStoreError: 2,
        errors.LabelStoreDamagedError: 2,
        errors.ResourceError: 2,
        errors.StorageError: 3,
        errors.StoreInUseError: 75,
        errors.StoppedError: 130,
    }
    assert {kind: kind.exit_code for kind in meant} == meant
    assert "0 done; 1 the" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_rows_do_not_depend_on_workers_their_cores_or_what_schedules_them(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, ray_session: None
) -> None:
    images = draw_images(30)
    images[7].write_bytes(b"no image")

    def rows(name: str, **values: Any) -> list[dict[str, Any]]:
        paths = {"input": str(images[0].parent), "model": str(small_model.path), "output": str(tmp_path / name)}
        columns = {"top_k": 7, "embedding": True, "logits": True}
        config = make_config(PredictConfig, {**paths, **columns, "batch_size": 8, **values})
        predict(config, Console(stderr=True, force_terminal=False))
        store = open_store(open_directory(config.output))
        return [{**row, "image_id": 0} for table in latest_rows(store) for row in table.to_pylist()]

    one = rows("local-1", num_workers=1, unit_size=16, on="local")
    assert len(one) == 30
    assert rows("local-2", num_workers=2, unit_size=16, on="local") == one
    assert rows("ray-2", num_workers=2, unit_size=24, on="ray") == one
    for on in ("local", "ray"):
        assert rows(f"shared-{on}", num_workers=1, cores_per_worker=2, unit_size=30, on=on) == one
    # In pieces of at most one unit, each in one process that has all cores.
    for _ in range(2):
        alone = rows("alone", limit=16, unit_size=16)
    assert alone == one


def test_batches_of_the_bulk_job_have_one_fixed_shape(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder
) -> None:
    classifier = ImageClassifier.load(small_model, batch_size=4)
    engine, shapes = classifier.engine, []

    def seen(pixels: np.ndarray) -> EngineOutput:
        shapes.append(pixels.shape)
        return engine(pixels)

    classifier.engine = seen  # type: ignore[assignment]
    for count in (1, 3, 4, 6):
        assert len(list(classifier.classify_encoded(path.read_bytes() for path in draw_images(count)))) == count
    assert shapes == [(4, 64, 64, 3)] * 5


def test_every_part_of_preprocess_is_in_the_fingerprint(tmp_path: Path) -> None:
    from imgcls_ray.models.architecture import build_network
    from imgcls_ray.models.zoo import find_model

    architecture = find_model("PP-LCNet_x0_25").architecture
    network = build_network(architecture, num_classes=2)
    plain = Preprocess(resize_size=72, crop_size=64)
    others: dict[str, Any] = {
        "resize_size": 80,
        "crop_size": 72,
        "interpolation": "bicubic",
        "crop_mode": "squash",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "decode": "scaled",
    }
    # A part that is new changes pixels too: it belongs into this test, with a value that is not its default.
    assert others.keys() == {field.name for field in fields(Preprocess)} == asdict(plain).keys()

    def fingerprint(name: str, preprocess: Preprocess) -> str:
        return save_model_folder(
            tmp_path / name,
            network,
            name="small",
            architecture=architecture,
            class_names=("a", "b"),
            preprocess=preprocess,
        ).spec.fingerprint

    found = [fingerprint(key, replace(plain, **{key: value})) for key, value in others.items()]
    assert len({fingerprint("plain", plain), *found}) == len(others) + 1


def test_a_local_model_folder_labels_without_a_network(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **_values: object) -> NoReturn:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket.socket, "connect_ex", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    images = draw_images(2)
    for engine in ("openvino", "torch"):
        results = list(create_model(str(small_model.path), engine=engine).predict(images))
        assert [result.error for result in results] == [None, None]


def test_converting_and_quantizing_report_to_nobody(tmp_path: Path) -> None:
    program = """
import sys, imgcls_ray, nncf, openvino as ov, torch
ov.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    # Both keep quiet by themselves in CI.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    # There they would keep the number by which they tell one user from another.
    assert not (tmp_path / "intel").exists()


def test_the_benchmark_of_faults_has_at_least_fourteen() -> None:
    assert len((OUTLIVED | NOT_OUTLIVED).keys() - {"none"}) >= 14


def test_every_command_that_repeats_a_figure_is_there() -> None:
    commands = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m benchmarks\.(\w+)", commands))
    assert len(modules) >= 19
    assert {name for name in modules if not (ROOT / "benchmarks" / f"{name}.py").is_file()} == set()

"""What a job on CPUs does not load: torch, timm and, on this machine, pandas take seconds of every start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.folder import open_model_folder
from tests.imported import imported_by
from tests.workers.survival import IMGCLS, Dataset, command_of, exit_code_of

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder
    from tests.workers.survival import Job, Place


@pytest.fixture
def model(small_model: ModelFolder, tmp_path: Path) -> ModelFolder:
    """A model folder with its converted network."""
    path = Path(shutil.copytree(small_model.path, tmp_path / "model"))
    assert add_bundle(str(path), open_model_folder(path))
    return open_model_folder(path)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "data", 64, size=(80, 60))


@pytest.mark.parametrize(
    ("job", "on"),
    [
        ("predict", "local"),
        ("evaluate", "local"),
        ("check", "local"),
        pytest.param("predict", "ray", marks=pytest.mark.slow),
    ],
)
def test_a_job_on_cpus_needs_no_torch(job: Job, on: Place, data: Dataset, model: ModelFolder, tmp_path: Path) -> None:
    command = command_of(job, data, model, tmp_path / "out", "--num-workers", "2", on=on)
    imported = imported_by(command, tmp_path, exit_code=exit_code_of(job))
    assert "cykooz_resizer" in imported
    assert not imported & {"torch", "torchvision", "timm"}
    if on == "local":
        assert not imported & {"ray", *(["pandas"] if job == "predict" else [])}


def test_one_image_needs_no_torch(data: Dataset, model: ModelFolder, tmp_path: Path) -> None:
    imported = imported_by([str(IMGCLS), "predict", str(data.images[1]), "--model", str(model.path)], tmp_path)
    assert "openvino" in imported
    assert not imported & {"ray", "torch", "torchvision", "timm", "pandas"}

"""What the README tells a new user to type does what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray import cli
from imgcls_ray.errors import ImageErrorCode
from tests.datasets.make_faulty import write_clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder
    from tests.s3.server import S3Server

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("  #")[0].strip() for line in README.splitlines() if line.startswith("imgcls ")]


@pytest.fixture
def workplace(
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with what the README speaks of: photos, one photo, a model and weights."""
    photos = draw_images(3, "photos")
    shutil.copy(photos[0], tmp_path / "photo.jpg")
    shutil.copytree(small_model.path, tmp_path / "model")
    shutil.copy(photos[1], tmp_path / "x.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imgcls_ray.workers.pool.is_cluster_given", lambda: False)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_labelling_and_reading_labels_work_in_the_readmes_order(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server, bucket: str
) -> None:
    for file in [*workplace.glob("photos/*"), *workplace.glob("model/*")]:
        s3.client().put_object(Bucket=bucket, Key=str(file.relative_to(workplace)), Body=file.read_bytes())
    commands = [c for c in COMMANDS if c.startswith(("imgcls predict", "imgcls store"))]
    commands = [c for c in commands if "--device" not in c and "model-onnx" not in c]
    commands = [c.replace("s3://bucket/", f"s3://{bucket}/") for c in commands]
    assert len(commands) >= 7
    for command in commands:
        assert run(command, monkeypatch) == 0, command
    assert (workplace / "labels.csv").exists()
    assert (workplace / "labels" / "exports" / "latest.csv").exists()


def test_making_a_model_works(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [look] = [c for c in COMMANDS if c.startswith("imgcls models --")]
    assert run(look, monkeypatch) == 0
    # The other two lines need a network and somebody's weights.
    [command] = [c for c in COMMANDS if c.startswith("imgcls models new") and "--random" in c]
    shutil.rmtree(workplace / "model")
    assert run(command, monkeypatch) == 0
    assert run("imgcls predict photo.jpg --model model", monkeypatch) == 0


def test_checking_and_splitting_a_dataset_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    write_clean(workplace / "data")
    commands = [c for c in COMMANDS if c.startswith(("imgcls check", "imgcls split"))]
    assert len(commands) == 2
    for command in commands:
        assert run(command, monkeypatch) == 0, command
    assert (workplace / "report" / "check_dataset" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_evaluating_and_exporting_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    write_clean(workplace / "data")
    # The session's GPU is none, and a run of 200 epochs is worth one.
    monkeypatch.setattr("imgcls_ray.commands.device.count_gpus", lambda *, of_cluster: 0)
    commands = [c for c in COMMANDS if c.startswith(("imgcls train", "imgcls evaluate", "imgcls export", "imgcls run"))]
    commands += [c for c in COMMANDS if "model-onnx" in c and c.startswith("imgcls predict")]
    assert len(commands) == 5
    for command in commands:
        assert run(command, monkeypatch) == 0, command
    assert (workplace / "model-onnx" / "model.onnx").exists()


def test_the_python_lines_work(workplace: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code.replace("x.png", "x.jpg"), "README.md", "exec"), {})
    assert len(list((workplace / "out").iterdir())) == 10


def test_every_code_stands_in_the_readme_with_its_meaning() -> None:
    for code in ImageErrorCode:
        assert f"| `{code.value}` | {code.message} |" in README


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"@[A-Z]+@", README)
    assert len(README.splitlines()) <= 200

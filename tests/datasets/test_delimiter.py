"""One text between path and class id, whoever reads the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray import config
from imgcls_ray.commands import check as check_command
from imgcls_ray.config import make_config
from imgcls_ray.datasets import check as check_module
from imgcls_ray.datasets.check_result import CheckResult
from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.errors import ConfigError, InputError
from imgcls_ray.evaluate.reading import read_split
from imgcls_ray.report import check_report as report_module
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train.entries import read_entries

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.config.base import StrictModel


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two classes of five images to train with; paths have spaces, tabs and the delimiter itself."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [f"a, b\t{i}.jpg,{i % 2}\n" for i in range(10)]
    (folder / "train.txt").write_text("".join(lines))
    (folder / "val.txt").write_text("c.jpg,1\nd.jpg,0\n")
    (folder / "label.txt").write_text("0 cat\n1 dog\n")
    return folder


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (config.CheckConfig, {"data": "d"}),
        (config.TrainConfig, {"data": "d", "model": "m"}),
        (config.EvaluateConfig, {"data": "d", "model": "m"}),
        (config.ExportConfig, {"model": "m", "output": "o", "format": "onnx"}),
    ],
)
def test_every_configuration_of_a_dataset_has_the_key(kind: type[StrictModel], values: dict[str, str]) -> None:
    assert make_config(kind, values).model_dump()["delimiter"] is None
    assert make_config(kind, {**values, "split_folders": "none"}).model_dump()["split_folders"] == "none"
    assert make_config(kind, {**values, "delimiter": ","}).model_dump()["delimiter"] == ","
    with pytest.raises(ConfigError, match="delimiter: "):
        make_config(kind, {**values, "delimiter": ""})


def test_training_reads_by_it(dataset: Path) -> None:
    entries = read_entries(str(dataset), delimiter=",", storage=DEFAULT_STORAGE)
    assert entries.images_per_class("train").tolist() == [5, 5]
    with pytest.raises(InputError, match="unknown_delimiter"):
        read_entries(str(dataset), delimiter=None, storage=DEFAULT_STORAGE)


def test_evaluation_reads_by_it(dataset: Path, tmp_path: Path) -> None:
    entries = EntryFile(tmp_path / "entries.parquet")
    names = ["cat", "dog"]
    assert read_split(str(dataset), "val", entries, model="m", model_names=names, delimiter=",").num_images == 2


def test_a_check_splits_by_it_before_it_reads_by_it(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def check(config: config.CheckConfig, *_: object) -> CheckResult:
        read.append(read_entries(config.data, delimiter=config.delimiter, storage=DEFAULT_STORAGE))
        return CheckResult(config.data, None, [])

    monkeypatch.setattr(check_module, "check_dataset", check)
    monkeypatch.setattr(report_module, "write_report", lambda *_, **__: None)
    split = {"split.enable": True, "split.train_percent": 50, "split.val_percent": 50}
    check_command.run(None, [], {"data": str(dataset), "output": str(dataset / "out"), "delimiter": ",", **split})
    assert [len(table) for table in read[0].tables.values()] == [6, 6]

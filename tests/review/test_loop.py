"""The loop label, review, train, label, as docs/review.md tells it."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray import cli
from imgcls_ray.demo.draw import draw_dataset
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train.entries import read_entries

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder

PAGE = (Path(__file__).parent.parent.parent / "docs" / "review.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:imgcls|#) .*$", PAGE.split("tests/review/test_loop.py")[1], flags=re.MULTILINE)


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code in (None, 0), command


def answer(folder: Path) -> int:
    """Do what a person does on the page: say of each image of the queue what its name says. Returns their number."""
    with (folder / "queue" / "queue.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [
        {"uri": row["uri"], "etag": row["etag"] or None, "label": Path(row["uri"]).name.split("_")[0]} for row in rows
    ]
    (folder / "answers.json").write_text(json.dumps({"answers": answers}))
    return len(rows)


def num_training_images(folder: Path) -> int:
    return len(read_entries(str(folder / "data"), delimiter=None, storage=DEFAULT_STORAGE).tables["train"])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``data/``, folders of classes, and ``new/``, images to label, some of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imgcls_ray.workers.pool.is_cluster_given", lambda: False)
    drawn = draw_dataset(tmp_path / "drawn", images_per_class=20, size=64)
    drawn.train.rename(tmp_path / "data")
    drawn.to_label.rename(tmp_path / "new")
    return tmp_path


def test_answers_for_a_store_are_images_of_the_next_training(
    workplace: Path, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the trainings: the model is a random one."""
    run("imgcls split data --train-percent 80 --val-percent 20", monkeypatch)
    before = num_training_images(workplace)
    run(f"imgcls predict new --model {small_model.path} --output labels --embedding --report", monkeypatch)
    assert "What the run changed" not in (workplace / "labels" / "report" / "report.html").read_text()
    run("imgcls review labels --dataset data --budget 12 --output queue", monkeypatch)
    assert answer(workplace) == 12
    run("imgcls review --apply answers.json --dataset data", monkeypatch)
    assert num_training_images(workplace) == before + 12
    # What the dataset has is not asked again.
    run("imgcls review labels --dataset data --budget 200 --output queue-2", monkeypatch)
    first, second = (
        {row["uri"] for row in csv.DictReader((workplace / name / "queue.csv").read_text().splitlines())}
        for name in ("queue", "queue-2")
    )
    assert second
    assert not first & second


@pytest.mark.slow
def test_the_walk_through_of_the_page_works(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(COMMANDS) == 9
    for command in COMMANDS:
        if command.startswith("#"):
            assert answer(workplace) == 40
        else:
            run(command, monkeypatch)
    assert num_training_images(workplace) == 6 * 16 + 40

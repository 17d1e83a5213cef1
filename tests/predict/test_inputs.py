"""What a command was given as INPUTs, and what it left out of them, is in its records and told at its end."""

from __future__ import annotations

import csv
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray.commands.predict import run as run_command
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import ConfigError, InputError, JobFailedError, StorageError
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from tests.store.stores import present_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.store.label_store import LabelStore


@pytest.fixture
def label(small_model: ModelFolder, tmp_path: Path) -> Callable[..., PredictReport]:
    """Runs ``imgcls predict`` on so few images that no Ray is started."""

    def run(**values: Any) -> PredictReport:
        paths = {"input": str(tmp_path / "images"), "model": str(small_model.path), "output": str(tmp_path / "store")}
        return predict(make_config(PredictConfig, {**paths, **values}), Console(stderr=True, force_terminal=False))

    return run


def store_of(tmp_path: Path) -> LabelStore:
    return open_store(open_directory(str(tmp_path / "store")))


def rows_of(tmp_path: Path) -> dict[str, str | None]:
    rows = [row for table in latest_rows(store_of(tmp_path)) for row in table.to_pylist()]
    return {row["uri"].rpartition("/")[2]: row["error"] for row in rows}


@pytest.fixture
def images(draw_images: Callable[..., list[Path]], tmp_path: Path) -> list[Path]:
    """Three images with litter between them."""
    drawn = draw_images(3)
    for name in ("Thumbs.db", "a.MOV", "@eaDir/x.jpg", ".DS_Store"):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"litter")
    return drawn


def test_what_was_left_out_is_recorded_by_rule_and_has_no_row(
    label: Callable[..., PredictReport], images: list[Path], tmp_path: Path
) -> None:
    label(exclude=[images[0].name])
    left_out = {f"--exclude {images[0].name}": 1, "*.mov": 1, "@eaDir/": 1, "Thumbs.db": 1}
    left_out["names that begin with a dot"] = 1
    store = store_of(tmp_path)
    assert rows_of(tmp_path) == dict.fromkeys((path.name for path in images[1:]), None)
    assert store.plan_record(1)["left_out"] == store.run_record(1)["left_out"] == left_out


def test_what_is_left_out_later_keeps_its_row(
    label: Callable[..., PredictReport], images: list[Path], tmp_path: Path
) -> None:
    label()
    before = rows_of(tmp_path)
    report = label(exclude=[images[0].name])
    assert (report.plan.listed, report.plan.planned) == (2, 0)
    assert rows_of(tmp_path) == before == dict.fromkeys((path.name for path in images), None)


def test_an_empty_exclude_takes_all(label: Callable[..., PredictReport], images: list[Path], tmp_path: Path) -> None:
    label(exclude="")
    litter = dict.fromkeys(("Thumbs.db", "a.MOV", "x.jpg", ".DS_Store"), "unsupported_format")
    assert rows_of(tmp_path) == {**dict.fromkeys((path.name for path in images), None), **litter}
    assert store_of(tmp_path).run_record(1)["left_out"] == {}


def test_several_inputs_are_one_run(label: Callable[..., PredictReport], images: list[Path], tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f"uri\n{images[1]}\n{tmp_path}/gone.jpg\n")
    inputs = [str(images[0]), str(listed), str(images[2])]
    label(input=inputs)
    assert rows_of(tmp_path) == {**dict.fromkeys((path.name for path in images), None), "gone.jpg": "not_found"}
    assert store_of(tmp_path).run_record(1)["input"] == inputs


def test_many_inputs_are_recorded_in_short(
    label: Callable[..., PredictReport], images: list[Path], tmp_path: Path
) -> None:
    label(input=[str(images[0])] * 150)
    recorded = store_of(tmp_path).run_record(1)["input"]
    assert (len(recorded), recorded[-1]) == (101, "and 50 more")


def test_images_of_several_inputs_that_are_away_end_the_job(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_images(16)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "left.txt").write_text("")
    inputs = [str(tmp_path / "images"), str(tmp_path / "other")]

    def lose_them(*_: object) -> None:
        shutil.rmtree(tmp_path / "images", ignore_errors=True)

    monkeypatch.setattr("imgcls_ray.predict.job.counted", lose_them)
    with pytest.raises(StorageError, match=f": {tmp_path}/images: there is no such file or folder, and 16 images"):
        label(input=inputs)


def test_a_list_that_cannot_be_read_makes_no_store(label: Callable[..., PredictReport], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("photos/a.jpg\n".encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16"):
        label(input=str(tmp_path / "list.txt"))
    assert not (tmp_path / "store").exists()


# --- without a store -------------------------------------------------------------------------------------------------


def test_several_images_are_printed(
    images: list[Path], small_model: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "images" / "broken.jpg"
    broken.write_bytes(b"x")
    found = sorted(str(path) for path in (tmp_path / "images").glob("[!.@]*"))
    run_command(None, [], {"input": found, "model": str(small_model.path), "top_k": 1})
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("/")] == sorted(map(str, [*images, broken]))
    assert "unsupported_format" in out
    assert "left out: 2 by their names: 1 *.mov, 1 Thumbs.db" in out


def test_several_images_that_all_fail_fail_the_command(tmp_path: Path, small_model: ModelFolder) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    inputs = [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    with pytest.raises(JobFailedError, match=r"^all inputs failed \(2\)"):
        run_command(None, [], {"input": inputs, "model": str(small_model.path)})


def test_a_random_sample_is_labelled_and_continued(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(12)
    report = label(sample=4, seed=5)
    assert report.sample is not None
    assert (report.plan.listed, report.plan.new, report.sample.num_seen) == (4, 4, 12)
    first = rows_of(tmp_path)
    assert store_of(tmp_path).plan_record(1)["sample"] == {"size": 4, "seed": 5}
    assert label(sample=4, seed=5).plan.planned == 0
    assert label(sample=7, seed=5).plan.new == 3
    assert len(rows_of(tmp_path)) == 7
    assert first.keys() < rows_of(tmp_path).keys()
    # What is not in the sample has not vanished.
    label()
    label(sample=2)
    assert set(present_of(store_of(tmp_path)).values()) == {True}


def test_a_sample_and_a_limit_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="limit takes the first inputs and sample takes random ones"):
        make_config(PredictConfig, {"input": "a", "model": "m", "output": "s", "sample": 3, "limit": 2})


def test_columns_of_a_list_are_kept_and_told_by_the_command(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = draw_images(2)
    source = tmp_path / "list.csv"
    given = {"input": str(source), "model": str(small_model.path), "output": str(tmp_path / "store"), "export": "csv"}
    for skus, number in (("ab", 2), ("ab", None), ("ac", 1)):
        source.write_text(f"uri,sku\n{first},{skus[0]}\n{second},{skus[1]}\n")
        run_command(None, [], {**given, "device": "cpu"})
        told = capsys.readouterr().out
        assert (f"other columns of lists: kept for {number} input" in told) is (number is not None)
        exported = (tmp_path / "store" / "exports" / "latest.csv").read_text().splitlines()
        assert [row["input.sku"] for row in csv.DictReader(exported)] == list(skus)
    assert [store_of(tmp_path).plan_record(run)["num_images"] for run in (1, 2, 3)] == [2, 0, 0]

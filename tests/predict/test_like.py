"""``--like``: another model labels what a store names, in the versions that it names, and goes on with what is new."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray.config import PredictConfig, load_config, make_config
from imgcls_ray.errors import ConfigError, InputError, LabelStoreError
from imgcls_ray.inputs import listing
from imgcls_ray.models.api import create_model
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import LatestTable, latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.conftest import make_small_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.predict.report import PredictReport


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """With classes of its own, some of which have the names of the small model's."""
    path = tmp_path_factory.mktemp("model") / "new"
    return make_small_model(path, seed=7, class_names=("ant", "bee", "cow", "dog"))


def run(**values: Any) -> PredictReport:
    config = make_config(PredictConfig, {"device": "cpu", **{key: str(value) for key, value in values.items()}})
    return predict(config, Console(stderr=True, force_terminal=False))


def rows_of(store: Path) -> list[dict[str, Any]]:
    return [row for table in latest_rows(open_store(open_directory(str(store)))) for row in table.to_pylist()]


@pytest.fixture
def old(draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path) -> Path:
    """A store of nine images, one of which is broken and one gone."""
    images = draw_images(9)
    images[3].write_bytes(b"no image")
    run(input=images[0].parent, model=small_model.path, output=tmp_path / "old")
    images[5].unlink()
    run(input=images[0].parent, model=small_model.path, output=tmp_path / "old")
    return tmp_path / "old"


def test_the_inputs_of_a_store_are_labelled_by_another_model_without_a_listing(
    old: Path, new_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was listed")

    monkeypatch.setattr(listing, "list_folder", refuse)
    report = run(like=old, model=new_model.path, output=tmp_path / "new")
    assert (report.plan.listed, report.plan.new) == (8, 8)
    rows = rows_of(tmp_path / "new")
    assert [(row["uri"], row["etag"], row["error"]) for row in rows] == [
        (row["uri"], row["etag"], row["error"]) for row in rows_of(old) if row["present"]
    ]
    expected = {result.input: result for result in create_model(new_model.path).predict(tmp_path / "images")}
    for row in rows:
        if row["error"] is None:
            assert row["label"] == expected[row["uri"]].label
    assert verify_store(open_store(open_directory(str(tmp_path / "new")))).problems == []
    plan = json.loads((tmp_path / "new" / "plans" / "0001.json").read_text())
    assert (plan["like"], plan["input"]) == (str(old), [])
    assert "presence" not in plan


def test_the_same_command_goes_on_with_what_is_new_in_the_other_store(
    old: Path, small_model: ModelFolder, new_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    run(like=old, model=new_model.path, output=tmp_path / "new")
    again = run(like=old, model=new_model.path, output=tmp_path / "new")
    assert (again.plan.planned, again.plan.answered) == (0, 8)
    images = draw_images(2, "images/more", seed=1)
    shutil.copy(images[0], tmp_path / "images" / "00000.jpg")
    run(input=tmp_path / "images", model=small_model.path, output=old)
    third = run(like=old, model=new_model.path, output=tmp_path / "new")
    assert (third.plan.new, third.plan.changed, third.plan.answered) == (2, 1, 7)
    assert [(row["uri"], row["etag"]) for row in rows_of(tmp_path / "new")] == [
        (row["uri"], row["etag"]) for row in rows_of(old) if row["present"]
    ]


def test_only_the_version_that_the_other_store_has_is_labelled(
    old: Path, new_model: ModelFolder, tmp_path: Path
) -> None:
    os.utime(tmp_path / "images" / "00001.jpg", ns=(1, 1))
    run(like=old, model=new_model.path, output=tmp_path / "new")
    errors = {row["uri"].rpartition("/")[2]: row["error"] for row in rows_of(tmp_path / "new") if row["error"]}
    assert errors == {"00001.jpg": "changed", "00003.jpg": "unsupported_format"}


def test_a_limit_takes_the_first_ones(old: Path, new_model: ModelFolder, tmp_path: Path) -> None:
    run(like=old, model=new_model.path, output=tmp_path / "new", limit=3)
    assert len(rows_of(tmp_path / "new")) == 3


def test_a_store_has_one_model(old: Path, small_model: ModelFolder, new_model: ModelFolder, tmp_path: Path) -> None:
    run(like=old, model=new_model.path, output=tmp_path / "new")
    with pytest.raises(LabelStoreError, match="belongs to another model"):
        run(like=old, model=small_model.path, output=tmp_path / "new")


def test_a_store_is_not_made_like_itself(old: Path, small_model: ModelFolder) -> None:
    with pytest.raises(InputError, match=r"old: is the label store that is written; give another --output"):
        run(like=old, model=small_model.path, output=old)
    assert len(rows_of(old)) == 9


def test_what_is_no_store_is_refused(new_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: is not a label store"):
        run(like=tmp_path / "nothing", model=new_model.path, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("image", ["photos", ["a.jpg", "b.jpg"]])
def test_input_and_like_exclude_each_other(image: Any) -> None:
    message = "INPUT and --like exclude each other: give the images to label, or the store that has them"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make_config(PredictConfig, {"input": image, "like": "old", "model": "m", "output": "new"})


def test_like_needs_no_input_and_survives_its_own_record(tmp_path: Path) -> None:
    config = make_config(PredictConfig, {"like": "old", "model": "m", "output": "new"})
    assert (config.inputs, config.input_text) == ((), "the inputs of old")
    assert PredictConfig.model_validate(config.model_dump()) == config
    (tmp_path / "keys.yaml").write_text("like: old\nmodel: m\noutput: new\n")
    assert make_config(PredictConfig, load_config(tmp_path / "keys.yaml")) == config


def test_what_lists_said_of_the_inputs_comes_along(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, new_model: ModelFolder, tmp_path: Path
) -> None:
    first, second = draw_images(2)
    lines = ["uri,sku", f"{first},x", f"{second},y", f"{first},z"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    run(input=tmp_path / "list.csv", model=small_model.path, output=tmp_path / "old")
    for name, more, expected in (("new", {}, ["x", "z", "y"]), ("bare", {"keep_columns": ""}, None)):
        report = run(like=tmp_path / "old", model=new_model.path, output=tmp_path / name, **more)
        assert report.plan.new == 2
        exported = LatestTable(open_store(open_directory(str(tmp_path / name))))
        rows = [row for table in exported.tables() for row in table.to_pylist()]
        assert (expected is None and len(rows) == 2) or [row["input"]["sku"] for row in rows] == expected

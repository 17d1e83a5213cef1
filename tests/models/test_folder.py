"""The model folder: whole or not at all, and refused unless everything fits together."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.calibration import Calibration, Thresholds
from imgcls_ray.models.folder import (
    ModelFolder,
    describe_exported_folder,
    open_model_folder,
    save_model_folder,
    sha256_file,
    update_model,
)
from imgcls_ray.models.new import new_model_folder
from tests.conftest import make_small_model
from tests.models.rewrite import rewrite_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THRESHOLDS = Thresholds(
    target_precision=0.98, confidence=0.95, threshold=0.75, by_class={2: 0.5}, split="val", num_images=400, coverage=0.9
)


@pytest.fixture
def folder(small_model: ModelFolder, tmp_path: Path) -> Path:
    return shutil.copytree(small_model.path, tmp_path / "copy")


def edit_spec(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    spec = json.loads((folder / "model.json").read_text())
    change(spec)
    (folder / "model.json").write_text(json.dumps(spec))


def test_what_was_saved_is_loaded(small_model: ModelFolder) -> None:
    opened = open_model_folder(small_model.path)
    assert opened.spec == small_model.spec
    weights = load_file(small_model.path / "model.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in opened.load_network().state_dict().items())


def test_the_same_parts_give_the_same_fingerprint(small_model: ModelFolder, tmp_path: Path) -> None:
    assert make_small_model(tmp_path / "again", seed=0).spec.fingerprint == small_model.spec.fingerprint


def test_a_folder_of_whole_decoding_is_written_as_before_there_was_another(small_model: ModelFolder) -> None:
    spec = json.loads((small_model.path / "model.json").read_text())
    assert "decode" not in spec["preprocess"]
    assert open_model_folder(small_model.path).spec.preprocess.decode == "full"


def test_an_edited_decode_is_refused(folder: Path) -> None:
    edit_spec(folder, lambda spec: spec["preprocess"].update(decode="scaled"))
    with pytest.raises(ModelFolderError, match="the file was edited"):
        open_model_folder(folder)
    edit_spec(folder, lambda spec: spec["preprocess"].update(decode="half"))
    with pytest.raises(ModelFolderError, match="'full' or 'scaled'"):
        open_model_folder(folder)


def test_other_weights_or_class_names_give_another_fingerprint(small_model: ModelFolder, tmp_path: Path) -> None:
    names = tuple(reversed(small_model.spec.class_names))
    fingerprints = {
        small_model.spec.fingerprint,
        make_small_model(tmp_path / "seed", seed=1).spec.fingerprint,
        make_small_model(tmp_path / "names", seed=0, class_names=names).spec.fingerprint,
    }
    assert len(fingerprints) == 3


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="there is no such model folder; `imgcls models new` makes one"):
        open_model_folder(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=name):
        open_model_folder(folder)


def test_changed_weights_are_refused(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is not the file that model\.json describes"):
        open_model_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["class_names"].reverse(), "do not belong together"),
        (lambda spec: spec["preprocess"].update(resize_size=80), "do not belong together"),
        (lambda spec: spec["class_names"].append("ant"), "do not belong together"),
        (lambda spec: spec.update(format_version=2), "format_version"),
        (lambda spec: spec.update(surprise=1), "surprise"),
        (lambda spec: spec["preprocess"].update(crop_size=100_000), "crop_size"),
        (lambda spec: spec.update(class_names=[]), "class_names"),
    ],
)
def test_an_edited_description_is_refused(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_spec(folder, change)
    with pytest.raises(ModelFolderError, match=message):
        open_model_folder(folder)


def test_a_description_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"model\.json"):
        open_model_folder(folder)


def test_another_class_count_than_the_heads_is_refused(folder: Path) -> None:
    edit_spec(folder, lambda spec: spec["class_names"].append("hen"))
    opened = rewrite_weights(folder, lambda weights: None)
    with pytest.raises(ModelFolderError, match=r"classifier.* has shape \(7.*8 classes"):
        opened.load_network()


def test_weights_that_are_not_numbers_are_refused(folder: Path) -> None:
    opened = rewrite_weights(folder, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    with pytest.raises(ModelFolderError, match=r"classifier\.bias holds values that are not finite"):
        opened.load_network()


def test_missing_and_foreign_weights_are_named(folder: Path) -> None:
    opened = rewrite_weights(folder, lambda weights: weights.pop("classifier.bias"))
    with pytest.raises(ModelFolderError, match=r"lacks 1 weight, first 'classifier\.bias'"):
        opened.load_network()
    opened = rewrite_weights(
        folder, lambda weights: weights.update({"classifier.bias": torch.zeros(7), "backdoor": torch.zeros(1)})
    )
    with pytest.raises(ModelFolderError, match="not of this network, first 'backdoor'"):
        opened.load_network()


@pytest.mark.parametrize("header", [b"", b"\xff" * 8, (8 * 2**30).to_bytes(8, "little"), b"\x02\0\0\0\0\0\0\0{}x"])
def test_a_file_that_is_not_safetensors_is_refused(folder: Path, header: bytes) -> None:
    from imgcls_ray.models import spec as module

    (folder / "model.safetensors").write_bytes(header)
    digest = sha256_file(folder / "model.safetensors")
    edit_spec(folder, lambda spec: spec.update(weights_sha256=digest))
    spec = json.loads((folder / "model.json").read_text())
    edit_spec(folder, lambda spec_: spec_.update(fingerprint=module._fingerprint(spec)))
    with pytest.raises(ModelFolderError):
        open_model_folder(folder).load_network()


def test_saving_over_something_is_refused(small_model: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelFolderError, match="already exists and is not empty"):
        new_model_folder("PP-LCNet_x0_25", tmp_path / "taken", class_names=["a", "b"], random_seed=0)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"


def test_a_failed_save_leaves_nothing(small_model: ModelFolder, tmp_path: Path) -> None:
    spec = small_model.spec
    with pytest.raises(ModelFolderError, match=r"classifier\.\w+ has shape \(7,.*\), but the network with the 2"):
        save_model_folder(
            tmp_path / "model",
            small_model.load_network(),
            name=spec.name,
            architecture=spec.architecture,
            class_names=["a", "b"],
            preprocess=spec.preprocess,
        )
    assert list(tmp_path.iterdir()) == []


def test_metrics_and_what_is_fitted_are_added_and_the_model_stays_the_same(
    folder: Path, small_model: ModelFolder
) -> None:
    fingerprint = small_model.spec.fingerprint
    update_model(str(folder), fingerprint, {"val.top1": 0.5}, {"temperature": 1.25})
    update_model(str(folder), fingerprint, {"val.top1": 0.75}, {"thresholds": THRESHOLDS})
    spec = open_model_folder(folder).spec
    assert spec.metrics == {"val.top1": 0.75}
    assert spec.fitted == Calibration(temperature=1.25, thresholds=THRESHOLDS)
    assert spec.model_copy(update={"metrics": {}, "calibration": None}) == small_model.spec
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_the_temperature_of_an_earlier_version_is_read_and_moves_when_something_is_fitted(
    folder: Path, small_model: ModelFolder
) -> None:
    edit_spec(folder, lambda spec: spec["metrics"].update(temperature=1.5))
    assert open_model_folder(folder).spec.fitted == Calibration(temperature=1.5)
    update_model(str(folder), small_model.spec.fingerprint, {}, {"thresholds": THRESHOLDS})
    spec = open_model_folder(folder).spec
    assert "temperature" not in spec.metrics
    assert spec.fitted == Calibration(temperature=1.5, thresholds=THRESHOLDS)


def test_an_export_takes_along_what_was_fitted_to_the_same_numbers_only(folder: Path, tmp_path: Path) -> None:
    spec = open_model_folder(folder).spec.model_copy(update={"calibration": Calibration(temperature=1.25)})
    (tmp_path / "model.onnx").write_bytes(b"a network")
    for is_int8, fitted in ((False, Calibration(temperature=1.25)), (True, Calibration())):
        assert describe_exported_folder(tmp_path, spec, "onnx", is_int8=is_int8).spec.fitted == fitted


def test_metrics_of_another_model_are_refused(folder: Path) -> None:
    before = (folder / "model.json").read_bytes()
    with pytest.raises(ModelFolderError, match="was replaced by another model meanwhile"):
        update_model(str(folder), "0" * 64, {"val.top1": 0.5}, {})
    assert (folder / "model.json").read_bytes() == before

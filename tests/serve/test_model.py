"""A model answers nobody before it has said what it must; one that does not is refused with the reason."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from imgcls_ray.config import ModelChoice, make_config
from imgcls_ray.errors import ConfigError, ImageError, ModelFolderError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.bundle import BUNDLE
from imgcls_ray.models.classifier import Prediction, decode_model_input
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.known_pictures import known_pictures
from imgcls_ray.serve import model as serve_model
from imgcls_ray.serve import reference
from imgcls_ray.serve.fleet import Chosen
from imgcls_ray.serve.model import ModelOptions, ServedModel, load_model
from imgcls_ray.serve.reference import find_reference
from imgcls_ray.serve.service import _status
from imgcls_ray.storage import FetchLimits
from tests.models.rewrite import rewrite_weights
from tests.serve.conftest import believe_engines, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.api import Model
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.folder import ModelFolder

OPTIONS = ModelOptions(precision="fp32", max_batch_size=3)


@pytest.fixture
def engines_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    believe_engines(monkeypatch)


@pytest.fixture
def copied(small_model: ModelFolder, tmp_path: Path) -> Path:
    """A folder to break."""
    return Path(shutil.copytree(small_model.path, tmp_path / "copied"))


@pytest.fixture(scope="module")
def golden(python_model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A picture and its label."""
    path = tmp_path_factory.mktemp("golden") / "golden.jpg"
    path.write_bytes(picture(3))
    [result] = python_model.predict(str(path))
    assert result.label is not None
    return str(path), result.label


def load(model: object, **choice: Any) -> ServedModel:
    return load_model(make_config(ModelChoice, {"model": str(model), **choice}), OPTIONS)


def test_a_model_is_compared_with_what_another_process_says_of_it(small_model: ModelFolder) -> None:
    """The whole way, as a replica goes it."""
    model = load(small_model.path, fingerprint=small_model.spec.fingerprint)
    assert (model.name, model.fingerprint) == ("small", small_model.spec.fingerprint)


def test_every_engine_says_the_same_at_every_batch_size(served_model: ServedModel, python_model: Model) -> None:
    contents = [picture(seed) for seed in range(8)]
    inputs = [decode_model_input(content, served_model.preprocess, DecodeLimits()) for content in contents]
    assert not any(isinstance(one, ImageError) for one in inputs)
    expected = list(python_model.predict(contents, top_k=7))
    for thread in range(len(served_model.classifiers)):
        for size in range(1, 9):
            answers = served_model.classify(cast("list[ModelInput]", inputs[:size]), thread, top_k=7)
            for answer, result in zip(answers, expected, strict=False):
                assert isinstance(answer, Prediction)
                assert tuple(answer.class_ids) == result.class_ids
                assert tuple(answer.scores) == pytest.approx(result.scores, abs=0.001)


def test_what_one_batch_asks_for_stays_with_it(served_model: ServedModel) -> None:
    images = [decode_model_input(picture(0), served_model.preprocess, DecodeLimits())]
    before = [classifier.top_k for classifier in served_model.classifiers]
    for top_k, num_labels in [(7, 7), (1, 1), (100, 7), (3, 3)]:
        [answer] = served_model.classify(cast("list[ModelInput]", images), top_k=top_k)
        assert isinstance(answer, Prediction)
        assert len(answer.class_ids) == num_labels
    assert [classifier.top_k for classifier in served_model.classifiers] == before


@pytest.mark.usefixtures("engines_are_believed")
def test_the_beginning_of_a_fingerprint_is_enough(small_model: ModelFolder) -> None:
    assert load(small_model.path, fingerprint=small_model.spec.fingerprint[:8]).name == "small"


def test_another_fingerprint_is_refused_before_anything_is_loaded(
    small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pytest.fail)
    with pytest.raises(ModelFolderError, match="is another model than the one asked for") as caught:
        load(small_model.path, fingerprint="0123456789abcdef")
    assert small_model.spec.fingerprint[:12] in str(caught.value)
    assert "0123456789ab" in str(caught.value)


@pytest.mark.parametrize("fingerprint", ["", "1234567", "x" * 8, "A" * 8, "0" * 65])
def test_what_cannot_be_a_fingerprint_is_refused(fingerprint: str) -> None:
    with pytest.raises(ConfigError, match="fingerprint"):
        make_config(ModelChoice, {"model": "m", "fingerprint": fingerprint})


def flip_a_byte(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    (path / "model.safetensors").write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path / "model.safetensors", 1000)


def rename_classes(path: Path) -> None:
    spec = json.loads((path / "model.json").read_text())
    spec["class_names"] = spec["class_names"][::-1]
    (path / "model.json").write_text(json.dumps(spec))


def write_nonsense(path: Path) -> None:
    (path / "model.json").write_bytes(b"\xff\xfe{")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "model.safetensors is not the file that model.json describes"),
        (cut, "model.safetensors is not the file that model.json describes"),
        (lambda path: (path / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda path: (path / "model.json").unlink(), "holds no model.json"),
        (rename_classes, "the file was edited"),
        (write_nonsense, "Invalid JSON"),
        (shutil.rmtree, "copied"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_loaded(
    damage: Callable[[Path], None], reason: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pytest.fail)
    damage(copied)
    with pytest.raises(Exception, match=reason):
        load(copied)


def answer_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the other process's work be done in this one, which has its libraries loaded."""

    def run(_command: object, *, input: bytes, capture_output: bool) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.CompletedProcess([], 0, reference._answer(json.loads(input)), b"")
        except ModelFolderError as error:
            return subprocess.CompletedProcess([], 2, b"", f"a warning\n{error}\n".encode())

    monkeypatch.setattr(subprocess, "run", run)


def test_weights_that_are_not_numbers_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_here(monkeypatch)
    rewrite_weights(copied, lambda weights: weights["classifier.weight"].__setitem__((0, 0), np.nan))
    with pytest.raises(ModelFolderError, match=r"classifier\.weight holds values that are not finite numbers"):
        load(copied)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_whose_output_is_not_a_number_is_refused(
    value: float, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.zeros((3, 7), np.float32)
    logits[1, 2] = value
    done = subprocess.CompletedProcess([], 0, logits.tobytes(), b"")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: done)
    with pytest.raises(ModelFolderError, match="the network's output for a picture is not a finite number"):
        load(small_model.path)


def test_weights_of_another_number_of_classes_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_here(monkeypatch)

    def drop_a_class(weights: dict[str, torch.Tensor]) -> None:
        weights["classifier.weight"] = weights["classifier.weight"][:-1].clone()

    rewrite_weights(copied, drop_a_class)
    with pytest.raises(ModelFolderError, match=r"classifier\.weight has shape"):
        load(copied)


def test_an_engine_that_says_something_else_is_refused(
    small_model: ModelFolder, other_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_here(monkeypatch)
    right = find_reference(small_model, count=3, engine="openvino", device="cpu")
    assert right is not None
    for logits in (right.logits[::-1], right.logits[:, ::-1], -right.logits):
        wrong = right._replace(logits=logits)
        monkeypatch.setattr(serve_model, "find_reference", lambda *_args, wrong=wrong, **_options: wrong)
        with pytest.raises(ModelFolderError, match="the engine says something else than the network in float32"):
            load(small_model.path)
    monkeypatch.setattr(serve_model, "find_reference", lambda *_args, **_options: right)
    assert load(small_model.path).name == "small"


@pytest.mark.parametrize(("returncode", "stderr"), [(-9, b""), (1, b"Traceback: ...\nMemoryError\n"), (-11, b"\xff")])
def test_a_process_that_ends_badly_refuses_the_model(
    returncode: int, stderr: bytes, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], returncode, b"", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: done)
    with pytest.raises(ModelFolderError, match=f"the process that reads the network ended with {returncode}"):
        load(small_model.path)


# --- golden pictures -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engines_are_believed")
def test_answers_of_two_classes_of_one_name_are_counted_apart(small_model: ModelFolder) -> None:
    spec = small_model.spec.model_copy(update={"class_names": ("crane", "kite", "crane")})
    chosen = Chosen(ServedModel("m", replace(small_model, spec=spec), ()), "stable")
    answers = (Prediction(1, 1, np.array([label]), np.array([0.5])) for label in range(3))
    assert [_status(answer, chosen) for answer in answers] == [
        ("ok", "crane (id 0)"),
        ("ok", "kite"),
        ("ok", "crane (id 2)"),
    ]


def test_a_model_that_knows_its_golden_picture_is_loaded(small_model: ModelFolder, golden: tuple[str, str]) -> None:
    image, label = golden
    assert load(small_model.path, golden=[{"image": image, "label": label}]).name == "small"


@pytest.mark.usefixtures("engines_are_believed")
def test_a_model_that_takes_a_golden_picture_for_another_is_refused(
    small_model: ModelFolder, golden: tuple[str, str]
) -> None:
    image, label = golden
    wrong = next(name for name in small_model.spec.class_names if name != label)
    with pytest.raises(ModelFolderError) as caught:
        load(small_model.path, golden=[{"image": image, "label": label}, {"image": image, "label": wrong}])
    assert f"takes the golden picture {image} for {label!r}" in str(caught.value)
    assert f"it must be {wrong!r}" in str(caught.value)


@pytest.mark.usefixtures("engines_are_believed")
def test_a_model_without_the_class_of_a_golden_picture_is_refused(
    small_model: ModelFolder, golden: tuple[str, str]
) -> None:
    with pytest.raises(ModelFolderError, match=r"has no class 'unicorn', which the golden picture .* must get"):
        load(small_model.path, golden=[{"image": golden[0], "label": "unicorn"}])


@pytest.mark.usefixtures("engines_are_believed")
def test_a_golden_picture_that_cannot_be_read_refuses_the_model(small_model: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(picture(0)[:100])
    for name in ("broken.jpg", "missing.jpg", "."):
        with pytest.raises(ModelFolderError, match=r"golden picture .*: cannot be read"):
            load(small_model.path, golden=[{"image": str(tmp_path / name), "label": "ant"}])


@pytest.mark.usefixtures("engines_are_believed")
def test_golden_pictures_are_read_from_no_private_address_unless_allowed(small_model: ModelFolder) -> None:
    choice = make_config(
        ModelChoice,
        {"model": str(small_model.path), "golden": [{"image": "http://127.0.0.1:1/a.jpg", "label": "ant"}]},
    )
    options = ModelOptions(precision="fp32", max_batch_size=1, fetch_limits=FetchLimits(timeout_s=5))
    with pytest.raises(ModelFolderError, match="private network"):
        load_model(choice, options)


# --- the converted network of the folder ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its converted network."""
    path = Path(shutil.copytree(small_model.path, tmp_path_factory.mktemp("made") / "model"))
    assert add_bundle(str(path), open_model_folder(path))
    return path


def test_what_the_folder_says_itself_needs_no_other_process(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert load(made).name == "small"


def test_it_says_what_another_process_would(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_here(monkeypatch)
    folder = open_model_folder(made)
    found = find_reference(folder, count=5, engine="openvino", device="cpu")
    assert found is not None
    monkeypatch.setattr(reference, "_bundled", lambda *_: None)
    expected = find_reference(folder, count=2, engine="openvino", device="cpu")
    assert expected is not None
    order = [0, 1, 1, 0, 1]
    np.testing.assert_array_equal(found.logits, expected.logits[order])
    np.testing.assert_array_equal(found.pictures, expected.pictures[order])


def test_on_a_new_machine_another_process_compares_it_and_builds_no_network(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    answer_here(monkeypatch)
    monkeypatch.setattr(reference, "from_uint8", None)
    assert load(made).name == "small"
    assert not list((tmp_path / "cache").rglob("network.xml"))


def test_a_folder_whose_network_says_something_else_is_converted_and_served(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    answer_here(monkeypatch)
    path = Path(shutil.copytree(made, tmp_path / "model"))
    record = json.loads((path / BUNDLE / "network.json").read_text())
    record["logits"] = base64.b64encode(np.arange(14, dtype="<f4").tobytes()).decode()
    (path / BUNDLE / "network.json").write_text(json.dumps(record))
    assert load(path).name == "small"
    assert list((tmp_path / "cache").rglob("network.xml"))


def test_a_model_that_is_named_by_its_fingerprint_runs_nothing_that_it_does_not_cover(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_here(monkeypatch)
    model = load(made, fingerprint=open_model_folder(made).spec.fingerprint[:12])
    assert not model.folder.takes_bundle
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(TypeError):
        load(made, fingerprint=open_model_folder(made).spec.fingerprint[:12])


def test_the_other_process_reads_its_task_and_writes_what_the_network_says(
    small_model: ModelFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    task = {"path": str(small_model.path), "takes_bundle": True, "count": 2, "engine": "openvino", "device": "cpu"}
    logits = np.frombuffer(reference._answer(json.loads(json.dumps(task))), np.float32).reshape(2, 7)
    pixels = known_pictures(2, 64).astype(np.float32) / 255
    preprocess = small_model.spec.preprocess
    normalised = (pixels - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    with torch.inference_mode():
        plain = small_model.load_network()(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(logits, plain, rtol=0.01, atol=0.01 * np.abs(plain).max())
    assert capfd.readouterr().out == ""

"""The converted network in a model folder: it runs if it is the network of the folder's weights, and else nothing does.

Whatever is wrong with it, the folder is whole and gives the same answers, after a conversion on this machine.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.models.bundle import BUNDLE, BUNDLE_FILES, read_bundle
from imgcls_ray.models.engines import cached, conversion, converted
from imgcls_ray.models.engines.conversion import NETWORK_FILES, conversion_key
from imgcls_ray.models.engines.converted import add_bundle, bundled_logits, converted_network, needed_preparation
from imgcls_ray.models.engines.load import load_engine
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.folder import ModelFolder, open_model_folder, sha256_file
from imgcls_ray.models.known_pictures import known_pictures, logits_difference
from tests.conftest import make_small_model

if TYPE_CHECKING:
    from collections.abc import Callable

_CONVERT = """
import sys
from importlib.metadata import version
from pathlib import Path
from imgcls_ray.models.engines.cached import cached_network
from imgcls_ray.models.folder import open_model_folder
print(cached_network(open_model_folder(Path(sys.argv[1])), embedding=False))
"""


@pytest.fixture(scope="module")
def made(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its converted network, as a command makes it."""
    path = Path(shutil.copytree(small_model.path, tmp_path_factory.mktemp("made") / "model"))
    assert add_bundle(str(path), open_model_folder(path))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for other weights."""
    folder = make_small_model(tmp_path_factory.mktemp("other") / "model", seed=1)
    assert add_bundle(str(folder.path), folder)
    return folder.path


@pytest.fixture
def model(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder on a machine that has not seen it."""
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def converts_itself(monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for a conversion on this machine, which takes seconds."""
    monkeypatch.setattr(converted, "cached_network", lambda *_args, **_options: Path("converted here"))
    return Path("converted here")


def used(model: Path) -> Path:
    return converted_network(open_model_folder(model), embedding=False)


def rewrite_record(model: Path, **values: object) -> None:
    record = model / BUNDLE / "network.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **values}))


def describe_files(model: Path) -> None:
    """Let the hashes of the record be those of the files that are there."""
    rewrite_record(model, files={name: sha256_file(model / BUNDLE / name) for name in NETWORK_FILES})


def test_a_network_from_the_folder_runs_without_a_conversion_and_gives_the_numbers_of_one(
    made: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = known_pictures(4, 64)
    with monkeypatch.context() as patch:
        patch.setattr("openvino.convert_model", None)
        bundled = load_engine(open_model_folder(model), batch_size=4, num_threads=1)(pixels)
    shutil.rmtree(model / BUNDLE)
    # Another process, whose hashes are seeded otherwise, converts it for the cache.
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _CONVERT, str(model)]
    network = Path(subprocess.run(command, env=here, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    assert network == cached.cached_path(open_model_folder(model), embedding=False)
    for name in NETWORK_FILES:
        assert (network.parent / name).read_bytes() == (made / BUNDLE / name).read_bytes()
    kept = load_engine(open_model_folder(model), batch_size=4, num_threads=1)(pixels)
    np.testing.assert_array_equal(bundled.logits, kept.logits)


def test_the_folder_has_what_the_network_says_in_float32(made: Path) -> None:
    import torch

    bundle = read_bundle(open_model_folder(made))
    assert bundle is not None
    with torch.inference_mode():
        network = from_uint8(open_model_folder(made), embedding=False)
        expected = network(torch.from_numpy(known_pictures(2, 64))).numpy()
    np.testing.assert_array_equal(bundle.logits, expected)
    assert sorted(path.name for path in (made / BUNDLE).iterdir()) == sorted(BUNDLE_FILES)


def test_the_fingerprint_and_the_description_do_not_know_of_it(made: Path, small_model: ModelFolder) -> None:
    assert (made / "model.json").read_bytes() == (small_model.path / "model.json").read_bytes()


def test_it_is_compared_once_on_a_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_model_folder(model)
    assert needed_preparation(folder, embedding=False) == "check"
    assert bundled_logits(folder) is None
    assert used(model) == model / BUNDLE / "network.xml"
    assert needed_preparation(folder, embedding=False) is None
    assert bundled_logits(folder) is not None
    monkeypatch.setattr(converted, "_answers", None)
    assert used(model) == model / BUNDLE / "network.xml"


def test_who_made_it_need_not_compare_it(made: Path) -> None:
    assert needed_preparation(open_model_folder(made), embedding=False) is None


def test_embeddings_and_folders_without_it_are_converted(model: Path, converts_itself: Path) -> None:
    folder = open_model_folder(model)
    assert needed_preparation(folder, embedding=True) == "conversion"
    assert converted_network(folder, embedding=True) == converts_itself
    shutil.rmtree(model / BUNDLE)
    assert needed_preparation(folder, embedding=False) == "conversion"
    assert used(model) == converts_itself


def _replace_record(model: Path, content: bytes) -> None:
    (model / BUNDLE / "network.json").write_bytes(content)


def _make_pipe(model: Path) -> None:
    (model / BUNDLE / "network.json").unlink()
    os.mkfifo(model / BUNDLE / "network.json")


def _make_folder(model: Path) -> None:
    (model / BUNDLE / "network.xml").unlink()
    (model / BUNDLE / "network.xml").mkdir()


def _logits(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda model: os.truncate(model / BUNDLE / "network.bin", 100),
    "weights gone": lambda model: (model / BUNDLE / "network.bin").unlink(),
    "another graph": lambda model: (model / BUNDLE / "network.xml").write_text("<net/>"),
    "a folder for a file": _make_folder,
    "a record cut": lambda model: os.truncate(model / BUNDLE / "network.json", 50),
    "a record that is no text": lambda model: _replace_record(model, b"\xff\x00" * 50),
    "a record of a list": lambda model: _replace_record(model, b"[]"),
    "a record that is a pipe": _make_pipe,
    "a record of another format": lambda model: rewrite_record(model, format_version=2),
    "a record that says more": lambda model: rewrite_record(model, code="import os"),
    "files elsewhere": lambda model: rewrite_record(model, files={"../model.safetensors": "0" * 64}),
    "no files": lambda model: rewrite_record(model, files={}),
    "logits that are no base64": lambda model: rewrite_record(model, logits="?"),
    "logits of too few classes": lambda model: rewrite_record(model, logits=_logits(1, 2)),
    "logits of half a number": lambda model: rewrite_record(model, logits="AAA="),
    "logits that are no numbers": lambda model: rewrite_record(model, logits=_logits(*[np.nan] * 14)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_left_aside_with_a_warning(
    model: Path, converts_itself: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](model)
    with caplog.at_level(logging.WARNING, "imgcls_ray"):
        # A command looks for it several times.
        assert needed_preparation(open_model_folder(model), embedding=False) == "conversion"
        assert used(model) == converts_itself
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{model / BUNDLE}: the converted network is left aside: ")
    assert "\n" not in line
    assert "model.json" not in line


@pytest.mark.parametrize("changed", ["weights_sha256", "conversion"])
def test_one_of_other_weights_or_versions_is_left_aside_quietly(
    model: Path, converts_itself: Path, changed: str, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite_record(model, **{changed: "0" * 64}, logits=_logits(1))
    assert used(model) == converts_itself
    assert caplog.records == []


@pytest.mark.parametrize("package", ["openvino", "timm", "torch"])
def test_another_version_of_a_library_converts_anew(
    model: Path, converts_itself: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "version", lambda name: "0.1" if name == package else version(name))
    assert used(model) == converts_itself


def test_the_build_of_a_library_is_no_other_version(small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for build in ("2.9.1", "2.9.1+cpu", "2.9.1+cu128"):
        monkeypatch.setattr(conversion, "version", lambda _, build=build: build)
        keys.add(conversion_key(small_model.spec, embedding=False))
    assert len(keys) == 1


def _take_network_of(other: Path, model: Path) -> None:
    for name in NETWORK_FILES:
        shutil.copyfile(other / BUNDLE / name, model / BUNDLE / name)
    describe_files(model)


def _write_graph(model: Path, content: str) -> None:
    (model / BUNDLE / "network.xml").write_text(content)
    describe_files(model)


ATTACKS: dict[str, Callable[[Path, Path], object]] = {
    "the network of other weights": lambda model, other: _take_network_of(other, model),
    "no network": lambda model, _: _write_graph(model, "<net/>"),
    "no XML": lambda model, _: _write_graph(model, "network"),
    "other logits": lambda model, _: rewrite_record(model, logits=_logits(*range(14))),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_that_says_something_else_than_the_network_does_not_run(
    model: Path, other: Path, converts_itself: Path, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    ATTACKS[attack](model, other)
    folder = open_model_folder(model)
    assert needed_preparation(folder, embedding=False) == "check"
    with caplog.at_level(logging.WARNING, "imgcls_ray"):
        assert used(model) == converts_itself
        # What was found out holds for later processes.
        assert used(model) == converts_itself
    assert needed_preparation(folder, embedding=False) == "conversion"
    assert bundled_logits(folder) is None
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{model / BUNDLE}: the converted network is left aside: ")
    assert "\n" not in line


def test_what_others_may_write_is_no_verdict(model: Path, other: Path, converts_itself: Path) -> None:
    _take_network_of(other, model)
    used(model)
    [note] = Path(os.environ["IMGCLS_CACHE"], "openvino", "checked").iterdir()
    note.write_text("right")
    assert used(model) == model / BUNDLE / "network.xml"
    note.chmod(0o666)
    assert used(model) == converts_itself


def test_it_runs_where_nothing_can_be_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "file"))
    assert used(model) == model / BUNDLE / "network.xml"
    assert needed_preparation(open_model_folder(model), embedding=False) == "check"


def test_what_cannot_be_converted_is_a_model_folder_all_the_same(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copytree(small_model.path, tmp_path / "model"))

    def fail(*_: object) -> None:
        raise RuntimeError("no operation\nof that name")

    monkeypatch.setattr(converted, "convert_network", fail)
    with caplog.at_level(logging.WARNING, "imgcls_ray"):
        assert not add_bundle(str(path), open_model_folder(path))
    [line] = [record.getMessage() for record in caplog.records]
    assert line == (
        f"{path}: the model is saved, but without its converted network, so its first use on a machine takes longer: "
        "no operation"
    )
    assert sorted(file.name for file in path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_conversion_that_says_something_else_is_not_saved(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copytree(small_model.path, tmp_path / "model"))
    monkeypatch.setattr(converted, "convert_network", lambda *_: None)
    monkeypatch.setattr(converted, "_answers", lambda *_: np.arange(14, dtype=np.float32).reshape(2, 7))
    assert not add_bundle(str(path), open_model_folder(path))
    assert "its logits differ by" in caplog.text
    assert not (path / BUNDLE).exists()


def test_one_of_earlier_weights_is_replaced(
    made: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_: ModelFolder, place: Path) -> None:
        shutil.copytree(made / BUNDLE, place, dirs_exist_ok=True)

    monkeypatch.setattr(converted, "_make_bundle", make)
    path = Path(shutil.copytree(other, tmp_path / "model"))
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(made / name, path / name)
    folder = open_model_folder(path)
    assert read_bundle(folder) is None
    assert add_bundle(str(path), folder)
    assert (path / BUNDLE / "network.bin").read_bytes() == (made / BUNDLE / "network.bin").read_bytes()


def test_known_pictures_are_the_same_everywhere_and_differ() -> None:
    pictures = known_pictures(5, 70)
    assert pictures.shape == (5, 70, 70, 3)
    assert pictures[0, 0, 0].tolist() == FIRST_PIXEL
    np.testing.assert_array_equal(pictures[:3], known_pictures(3, 70))
    assert len({one.tobytes() for one in pictures}) == 5


# hashlib.shake_128(b"picture 0").digest(3)
FIRST_PIXEL = [199, 252, 34]


def test_a_difference_is_relative_and_no_number_where_a_logit_is_none() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    assert logits_difference(logits, logits) == 0
    assert logits_difference(logits + 5, logits) < 1e-5
    assert logits_difference(1000 * (logits[::-1]), 1000 * logits) == pytest.approx(
        logits_difference(logits[::-1], logits), rel=1e-5
    )
    assert not logits_difference(logits * np.nan, logits) <= 1
    with pytest.raises(ValueError, match=r"shape \(2, 1\), expected \(2, 9\)"):
        logits_difference(logits[:, :1], logits)

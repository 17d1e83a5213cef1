"""A model folder may come from anyone: what its ``model.json`` says is bounded before anything is built or read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.spec import _fingerprint
from tests.timing import assert_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder

Spec = dict[str, Any]


@pytest.fixture
def folder(small_model: ModelFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.path, tmp_path / "m"))


def rewritten(folder: Path, change: Callable[[Spec], None]) -> Path:
    """Another description with a fingerprint that fits it."""
    spec = json.loads((folder / "model.json").read_text())
    change(spec)
    spec["fingerprint"] = _fingerprint(spec)
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


def refused_at_once(folder: Path) -> str:
    """What a model folder's refusal says; in under a second and in one line of a bounded length."""
    said: list[str] = []

    def refuse() -> None:
        with pytest.raises(ModelFolderError) as refused:
            open_model_folder(folder).load_network()
        said.append(str(refused.value))

    assert_within(3, refuse, time.thread_time)
    assert "\n" not in said[0]
    assert len(said[0]) < 1200
    return said[0]


def test_a_head_of_a_million_classes_is_refused_before_it_is_built(folder: Path) -> None:
    open_model_folder(folder).load_network()  # what is imported then is not what is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rewritten(folder, lambda spec: spec.update(class_names=[str(i) for i in range(900_000)]))
    spec = open_model_folder(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def refuse() -> None:
        with pytest.raises(ModelFolderError, match=r"has shape .* but the network with the 900000 classes"):
            spec.load_network()

    assert_within(3, refuse, time.thread_time)
    # Its head alone would take 4.6 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000
    assert peak - before < 1_000_000


def test_a_wider_network_than_the_files_is_refused_before_it_is_built(folder: Path) -> None:
    rewritten(folder, lambda spec: spec.update(architecture={"name": "vit_giant_patch14_dinov2", "args": {}}))
    with pytest.raises(ModelFolderError, match=r"lacks [0-9,]+ weights"):
        open_model_folder(folder).load_network()


def test_more_classes_than_any_model_has_are_refused(folder: Path) -> None:
    rewritten(folder, lambda spec: spec.update(class_names=[f"{i:x}" for i in range(1_000_001)]))
    assert "class_names: Tuple should have at most 1000000 items" in refused_at_once(folder)


@pytest.mark.parametrize("size", [10**9, 10**30, -1, 0, 4097])
def test_an_absurd_crop_is_refused(folder: Path, size: int) -> None:
    rewritten(folder, lambda spec: spec["preprocess"].update(crop_size=size, resize_size=size))
    assert "preprocess" in refused_at_once(folder)


@pytest.mark.parametrize(
    "value", ["f" * 5000, "f" * 10**6, "F" * 64, "f" * 63, "../" * 20 + "f" * 4, "f" * 64 + "\n", 5]
)
def test_a_fingerprint_that_is_none_is_refused(folder: Path, value: Any) -> None:
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**spec, "fingerprint": value}))
    assert "fingerprint: " in refused_at_once(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" * 5_000_000,
        b'{"a":' * 100_000,
        b'{"metrics": ' * 2000 + b"1" + b"}" * 2000,
        b'{"metrics": {"a": ' + b"1" * 100_000 + b"}}",
        b'{"format_version": ' + b"7" * 5000 + b"}",
        b'{"format_version": 1e999999999}',
        b'{"name": "' + b"x" * 10_000_000 + b'"}',
        b'{"' + b"x" * 10_000_000 + b'": 1}',
        b'{"class_names": ["\\ud800"]}',
        b'{"name": "\\ud800"}',
        b"\x00" * 1000,
        b"\xff\xfe{\x00}\x00",
        b" " * (17 * 2**20),
    ],
    ids=lambda content: f"{content[:12]!r} {len(content)}",
)
def test_a_description_that_costs_is_refused_in_a_line(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    assert "model.json: " in refused_at_once(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/random", "/dev/tty", "/dev/null", "/proc/self/mem"])
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_device_in_place_of_a_file_is_refused(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    assert name in refused_at_once(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in refused_at_once(folder)


def test_a_file_with_holes_is_not_read_to_its_end(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 2**40)
    assert "1,099,511,627,776 bytes; the file of a network has at most 16 GiB" in refused_at_once(folder)


def test_a_path_of_any_length_is_refused_in_a_line() -> None:
    with pytest.raises(ModelFolderError, match="cannot be read: File name too long"):
        open_model_folder(Path("m" * 5000))

"""Copies of model folders that lie elsewhere: none takes another's place, and a damaged one is fetched again.

What is copied is the same whatever the storage; here it is a local folder.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray import storage
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models import remote
from imgcls_ray.models.bundle import BUNDLE, read_bundle
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.folder import open_model_folder, update_model
from imgcls_ray.models.remote import open_remote_folder
from imgcls_ray.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def origin(small_model: ModelFolder, tmp_path: Path, cache: Path) -> Path:
    return Path(shutil.copytree(small_model.path, tmp_path / "origin"))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of the storage beside descriptions."""
    names: list[str] = []
    real = storage.open_file

    def counted(uri: str, *rest: Any) -> Any:
        names.append(Path(uri).name)
        return real(uri, *rest)

    monkeypatch.setattr(remote, "open_file", counted)
    return names


@pytest.fixture(scope="module")
def made(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its converted network."""
    path = Path(shutil.copytree(small_model.path, tmp_path_factory.mktemp("made") / "model"))
    assert add_bundle(str(path), open_model_folder(path))
    return path / BUNDLE


def opened(place: Path) -> ModelFolder:
    return open_remote_folder(str(place), DEFAULT_STORAGE)


def edited(place: Path, **values: object) -> None:
    spec = json.loads((place / "model.json").read_text())
    (place / "model.json").write_text(json.dumps({**spec, **values}))


def test_a_folder_is_fetched_once(origin: Path, cache: Path, fetched: list[str]) -> None:
    first, second = opened(origin), opened(origin)
    assert first == second
    assert first.path.is_relative_to(cache)
    assert fetched == ["model.safetensors"]
    assert first.path.stat().st_mode & 0o077 == 0
    assert (cache / "remote").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "another", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_damaged_copy_is_fetched_again(origin: Path, fetched: list[str], name: str, damage: str) -> None:
    kept = opened(origin).path / name
    if damage == "gone":
        kept.unlink()
    else:
        content = kept.read_bytes()
        kept.write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"?")
    assert opened(origin).spec.fingerprint == json.loads((origin / "model.json").read_text())["fingerprint"]
    assert (opened(origin).path / name).read_bytes() == (origin / name).read_bytes()
    assert len(fetched) == (2 if name == "model.safetensors" and damage != "gone" else 1)


def test_another_folder_with_the_same_fingerprint_does_not_change_the_copy(
    origin: Path, tmp_path: Path, fetched: list[str]
) -> None:
    kept = opened(origin)
    evil = Path(shutil.copytree(origin, tmp_path / "evil"))
    # What the fingerprint does not cover.
    edited(evil, name="another", metrics={"top1": 1.0})
    other = opened(evil)
    assert (kept.path / "model.json").read_bytes() == (origin / "model.json").read_bytes()
    assert (other.spec.name, kept.spec.name) == ("another", "small")
    assert opened(origin).spec == kept.spec
    assert (kept.path / "model.json").read_bytes() == (origin / "model.json").read_bytes()
    assert fetched == ["model.safetensors"]  # and what is equal is fetched once


@pytest.mark.parametrize(
    "values",
    [{"class_names": ["a", "b"]}, {"weights_sha256": "0" * 64}, {"format_version": 2}, {"fingerprint": "../../x"}],
    ids=str,
)
def test_a_folder_that_claims_anothers_fingerprint_is_refused_and_leaves_its_copy(
    origin: Path, tmp_path: Path, values: dict[str, object]
) -> None:
    kept = opened(origin)
    evil = Path(shutil.copytree(origin, tmp_path / "evil"))
    edited(evil, **values)
    with pytest.raises(ModelFolderError, match=r"evil/model\.json: "):
        opened(evil)
    assert opened(origin) == kept


def test_weights_that_are_not_those_described_are_refused_and_not_kept(
    origin: Path, tmp_path: Path, cache: Path
) -> None:
    kept = opened(origin)
    evil = Path(shutil.copytree(origin, tmp_path / "evil"))
    edited(evil, name="another")
    for content in (b"", (origin / "model.safetensors").read_bytes()[:-1] + b"?"):
        (evil / "model.safetensors").write_bytes(content)
        assert opened(evil).spec.weights_sha256 == kept.spec.weights_sha256  # ours are of that content
    shutil.rmtree(cache)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: is not the file that model\.json describes"):
        opened(evil)
    assert [path for path in (cache / "remote").rglob("*") if path.is_file()] == []
    assert opened(origin) == kept


def test_new_metrics_are_seen_and_weights_are_not_fetched_again(origin: Path, fetched: list[str]) -> None:
    spec = opened(origin).spec
    update_model(str(origin), spec.fingerprint, {"top1": 0.5}, {"temperature": 1.5})
    again = opened(origin)
    assert again.spec.metrics["top1"] == 0.5
    assert again.spec.fitted.temperature == 1.5
    assert again.spec.fingerprint == spec.fingerprint
    assert fetched == ["model.safetensors"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"", b'{"fingerprint": "' + b"f" * 5000 + b'"}', b"[1]"])
def test_what_is_no_description_is_refused_in_a_line(origin: Path, content: bytes) -> None:
    (origin / "model.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"origin/model\.json: ") as refused:
        opened(origin)
    assert len(str(refused.value)) < 1100


def test_a_description_without_end_is_not_read_to_its_end(origin: Path) -> None:
    with (origin / "model.json").open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(ModelFolderError, match="larger than 16 MiB, not a model description"):
        opened(origin)


def test_a_missing_description_is_named(origin: Path) -> None:
    (origin / "model.json").unlink()
    with pytest.raises(ModelFolderError, match=r"holds no model\.json, so it is no model folder"):
        opened(origin)


def test_the_converted_network_comes_with_its_folder(made: Path, origin: Path, fetched: list[str]) -> None:
    shutil.copytree(made, origin / BUNDLE)
    folder = opened(origin)
    assert read_bundle(folder) is not None
    assert opened(origin) == folder
    assert sorted(fetched) == ["model.safetensors", "network.bin", "network.xml"]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda bundle: (bundle / "network.bin").write_bytes(b"others"),
    "gone": lambda bundle: (bundle / "network.xml").unlink(),
    "record": lambda bundle: (bundle / "network.json").write_text("{}"),
    "files elsewhere": lambda bundle: (bundle / "network.json").write_text(
        (bundle / "network.json").read_text().replace("network.bin", "../../network.bin")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_with_a_damaged_converted_network_is_opened_without_it(
    made: Path, origin: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made, origin / BUNDLE)
    DAMAGES[damage](origin / BUNDLE)
    with caplog.at_level(logging.WARNING, "imgcls_ray"):
        folder = opened(origin)
    assert folder.spec == open_model_folder(origin).spec
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{origin / BUNDLE}: the converted network is left aside: ")
    assert read_bundle(folder) is None
    assert len(caplog.records) == 1


def test_a_converted_network_of_other_weights_is_not_fetched(made: Path, origin: Path, fetched: list[str]) -> None:
    shutil.copytree(made, origin / BUNDLE)
    record = origin / BUNDLE / "network.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "weights_sha256": "0" * 64}))
    assert read_bundle(opened(origin)) is None
    assert fetched == ["model.safetensors"]

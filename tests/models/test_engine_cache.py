"""The converted network that is kept on a node: once, for its user only, and never read when it is another one."""

from __future__ import annotations

import logging
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import StorageError
from imgcls_ray.models.engines import cached
from tests.storage.test_scratch import files_of_at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


def _load(folder: ModelFolder, log: Path) -> None:
    convert = cached._convert

    def counted(*args: object, **kwargs: object) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        convert(*args, **kwargs)  # type: ignore[arg-type]

    cached._convert = counted
    assert cached.cached_network(folder, embedding=False).is_file()


def test_processes_that_start_together_convert_the_network_once(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_load, args=(small_model, tmp_path / "log")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.fixture
def kept(small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a converted network; what its conversion would make is stood in for."""
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cached, "convert_network", _convert)
    monkeypatch.setattr(cached, "from_uint8", lambda *_, **__: None)
    return cached.cached_network(small_model, embedding=False).parent


def _convert(_network: object, _size: int, place: Path) -> None:
    (place / "network.xml").write_text("<net/>")
    (place / "network.bin").write_bytes(b"weights")


def test_it_is_kept_for_its_user_only(kept: Path) -> None:
    assert sorted(path.name for path in kept.iterdir()) == ["SHA256SUMS", "network.bin", "network.xml"]
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (kept, kept.parent)} == {0o700}


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda kept: (kept / "network.bin").write_bytes(b"weightz"),
    "network": lambda kept: (kept / "network.xml").write_text("<evil/>"),
    "cut": lambda kept: (kept / "network.bin").write_bytes(b""),
    "hashes": lambda kept: (kept / "SHA256SUMS").write_text("0" * 64),
    "no hashes, as earlier versions left it": lambda kept: (kept / "SHA256SUMS").unlink(),
    "a part is missing": lambda kept: (kept / "network.bin").unlink(),
    "hashes that are no text": lambda kept: (kept / "SHA256SUMS").write_bytes(b"\xff" * 100),
    "open to all": lambda kept: kept.chmod(0o777),
    "a file open to all": lambda kept: (kept / "network.bin").chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_kept_is_converted_again(kept: Path, small_model: ModelFolder, damage: str) -> None:
    DAMAGES[damage](kept)
    assert cached.cached_network(small_model, embedding=False).parent == kept
    assert (kept / "network.xml").read_text() == "<net/>"
    assert (kept / "network.bin").read_bytes() == b"weights"
    test_it_is_kept_for_its_user_only(kept)
    assert [path.name for path in kept.parent.iterdir() if path.name.startswith(".")] == []


def test_what_a_link_leads_to_is_not_read(kept: Path, small_model: ModelFolder, tmp_path: Path) -> None:
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    cached.cached_network(small_model, embedding=False)
    assert not kept.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_put_there_is_not_read(
    kept: Path, small_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    os.chown(kept / "network.bin", 12345, 12345)
    with caplog.at_level(logging.WARNING, "imgcls_ray"):
        cached.cached_network(small_model, embedding=False)
    assert (kept / "network.bin").stat().st_uid == 0


def test_a_cache_that_cannot_be_written_is_told_in_a_line(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        StorageError, match=r"cannot be saved there: .*; set IMGCLS_CACHE to a folder that you can write"
    ):
        cached.cached_network(small_model, embedding=False)


def test_a_disk_that_fills_up_meanwhile_is_told_in_a_line(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path))
    with (
        files_of_at_most(100_000),
        pytest.raises(
            StorageError, match=r"cannot be saved there: OpenVINO cannot write it \(.*error\); set IMGCLS_CACHE to"
        ),
    ):
        cached.cached_network(small_model, embedding=False)
    assert [path.name for path in (tmp_path / "openvino").iterdir() if not path.name.endswith(".lock")] == []

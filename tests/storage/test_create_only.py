"""A name is created once, on file systems that lose answers or know no hard links too."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import StorageError
from imgcls_ray.storage import open_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LINK = os.link


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def forbid(number: int) -> None:
        def link(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)

    return forbid


def test_a_link_whose_answer_was_lost_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS: the server made the link, its answer was lost, and the client asked again (link(2), BUGS)."""

    def link(partial: str, path: str) -> None:
        LINK(partial, path)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    directory = open_directory(str(tmp_path))
    assert directory.create("a", b"mine")
    assert not directory.create("a", b"another's")
    assert (list(directory.entries()), directory.read("a")) == (["a"], b"mine")


def test_a_name_that_went_away_again_was_another_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(_partial: str, _path: str) -> None:
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert not open_directory(str(tmp_path)).create("a", b"mine")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_a_rename_that_replaces_nothing_serves(
    number: int, tmp_path: Path, no_hard_links: Callable[[int], None]
) -> None:
    no_hard_links(number)
    directory = open_directory(str(tmp_path))
    assert directory.create("folder/a", b"first")
    assert not directory.create("folder/a", b"second")
    assert (list(directory.entries("folder")), directory.read("folder/a")) == (["a"], b"first")


class _LibC:
    """The C library of a system whose renameat2 says what the test wants."""

    def __init__(self, outcome: Callable[[bytes, bytes], int]) -> None:
        self.renameat2 = lambda _from, partial, _to, path, _flags: outcome(partial, path)


def failing_with(number: int, *, after: bool = False) -> Callable[..., _LibC]:
    def rename(partial: bytes, path: bytes) -> int:
        if after:
            os.rename(partial, path)
        ctypes.set_errno(number)
        return -1

    return lambda *_, **__: _LibC(rename)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_with_neither_is_refused_and_nothing_is_left(
    number: int, tmp_path: Path, no_hard_links: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_hard_links(errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", failing_with(number))
    with pytest.raises(StorageError) as caught:
        open_directory(str(tmp_path)).create("a", b"mine")
    assert str(caught.value) == (
        f"{tmp_path}/a: cannot be written: its file system has neither hard links nor a rename that replaces nothing, "
        "and one of the two must keep two writers apart; use another place"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOENT])
def test_a_rename_whose_answer_was_lost_is_made(
    number: int, tmp_path: Path, no_hard_links: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_hard_links(errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", failing_with(number, after=True))
    assert open_directory(str(tmp_path)).create("a", b"mine")


def test_a_full_disk_is_not_taken_for_a_name_that_exists(
    tmp_path: Path, no_hard_links: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_hard_links(errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", failing_with(errno.ENOSPC))
    with pytest.raises(StorageError, match="No space left on device"):
        open_directory(str(tmp_path)).create("a", b"mine")

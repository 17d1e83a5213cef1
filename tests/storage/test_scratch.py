"""Temporary files: a full or missing folder is one line that names it, whoever writes."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import StorageError
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.scratch import ScratchFile, new_scratch_folder, scratch_file, scratch_folder
from imgcls_ray.store.planner import plan_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_ROOM = "temporary files cannot be written there: .*; set TMPDIR to a folder with room"


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow further: a write takes what fits, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(count: int) -> list[FileInfo]:
    """In no order, and with names that do not compress."""
    return [FileInfo(f"/data/{os.urandom(16).hex()}.jpg", i, None, None) for i in range(count)]


def test_what_is_written_is_read_again() -> None:
    with scratch_file("test") as file:
        assert file.write(b"abc" * 1000) == 3000
        file.seek(0)
        assert io.BufferedReader(file).read() == b"abc" * 1000


def test_a_write_that_does_not_fit_is_told_with_the_folder_and_the_way_out() -> None:
    with files_of_at_most(1000), scratch_file("test") as file, pytest.raises(StorageError, match=NO_ROOM) as caught:
        file.write(b"x" * 1500)
    assert tempfile.gettempdir() in str(caught.value)
    assert "\n" not in str(caught.value)


def test_after_a_failed_write_nothing_more_is_written() -> None:
    with scratch_file("test") as file:
        with files_of_at_most(1000), pytest.raises(StorageError):
            file.write(b"x" * 1500)
        # There is room again, and a piece is missing.
        with pytest.raises(StorageError, match=NO_ROOM):
            file.write(b"y")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_every_kind_of_failure_is_told(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(StorageError, match=os.strerror(code)):
        scratch_file("test")


def test_no_folder_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/none']")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", fail)
    for make in (scratch_file, new_scratch_folder):
        with pytest.raises(StorageError, match=r"cannot be written anywhere .*; set TMPDIR to a folder with room"):
            make("test")


def test_a_folder_is_gone_after_its_block() -> None:
    with scratch_folder("test") as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_a_failure_within_the_folder_is_told_and_others_are_not_touched(tmp_path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(StorageError, match=NO_ROOM), scratch_folder("test") as folder:
        (folder / "file").write_bytes(b"x" * 2000)
    with pytest.raises(StorageError, match=NO_ROOM), scratch_folder("test") as folder:
        (folder / "gone" / "file").write_bytes(b"x")
    with pytest.raises(FileNotFoundError), scratch_folder("test"):
        (tmp_path / "none" / "file").read_bytes()


def test_sorting_on_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("imgcls_ray.inputs.sorting._ROWS_IN_MEMORY", 1000)
    with files_of_at_most(20_000), pytest.raises(StorageError, match=NO_ROOM):
        list(sort_files(files(5000)))
    assert "Exception ignored" not in capfd.readouterr().err


def test_planning_on_a_full_disk_is_one_line_and_gives_no_plan(capfd: pytest.CaptureFixture[str]) -> None:
    given = []
    with files_of_at_most(200_000), pytest.raises(StorageError, match=NO_ROOM), plan_ahead(files(20_000)) as plans:
        given += list(plans)
    assert given == []
    assert "Exception ignored" not in capfd.readouterr().err


def test_the_pages_of_a_listing_on_a_full_disk_are_told_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from imgcls_ray.storage.object_listing import _Pages

    pages = _Pages()
    with files_of_at_most(1000):
        pages.fill(iter([[(f"key-{i}", 1, "etag", datetime.now(UTC)) for i in range(1000)]]), threading.Event())
    with pytest.raises(StorageError, match=NO_ROOM):
        list(pages)


def test_the_command_ends_with_one_line_and_exit_code_3(tmp_path: Path, small_model: Any) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{info.uri}\n" for info in files(30_000)))
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from imgcls_ray.cli import main\n"
        "main()\n"
    )
    command = [
        "predict",
        str(tmp_path / "list.txt"),
        "-m",
        str(small_model.path),
        "-o",
        str(tmp_path / "s"),
        "--dry-run",
    ]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert "temporary files cannot be written there: File too large; set TMPDIR to a folder with room" in line


def test_scratch_files_have_no_name() -> None:
    before = set(Path(tempfile.gettempdir()).glob("imgcls-test-*"))
    with scratch_file("test") as file:
        assert isinstance(file, ScratchFile)
        assert set(Path(tempfile.gettempdir()).glob("imgcls-test-*")) == before

"""Temporary files of this machine, in the folder that ``TMPDIR`` names.

Every failure is a ``StorageError`` that names the folder and the remedy, because a full disk under a temporary file is
no fault of the input or the store.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer, WriteableBuffer

# Libraries in C tell of a failed write without the name of the file.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class ScratchFile(io.FileIO):
    """A temporary file without a name, for reading and writing: a kill leaves nothing behind.

    It is unbuffered, but a write writes everything or raises ``StorageError``. After one failure all later writes fail,
    so that a file with a gap is never used.
    """

    _failure: StorageError | None = None

    def write(self, data: ReadableBuffer) -> int:
        if self._failure is not None:
            raise self._failure
        view = memoryview(data).cast("B")
        done = 0
        try:
            # The system may take less than it is given, as it does when the disk is nearly full.
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self._failure = _scratch_error(error)
            raise self._failure from error
        return done

    def read(self, size: int | None = -1) -> bytes:
        with _as_storage_errors():
            return super().read(-1 if size is None else size) or b""

    def readinto(self, buffer: WriteableBuffer) -> int:
        with _as_storage_errors():
            return super().readinto(buffer) or 0


def scratch_file(name: str) -> ScratchFile:
    """Open a new scratch file; the caller closes it.

    Args:
        name: its purpose; visible if the system cannot create a file without a name.

    Raises:
        StorageError: there is no place for it.
    """
    with _as_storage_errors(), tempfile.TemporaryFile(prefix=f"imgcls-{name}-", buffering=0) as file:
        return ScratchFile(os.dup(file.fileno()), "r+b")


def new_scratch_folder(name: str) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder, which goes with its object.

    Raises:
        StorageError: there is no place for it.
    """
    with _as_storage_errors():
        return tempfile.TemporaryDirectory(prefix=f"imgcls-{name}-", ignore_cleanup_errors=True)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A temporary folder for the block.

    Raises:
        StorageError: there is no place for it, or the block failed to write into it.
    """
    with new_scratch_folder(name) as folder:
        try:
            yield Path(folder)
        except OSError as error:
            named = error.filename if isinstance(error.filename, str) else ""
            if named.startswith(folder) or (not named and error.errno in _NO_ROOM):
                raise _scratch_error(error) from error
            raise


@contextmanager
def _as_storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _scratch_error(error) from error


def _scratch_error(error: OSError) -> StorageError:
    try:
        folder = tempfile.gettempdir()
    except OSError:
        # Python has tried TMPDIR, the system's folders and the current one.
        return StorageError(
            f"temporary files cannot be written anywhere ({_reason(error)}); set TMPDIR to a folder with room"
        )
    return StorageError(
        f"{folder}: temporary files cannot be written there: {_reason(error)}; set TMPDIR to a folder with room"
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())

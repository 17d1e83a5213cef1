"""Files of this machine: versions, bounded reads, and durable create-only writes."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imgcls_ray.errors import ImageError, ImageErrorCode, StorageError
from imgcls_ray.storage.files import absolute_path, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What link(2) and file systems that know no hard links say of it.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_CODE_OF_ERRNO = {
    errno.ENOENT: ImageErrorCode.NOT_FOUND,
    errno.ENOTDIR: ImageErrorCode.NOT_FOUND,
    errno.ELOOP: ImageErrorCode.NOT_FOUND,
    errno.ENAMETOOLONG: ImageErrorCode.NOT_FOUND,
    errno.EACCES: ImageErrorCode.ACCESS_DENIED,
    errno.EPERM: ImageErrorCode.ACCESS_DENIED,
    errno.EISDIR: ImageErrorCode.NOT_A_FILE,
    errno.ENXIO: ImageErrorCode.NOT_A_FILE,
}


def fetch_file(path: str, *, etag: str | None, max_bytes: int) -> bytes:
    """Read one file whole, if it is still the version that was planned.

    Raises:
        ImageError: not_found, access_denied, not_a_file, changed, too_many_bytes or fetch_failed.
    """
    return _with_file(path, lambda descriptor: _read_version(descriptor, etag=etag, max_bytes=max_bytes))


def fetch_part(path: str, offset: int, length: int, *, etag: str | None) -> bytes:
    """Read a part of a file, if it is still the version that was planned; fewer bytes where it ends before.

    Raises:
        ImageError: not_found, access_denied, not_a_file, changed or fetch_failed.
    """
    return _with_file(path, lambda descriptor: _read_part(descriptor, offset, length, etag=etag))


def _with_file(path: str, read: Callable[[int], bytes]) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return read(descriptor)
        finally:
            # Not left to a file object: open() refuses a folder's descriptor and then leaves it open.
            os.close(descriptor)
    except OSError as error:
        code = _CODE_OF_ERRNO.get(error.errno or 0, ImageErrorCode.FETCH_FAILED)
        raise ImageError(code, os.strerror(error.errno) if error.errno else "") from error
    except ValueError as error:
        raise ImageError(ImageErrorCode.NOT_FOUND, "the path holds a null character") from error


def _check_version(descriptor: int, etag: str | None) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(ImageErrorCode.NOT_A_FILE)
    if etag is not None and version_of(status) != etag:
        raise ImageError(ImageErrorCode.CHANGED)
    return status


def _read_part(descriptor: int, offset: int, length: int, *, etag: str | None) -> bytes:
    _check_version(descriptor, etag)
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = _read_exactly(descriptor, length)
    if etag is not None and version_of(os.fstat(descriptor)) != etag:
        raise ImageError(ImageErrorCode.CHANGED, "while it was read")
    return data


def _read_version(descriptor: int, *, etag: str | None, max_bytes: int) -> bytes:
    status = _check_version(descriptor, etag)
    if status.st_size > max_bytes:
        raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{status.st_size:,} of at most {max_bytes:,}")
    data = _read_exactly(descriptor, status.st_size)
    if len(data) < status.st_size or (etag is not None and version_of(os.fstat(descriptor)) != etag):
        raise ImageError(ImageErrorCode.CHANGED, "while it was read")
    return data


def _read_exactly(descriptor: int, size: int) -> bytes:
    # One read returns at most 2 GiB, and less near an interrupt.
    parts: list[bytes] = []
    left = size
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class LocalDirectory:
    """A folder whose files appear complete and durable, and never overwrite each other."""

    def __init__(self, path: str) -> None:
        self._root = Path(absolute_path(path))
        self.uri = str(self._root)

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        place = self._root / folder
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith(starts_with):
                        yield entry.name
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{place}: cannot be listed: {error.strerror}") from error

    def exists(self, name: str) -> bool:
        path = self._root / name
        try:
            return path.is_file()
        except OSError as error:
            # Not "no": what may not be looked at may be there.
            raise StorageError(f"{path}: cannot be looked at: {error.strerror}") from error

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:
        path = self._root / name
        with _storage_errors(path):
            partial = _write_partial(path, data)
            try:
                if not _move_to_new_name(partial, path):
                    return False
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(path.parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self._root / name
        with _storage_errors(path):
            partial = _write_partial(path, data)
            try:
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)

    def replace_from(self, name: str, path: str) -> None:
        target = self._root / name
        with _storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.parent / f".{target.name}.{uuid.uuid4().hex}"
            try:
                shutil.copyfile(path, partial)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(partial, target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync_folder(target.parent)

    def remove(self, name: str) -> None:
        path = self._root / name
        with _storage_errors(path):
            path.unlink(missing_ok=True)


def _move_to_new_name(partial: Path, path: Path) -> bool:
    """Give a finished file its name in one step. ``False``: the name exists, and its content is unchanged."""
    try:
        # link() refuses an existing name, where rename() would replace it.
        os.link(partial, path)
    except FileExistsError:
        # Over NFS the server's answer may be lost and the request made again: then the name is this very file
        # (link(2), "BUGS").
        return _is_same_file(partial, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename_to_new_name(partial, path, error)
    return True


def _is_same_file(partial: Path, path: Path) -> bool:
    try:
        return os.path.samestat(partial.lstat(), path.lstat())
    except FileNotFoundError:
        return False


def _rename_to_new_name(partial: Path, path: Path, no_link: OSError) -> bool:
    """Rename without replacing, for file systems without hard links (exFAT, SMB, many FUSE ones)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise no_link
    renamed = libc.renameat2(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE)
    if renamed == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EEXIST, errno.ENOENT) and not partial.exists() and path.exists():
        return True  # the answer to a first try was lost
    if code == errno.EEXIST:
        return False
    if code in (errno.EINVAL, errno.ENOSYS, *_NO_HARD_LINKS):
        raise StorageError(
            f"{path}: cannot be written: its file system has neither hard links nor a rename that replaces nothing, "
            "and one of the two must keep two writers apart; use another place"
        ) from no_link
    raise OSError(code, os.strerror(code), str(path))


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}; what is written so far stays"
        ) from error


def _write_partial(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync_folder(folder: Path) -> None:
    """Make names durable: otherwise a crash of the machine can lose them although the contents are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

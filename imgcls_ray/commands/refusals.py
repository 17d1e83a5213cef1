"""What the system refuses a command, in one line: a full disk, rights, a closed or full stdout, a folder that is gone.

Most of it is foreseen where it happens and has words of its own; this is for the rest.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImgclsError, ResourceError, StorageError, UsageError

if TYPE_CHECKING:
    from typing import TextIO

# Of the machine, not of the program: a file that is not there may as well be a mistake of ours, and shows its stack.
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)
# Of Python, without a number.
_NO_THREAD = "can't start new thread"


def open_standard_streams() -> None:
    """Let stdin, stdout and stderr lead somewhere: the next file would take a closed one's number, and its words."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = words_to(2)


class _Words(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def words_to(descriptor: int, *, closes: bool = False) -> TextIO:
    """A stream for what is said while a command works: where nobody can read it any more, it is dropped.

    A job of hours must not end because its terminal was closed, ``tee`` was killed, or the disk of its log is full.

    Args:
        descriptor: where it leads.
        closes: whether that is closed with the stream.
    """
    encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_Words(descriptor, "w", closefd=closes))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)


def flush_stdout() -> None:
    """Write what is left for stdout, while its failure can still be told.

    Raises:
        StorageError: it cannot be written. That its reader has gone, as in ``| head``, is no failure.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again, and complain, when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            raise StorageError(f"standard output cannot be written: {error.strerror}") from error


def check_current_folder() -> None:
    """Refuse to work from a folder that was removed: libraries and child processes fail there in words of their own.

    Raises:
        UsageError: it is gone.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError("the current folder was removed; change to an existing one") from error


def as_refusal(error: OSError | RuntimeError) -> ImgclsError | None:
    """The error of one line, if it is the system that refuses."""
    if isinstance(error, RuntimeError):
        return _too_many_processes(str(error)) if str(error) == _NO_THREAD else None
    try:
        flush_stdout()
    except StorageError as told:
        return told
    try:
        check_current_folder()
    except UsageError as told:
        return told
    if error.errno == errno.EAGAIN:
        return _too_many_processes(os.strerror(error.errno))
    if error.errno not in _REFUSALS:
        return None
    reason = os.strerror(error.errno)
    if isinstance(error.filename, str | bytes):
        return StorageError(f"{os.fsdecode(error.filename)}: {reason}")
    if str(error) == f"[Errno {error.errno}] {reason}":
        return StorageError(f"standard output, or a file, cannot be written: {reason}")
    return StorageError(" ".join(str(error).split()))  # Arrow's, with words of its own


def _too_many_processes(reason: str) -> ResourceError:
    return ResourceError(
        f"the system starts no more processes or threads for this command ({reason}); raise the limit of its user "
        "(`ulimit -u`) or container, or end others"
    )

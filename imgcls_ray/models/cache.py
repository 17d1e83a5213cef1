"""Where what is fetched or made once is kept on this machine.

What is kept is read again without asking anyone. So it lies in folders of its user's own, and whoever reads it compares
its content with a hash first: caches are on disks that fill up, and in places that others may reach.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def cache_dir() -> Path:
    """Where converted networks are kept: ``IMGCLS_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("IMGCLS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgcls_ray"


def private_folder(path: Path) -> Path:
    """Make a folder that only its user can enter; one that is there already stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def is_own(path: Path) -> bool:
    """Whether it is this user's or root's, and nobody else may write to it.

    A group may: volumes of containers are given to one.
    """
    status = path.stat(follow_symlinks=False)
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode)


def replace_folder(partial: Path, kept: Path, *, is_good: Callable[[], bool]) -> None:
    """Put a folder in its place; one that stands there stays if it is good, and goes otherwise.

    Args:
        partial: what is to stand there, in the same parent.
        kept: its place.
        is_good: whether what stands there may stay: another process may have put the same there meanwhile.

    Raises:
        OSError: it cannot be put there.
    """
    with suppress(OSError):
        os.replace(partial, kept)
        return
    if is_good():
        return
    # A folder cannot take the place of one that holds something. Who has the old files open keeps them.
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=kept.parent))
    try:
        with suppress(FileNotFoundError):
            os.replace(kept, aside / "old")
        try:
            os.replace(partial, kept)
        except OSError:
            if not is_good():
                raise
    finally:
        rmtree(aside, ignore_errors=True)

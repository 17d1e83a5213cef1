"""Photos at the one path where the stores of earlier versions know them, with the times that they had.

A label store names its inputs by absolute path, and their versions by time and size. So the inputs of a store that an
earlier version began lie here again, for as long as the block runs, and nothing in the store has to be rewritten.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/tmp/imgcls-ray-compatibility")
TAKEN_NS = 1_750_000_000_000_000_000
"""Time of every photo, nanoseconds since 1970."""
PIPE = "pipe"
"""Listed among the inputs: neither a file nor an image."""


@contextmanager
def photos_in_place(data: Path) -> Iterator[Path]:
    """Have ``photos/`` and ``inputs.csv`` of a version's folder in ``ROOT``; gives ``ROOT``.

    Raises:
        PermissionError: another user left the folder behind.
    """
    with _root_of_our_own():
        shutil.copytree(data / "photos", ROOT / "photos")
        shutil.copy(data / "inputs.csv", ROOT / "inputs.csv")
        os.mkfifo(ROOT / PIPE)
        for path in (ROOT / PIPE, *(ROOT / "photos").iterdir()):
            os.utime(path, ns=(TAKEN_NS, TAKEN_NS))
        yield ROOT


@contextmanager
def _root_of_our_own() -> Iterator[None]:
    # Other tests on this machine, of another checkout too, wait: whoever is done removes the folder.
    while True:
        ROOT.mkdir(exist_ok=True)
        descriptor = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if ROOT.exists() and os.path.samestat(os.stat(ROOT), os.fstat(descriptor)):
            break
        os.close(descriptor)
    try:
        _empty(ROOT)  # of what a killed test left
        yield
    finally:
        shutil.rmtree(ROOT)
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

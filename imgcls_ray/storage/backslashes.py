"""Paths in lists that were written on Windows: their backslashes part folders where only that finds the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.storage.files import scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ASKED = 20
"""Objects that are asked for until one is found: every request takes milliseconds."""


class Separators:
    """Reads the paths of one list or dataset.

    Args:
        is_remote: whether it is on object storage, where the first paths decide for all.
        is_there: whether there is a file, or object, of a path.
    """

    def __init__(self, is_remote: bool, is_there: Callable[[str], bool]) -> None:
        self._is_remote, self._is_there = is_remote, is_there
        self.num_changed = 0
        """Number of paths that were read with other separators."""
        self._num_asked = 0
        self._are_separators: bool | None = None

    def read(self, path: str) -> str:
        """The path as it is, or with ``/`` for ``\\`` where only that finds the file.

        Raises:
            StorageError: object storage does not say whether there is such an object.
        """
        if "\\" not in path or scheme_of(path):
            return path
        changed = path.replace("\\", "/")
        if not self._finds(path, changed):
            return path
        self.num_changed += 1
        return changed

    def _finds(self, path: str, changed: str) -> bool:
        if not self._is_remote:
            return not self._is_there(path) and self._is_there(changed)
        if self._are_separators is None and self._num_asked < _MAX_ASKED:
            self._num_asked += 1
            if self._is_there(path):
                self._are_separators = False
            elif self._is_there(changed):
                self._are_separators = True
        return bool(self._are_separators)


def read_as(path: str, changed: str) -> str:
    """What is told once of paths whose backslashes are separators."""
    return f"{path[:200]!r} is read as {changed[:200]!r}, and so is every path where that finds the file"

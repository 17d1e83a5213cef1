"""Paths in lists and tables that were written on Windows: their backslashes part folders where that finds the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import image_uri
from imgcls_ray.storage.files import path_from_uri, scheme_of
from imgcls_ray.storage.s3 import is_s3
from imgcls_ray.storage.s3_inputs import find_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.storage.s3 import S3Options

_MAX_ASKED = 20
"""Objects that are asked for until one is found: every request takes milliseconds."""


class Separators:
    """Reads the paths of one dataset, and reports once that backslashes were read as separators."""

    def __init__(self, dataset: str, s3: S3Options, report: Callable[[Finding], None]) -> None:
        self._dataset, self._s3, self._report = dataset, s3, report
        self._is_told = False
        # On object storage the first paths decide for all.
        self._num_asked = 0
        self._are_separators: bool | None = None

    def read(self, path: str, *, file: str, line: int, split: str) -> str:
        """The path as it is, or with ``/`` for ``\\`` where only that finds the file.

        Args:
            path: as the list has it.
            file, line, split: where it stands, for the report.

        Raises:
            StorageError: object storage does not say whether there is such an object.
        """
        if "\\" not in path or scheme_of(path):
            return path
        changed = path.replace("\\", "/")
        if not self._finds(path, changed):
            return path
        if not self._is_told:
            self._is_told = True
            what = f"{path[:200]!r} is read as {changed[:200]!r}, and so is every path where that finds the file"
            self._report(Finding(FindingCode.BACKSLASHES, file, line, split, path=path, detail=what))
        return changed

    def _finds(self, path: str, changed: str) -> bool:
        if not is_s3(self._dataset):
            return not self._is_there(path) and self._is_there(changed)
        if self._are_separators is None and self._num_asked < _MAX_ASKED:
            self._num_asked += 1
            if self._is_there(path):
                self._are_separators = False
            elif self._is_there(changed):
                self._are_separators = True
        return bool(self._are_separators)

    def _is_there(self, path: str) -> bool:
        uri = image_uri(self._dataset, path)
        return find_object(uri, self._s3) is not None if is_s3(uri) else os.path.exists(path_from_uri(uri))

"""Paths in lists and tables that were written on Windows: their backslashes part folders where that finds the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import image_uri
from imgcls_ray.storage import backslashes
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.object_inputs import find_object
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.storage.options import StorageOptions


class Separators:
    """Reads the paths of one dataset, and reports once that backslashes were read as separators."""

    def __init__(self, dataset: str, storage: StorageOptions, report: Callable[[Finding], None]) -> None:
        self._dataset, self._storage, self._report = dataset, storage, report
        self._separators = backslashes.Separators(is_object(dataset), self._is_there)

    def read(self, path: str, *, file: str, line: int, split: str) -> str:
        """The path as it is, or with ``/`` for ``\\`` where only that finds the file.

        Args:
            path: as the list has it.
            file, line, split: where it stands, for the report.

        Raises:
            StorageError: object storage does not say whether there is such an object.
        """
        changed = self._separators.read(path)
        if changed != path and self._separators.num_changed == 1:
            what = backslashes.read_as(path, changed)
            self._report(Finding(FindingCode.BACKSLASHES, file, line, split, path=path, detail=what))
        return changed

    def _is_there(self, path: str) -> bool:
        uri = image_uri(self._dataset, path)
        return find_object(uri, self._storage) is not None if is_object(uri) else os.path.exists(path_from_uri(uri))

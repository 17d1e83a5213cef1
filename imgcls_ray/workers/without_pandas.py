"""Spare a process the import of pandas, which takes a third of a second.

Arrow looks for pandas once, when it is first given Python objects, in order to know pandas' own. Nothing here gives it
any.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


class _NoPandas:
    """Finds everything but pandas missing."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def spare_pandas() -> None:
    """Let Arrow find no pandas in this process, from now on; whoever else imports it finds it.

    For processes that run neither Ray nor foreign code: Arrow cannot make its tables of pandas' frames any more.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([None])
    finally:
        sys.meta_path.remove(finder)

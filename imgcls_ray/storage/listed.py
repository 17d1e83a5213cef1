"""Which places a listing went through from one end to the other, and what it would have found there.

An input that such a place does not have any more is gone. What the listing would have left out by its name, and what it
passed over, may be there all the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from imgcls_ray.storage.crops import picture_of
from imgcls_ray.storage.files import path_from_uri, uri_from_path
from imgcls_ray.storage.members import split_member
from imgcls_ray.storage.names import DEFAULT_NAMES, NameRules
from imgcls_ray.storage.patterns import EVERYTHING, Pattern, rule_against

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.storage.patterns import States


@dataclass
class ListedPlace:
    """A folder or prefix, and the pattern below it, that a listing goes through."""

    root: str
    """Absolute path or URI of object storage, with a ``/`` at its end."""
    pattern: Pattern = EVERYTHING
    names: NameRules = DEFAULT_NAMES
    """Which names are left out."""
    is_whole: bool = False
    """Whether the listing has come to the end."""
    has_inputs: bool = False
    """Whether it has found any. A volume that is not mounted is an empty folder."""
    _last: tuple[str, States] | None = field(default=None, repr=False, compare=False)
    """The folder that was asked for last, as most inputs are in the folder of the one before, and where it leads to."""

    def follow(self, files: Iterator[FileInfo]) -> Iterator[FileInfo]:
        """The files of the listing, as they are."""
        first = next(files, None)
        if first is not None:
            self.has_inputs = True
            yield first
            yield from files

    def ranges(self) -> Iterator[tuple[str, str]]:
        """Between which texts the URIs of all inputs of this place lie: the first and the one behind the last."""
        if uri_from_path(self.root) == self.root:
            yield self.root, _behind(self.root)
        if self.root.startswith("/"):
            # Names that are not UTF-8.
            prefix = f"file://{quote(os.fsencode(self.root))}"
            yield prefix, _behind(prefix)

    def takes(self, uri: str) -> bool:
        """Whether the listing would have an input of this name, or the packed file that it is in, if it was there."""
        uri = picture_of(uri)
        member = split_member(uri)
        path = path_from_uri(uri if member is None else member.source)
        if not path.startswith(self.root):
            return False
        where, slash, name = path[len(self.root) :].rpartition("/")
        if self._last is None or self._last[0] != where + slash:
            self._last = (where + slash, self._states_below(where + slash))
        states = self._last[1]
        return (
            bool(name)
            and self.pattern.takes(states, name, dots=not self.names.has_table)
            and rule_against(self.names, self.pattern, states, where + slash, name) is None
        )

    def _states_below(self, folder: str) -> States:
        """Where in the pattern a folder leads to; nowhere if what it holds is left out."""
        states, where = self.pattern.start, ""
        for name in folder.split("/")[:-1]:
            if rule_against(self.names, self.pattern, states, where, f"{name}/") is not None:
                return frozenset()
            states = self.pattern.below(states, name, dots=not self.names.has_table)
            where += f"{name}/"
        return states


def _behind(prefix: str) -> str:
    """The smallest text above all that begin with a prefix, which ends with a ``/``."""
    return prefix[:-1] + chr(ord("/") + 1)

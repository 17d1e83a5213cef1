"""Patterns of paths, matched one name at a time, with the same rule for folders and for the keys of a bucket.

``*``, ``?`` and ``[..]`` match within a name, ``**`` matches any number of folders, also none. A name that begins with
a dot is matched only by a part that begins with one. A pattern that ends with ``/`` means everything below what it
matches.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import TYPE_CHECKING

from imgcls_ray.storage.left_out import is_hidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.storage.names import NameRules

_MAGIC = re.compile(r"[*?\[]")

States = frozenset[int]
"""Positions in a pattern that the folders of a path may have reached."""


def has_magic(text: str) -> bool:
    return _MAGIC.search(text) is not None


class Pattern:
    """A relative pattern. A walk begins with ``start``, and calls ``below`` for each folder name.

    Args:
        parts: the pattern, cut at ``/``.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = [*parts[:-1], parts[-1] or "**"]
        self._regexes = [re.compile(fnmatch.translate(part)) for part in self._parts]
        self._dots = [is_hidden(part) for part in self._parts]
        self._extension = os.path.splitext(self._parts[-1])[1].lower()
        self.start = self._with_none({0})

    def below(self, states: States, folder: str, *, dots: bool = False) -> States:
        """Positions after a folder's name; empty if nothing below it can match.

        Args:
            dots: treat a leading dot like any other character.
        """
        is_open, last = dots or not is_hidden(folder), len(self._parts) - 1
        found = set()
        for i in states:
            if self._parts[i] == "**":
                if is_open:
                    found.add(i)
            elif i < last and (is_open or self._dots[i]) and self._regexes[i].match(folder):
                found.add(i + 1)
        return self._with_none(found)

    def takes(self, states: States, file: str, *, dots: bool = False) -> bool:
        """Whether a file's name completes a match."""
        last = len(self._parts) - 1
        if last not in states:
            return False
        is_open = dots or not is_hidden(file)
        if self._parts[last] == "**":
            return is_open
        return (is_open or self._dots[last]) and self._regexes[last].match(file) is not None

    def names(self, states: States, name: str, *, is_file: bool) -> bool:
        """Whether the pattern asks for a name: it has the name itself, or the extension of the file."""
        if is_file and self._extension and os.path.splitext(name)[1].lower() == self._extension:
            return True
        return any(self._parts[i] == name for i in states)

    def literals(self, states: States) -> list[str] | None:
        """The only names that can match next, sorted; ``None`` if other names can match, too."""
        parts = {self._parts[i] for i in states}
        return None if any(map(has_magic, parts)) else sorted(parts)

    def _with_none(self, states: set[int]) -> States:
        # "**" may stand for no folder at all: then the part behind it is due.
        for i in sorted(states):
            following = i
            while self._parts[following] == "**" and following + 1 < len(self._parts):
                following += 1
                states.add(following)
        return frozenset(states)


EVERYTHING = Pattern(["**"])


def rule_against(names: NameRules, pattern: Pattern, states: States, where: str, name: str) -> str | None:
    """The rule that leaves out a name which the pattern matches; ``None`` if it may lead to inputs.

    Args:
        names: the rules of names.
        pattern: what INPUT matches; what it asks for by name, the default table does not leave out.
        states: where in the pattern the folder is.
        where: the folder, relative to where the pattern begins: empty, or with a ``/`` at its end.
        name: in the folder; of a folder with a ``/`` at its end.
    """
    rule = names.of_table(name)
    if rule is not None and not pattern.names(states, name.rstrip("/"), is_file=name[-1] != "/"):
        return rule
    return names.of_patterns(where + name) if names.has_patterns else None

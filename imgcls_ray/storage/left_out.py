"""Decide which files of an INPUT are skipped: one rule for folders, buckets, and patterns of both.

Skipped are names that begin with a dot, unless a pattern has the dot; what never is an image, by its name (``names``);
what the user's patterns leave out; the ``samples/`` of a label store; and files of the label store that is being
written. What the list, the pattern or INPUT itself names is an input. Everything else is one, too, whatever its name,
because the content decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import StorageError
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.names import EXCLUDED, NOT_INCLUDED

if TYPE_CHECKING:
    from imgcls_ray.storage.listed import ListedPlace

STORE_FOLDERS = frozenset({"plans", "predictions", "runs", "exports", "samples"})
STORE_FILES = frozenset({"store.json", "lease.json", "progress.json"})
"""Names directly below the place of a label store, except names that begin with a dot."""

BESIDE = {"samples/": "store.json", "model.bin": "model.json", "network.bin": "network.json"}
"""Names that are skipped only beside another name: a store's samples, the weights of networks for OpenVINO."""

_UNLISTED_KEPT = 100
_PASSED_OVER_KEPT = 1000
_UNLISTED_IN_ERROR = 3
_NAME_CHARS = 200
_RULES_TOLD = 12
_NO_MATCH = "that match no --include"


class Unlisted(NamedTuple):
    """A folder that could not be listed."""

    folder: str
    reason: str

    def __str__(self) -> str:
        name = self.folder if len(self.folder) <= _NAME_CHARS else f"{self.folder[:_NAME_CHARS]}..."
        return f"{name}: {self.reason}"


@dataclass
class ListingCounts:
    """Numbers of files that a listing skipped, for the summary; and what it can tell of inputs that it lacks."""

    by_name: Counter[str] = field(default_factory=Counter)
    """Number of files and folders that were left out by their names, by the rule of ``names`` that did it; the content
    of such a folder is not counted."""
    hidden: int = 0
    """Number of files and folders whose names begin with a dot; the content of such a folder is not counted."""
    stores: int = 0
    """Number of label stores whose ``samples/`` were skipped."""
    linked: int = 0
    """Number of links to folders that are listed under another name."""
    doubles: int = 0
    """Number of entries of a list that repeat a URI."""
    unlisted: list[Unlisted] = field(default_factory=list)
    """Folders that could not be listed: the first hundred."""
    num_unlisted: int = 0
    places: list[ListedPlace] = field(default_factory=list, compare=False)
    """Folders, prefixes and patterns that the listing goes through; all of them are told before its first file."""
    has_list: bool = field(default=False, compare=False)
    """Whether a list named some of the files, which may be there or not."""
    passed_over: dict[str, None] = field(default_factory=dict, compare=False)
    """Paths or URIs of files and folders that are not listed, for another reason than their names; the first ones."""
    is_passed_over_whole: bool = field(default=True, compare=False)
    """Whether these are all."""

    def lines(self) -> list[str]:
        """What was left out by which rule, a line for each kind of rule."""
        kinds = ((True, "by their names"), (False, "by pattern"))
        by_name = dict(self.by_name)  # the thread that lists may still count
        lines = []
        for is_table, what in kinds:
            rules = {rule: n for rule, n in by_name.items() if _is_of_table(rule) is is_table}
            if rules:
                lines.append(f"{sum(rules.values()):,} {what}: {_in_words(rules)}")
        numbers = (
            (self.hidden, "names that begin with a dot"),
            (self.stores, "label stores' samples"),
            (self.linked, "links to folders that are listed under another name"),
            (self.doubles, "entries that name an input again"),
        )
        return lines + [f"{number:,} {what}" for number, what in numbers if number]

    def to_record(self) -> dict[str, int]:
        """The same for a record: numbers by rule."""
        kinds = {"names that begin with a dot": self.hidden, "samples of label stores": self.stores}
        kinds |= {"linked folders": self.linked, "repeated entries": self.doubles}
        return dict(sorted(dict(self.by_name).items())) | {name: number for name, number in kinds.items() if number}

    def add_unlisted(self, folder: str, reason: str) -> None:
        self.num_unlisted += 1
        self.pass_over(folder)
        if len(self.unlisted) < _UNLISTED_KEPT:
            self.unlisted.append(Unlisted(folder, reason))

    def pass_over(self, uri: str) -> None:
        """Tell of a file or folder that is not listed, for another reason than its name."""
        place = path_from_uri(uri)
        if len(self.passed_over) < _PASSED_OVER_KEPT:
            self.passed_over[place] = None
        elif place not in self.passed_over:
            self.is_passed_over_whole = False

    def is_passed_over(self, uri: str) -> bool:
        """Whether a listing may lack an input although it is there."""
        if not self.passed_over:
            return False
        place = path_from_uri(uri)
        ends = [end for end, letter in enumerate(place) if letter == "/"]
        return not self.is_passed_over_whole or any(place[:end] in self.passed_over for end in [*ends, len(place)])

    @property
    def unlisted_text(self) -> str:
        """The folders that could not be listed, in one line; the first ones by name."""
        named = "; ".join(map(str, self.unlisted[:_UNLISTED_IN_ERROR]))
        if (more := self.num_unlisted - _UNLISTED_IN_ERROR) > 0:
            named += f"; and {more:,} more"
        return f"{self.num_unlisted:,} folder{'s' * (self.num_unlisted != 1)} of the input cannot be listed ({named})"

    def check_complete(self) -> None:
        """Raise an error at the end of a job whose input could not be listed completely.

        Raises:
            StorageError: naming folders that could not be listed.
        """
        if self.num_unlisted:
            raise StorageError(
                f"{self.unlisted_text}; what they hold was left out, everything else was not. Run the command again "
                "when they can be read"
            )


def _is_of_table(rule: str) -> bool:
    return rule != NOT_INCLUDED and not rule.startswith(EXCLUDED)


def _in_words(rules: dict[str, int]) -> str:
    """``3 *.mov, 1 Thumbs.db``: the most frequent rules first."""
    ranked = sorted(rules.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{number:,} {_NO_MATCH if rule == NOT_INCLUDED else rule}" for rule, number in ranked[:_RULES_TOLD]]
    more = len(ranked) - _RULES_TOLD
    return ", ".join(repr(text)[1:-1] for text in words) + (f" and {more} more rules" if more > 0 else "")


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def is_of_store(place: str, store: str) -> bool:
    """Whether a path or URI is a file or folder of a label store, or below one.

    Args:
        place: a file or folder; one kind of name for both, without links.
        store: the label store.
    """
    if not place.startswith(prefix := f"{store.rstrip('/')}/"):
        return False
    first, slash, _ = place[len(prefix) :].partition("/")
    return first in STORE_FOLDERS or (first in STORE_FILES and not slash)

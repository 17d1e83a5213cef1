"""What two label stores differ in: numbers of inputs by class in A and in B, with examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from imgcls_ray.json_files import Json


class Example(NamedTuple):
    """An input whose label has changed."""

    uri: str
    etag: str | None
    score_a: float
    score_b: float


class Move(NamedTuple):
    """Inputs that have one class in A and another one in B."""

    label_a: str
    label_b: str
    num_inputs: int
    examples: tuple[Example, ...]
    """Those that B is surest of, best first."""


class ClassChange(NamedTuple):
    """A class, among the inputs that are compared."""

    name: str
    num_a: int
    """Inputs that have it in A."""
    num_b: int
    num_same: int
    """Inputs that have it in both."""

    @property
    def num_left(self) -> int:
        """Inputs that have it in A alone."""
        return self.num_a - self.num_same

    @property
    def num_came(self) -> int:
        """Inputs that have it in B alone."""
        return self.num_b - self.num_same

    @property
    def num_changed(self) -> int:
        """Inputs that have it in one of both."""
        return self.num_left + self.num_came


class Side(NamedTuple):
    """A store."""

    uri: str
    model: str
    fingerprint: str


@dataclass
class StoreDiff:
    """What ``imgcls store diff A B`` found."""

    a: Side
    b: Side
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Inputs with a label in both, of the same version, by class in A and in B."""
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Inputs of the same version that have an error in one of both or in both, by status in A and in B."""
    num_other_version: int = 0
    """Inputs with a row of another version in each: their labels are not compared."""
    num_only_a: int = 0
    """Inputs that have no row in B."""
    num_only_b: int = 0
    num_vanished: int = 0
    """Inputs with a row in one of both, which tells that they are not present any more."""
    examples: dict[tuple[str, str], list[Example]] = field(default_factory=dict)

    @property
    def num_compared(self) -> int:
        """Inputs with a label in both, of the same version."""
        return self.labels.total()

    @property
    def num_changed(self) -> int:
        """Those of them whose label is another one."""
        return sum(count for (label_a, label_b), count in self.labels.items() if label_a != label_b)

    @property
    def moves(self) -> list[Move]:
        """The most frequent first."""
        moved = [(pair, count) for pair, count in self.labels.items() if pair[0] != pair[1]]
        moved.sort(key=lambda item: (-item[1], item[0]))
        return [Move(*pair, count, tuple(self.examples.get(pair, ()))) for pair, count in moved]

    @property
    def classes(self) -> list[ClassChange]:
        """Those with the most changes first."""
        of_a, of_b, same = Counter[str](), Counter[str](), Counter[str]()
        for (label_a, label_b), count in self.labels.items():
            of_a[label_a] += count
            of_b[label_b] += count
            if label_a == label_b:
                same[label_a] += count
        found = [ClassChange(name, of_a[name], of_b[name], same[name]) for name in of_a.keys() | of_b.keys()]
        return sorted(found, key=lambda change: (-change.num_changed, change.name))

    def to_record(self) -> dict[str, Json]:
        """For a program that reads it."""
        return {
            "a": self.a._asdict(),
            "b": self.b._asdict(),
            "num_compared": self.num_compared,
            "num_changed": self.num_changed,
            "num_other_version": self.num_other_version,
            "num_only_a": self.num_only_a,
            "num_only_b": self.num_only_b,
            "num_vanished": self.num_vanished,
            "moves": [
                {"a": move.label_a, "b": move.label_b, "count": move.num_inputs, "examples": _records(move.examples)}
                for move in self.moves
            ],
            "classes": [
                {**change._asdict(), "num_left": change.num_left, "num_came": change.num_came}
                for change in self.classes
            ],
            "codes": [
                {"a": status_a, "b": status_b, "count": count} for (status_a, status_b), count in ranked(self.codes)
            ],
        }


def _records(examples: tuple[Example, ...]) -> list[Json]:
    return [example._asdict() for example in examples]


def ranked(counts: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    """The most frequent first, then by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

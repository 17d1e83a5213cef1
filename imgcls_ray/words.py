"""Numbers and names in words, for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2,000 images``; ``plural`` where it is not the noun and an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def short_count(number: int) -> str:
    """The first three digits of a count from 10,000 on.

    >>> [short_count(number) for number in (9_999, 12_345, 20_000, 999_999, 1_234_567)]
    ['9,999', '12.3k', '20k', '1M', '1.23M']
    """
    if number < 10_000:
        return f"{number:,}"
    rounded = float(f"{number:.2e}")
    thousands = 1 if rounded < 1e6 else 2 if rounded < 1e9 else 3
    return f"{rounded / 1000**thousands:.3g}{'kMG'[thousands - 1]}"


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def shortened(text: str, most: int) -> str:
    """At most so many letters: of a longer text the beginning and the end, which say most of an error.

    >>> shortened("RuntimeError: in a loader. Traceback: line 1, line 2, line 3. ValueError: no", 45)
    'RuntimeError: in a l ... ne 3. ValueError: no'
    """
    half = (most - len(" ... ")) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def tell_apart(names: Mapping[int, str]) -> dict[int, str]:
    """Class names by id, each once: where several classes have one name, each of them ends with its id.

    >>> tell_apart({0: "crane", 1: "owl", 2: "crane"})
    {0: 'crane (id 0)', 1: 'owl', 2: 'crane (id 2)'}
    """
    apart = dict(names)
    # "crane (id 0)" may be the name of a third class.
    while shared := {name for name, count in Counter(apart.values()).items() if count > 1}:
        apart = {one: with_id(name, one) if name in shared else name for one, name in apart.items()}
    return apart


def with_id(name: str, class_id: int) -> str:
    """The name with its id, which is added only once.

    >>> with_id(with_id("crane", 134), 134)
    'crane (id 134)'
    """
    ending = f" (id {class_id})"
    return name if name.endswith(ending) else name + ending

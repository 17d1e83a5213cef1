"""What a person should look at first: candidates in their order, with pictures, and near duplicates once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imgcls_ray.datasets.bursts import confirm_pairs
from imgcls_ray.datasets.duplicates import hashes_array, near_pictures
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.measure import copy_difference, hashes_of
from imgcls_ray.report.small_pictures import small_pictures
from imgcls_ray.review.candidates import find_candidates
from imgcls_ray.review.ranking import rank
from imgcls_ray.store.extremes import as_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.store.label_store import LabelStore

PICTURE_SIDE = 480
"""Longer side of a picture of the queue in pixels."""

# As `imgcls check` takes two pictures for nearly the same by default.
_NEAR_BITS, _NEAR_DIFFERENCE = 6, 5.0
_MAX_COMPARED = 20_000
_LEAST_AT_ONCE = 16  # pictures: for one, the process that decodes it would take longer to start


class Item(NamedTuple):
    """One image of a queue."""

    uri: str
    etag: str | None
    label: str
    confidence: float | None
    oddness: float | None
    labels: tuple[str, ...]
    """The model's best labels, best first."""
    scores: tuple[float, ...]
    why: str
    """``doubtful`` or ``odd``."""
    jpeg: bytes
    size: tuple[int, int]
    """Width and height of the picture."""
    num_alike: int = 0
    """Candidates that look nearly the same, and are not in the queue."""


@dataclass
class Queue:
    """What ``imgcls review`` writes."""

    store: str
    model: str
    fingerprint: str
    confidence: str
    """Column of the store that says how sure a label is."""
    classes: list[str]
    items: list[Item]
    num_labelled: int
    num_known: int
    codes: Counter[str]
    num_unreadable: int
    """Candidates whose pictures cannot be read any more."""
    has_embeddings: bool
    has_oddness: bool


class _Looked(NamedTuple):
    """A candidate whose picture was read."""

    place: int
    jpeg: bytes
    size: tuple[int, int]
    looks: np.ndarray
    """Of ``views``."""


def build_queue(
    store: LabelStore,
    *,
    budget: int,
    known: AbstractSet[str],
    class_names: list[str] | None,
    fetch_limits: FetchLimits,
    decode_limits: DecodeLimits,
) -> Queue:
    """Choose the images that a person should look at, and read their pictures.

    Args:
        store: with labels.
        budget: largest number of images.
        known: URIs that the dataset has already.
        class_names: of the dataset; ``None``: those that the store names.
        fetch_limits, decode_limits: bounds on reading and decoding an image.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    found = find_candidates(store, num_places=budget, known=known)
    rows = found.rows
    items, num_unreadable = [], 0
    if rows.num_rows:
        confidence, oddness = (as_numbers(rows.column(name)) for name in ("confidence", "oddness"))
        # What looks alike or cannot be read makes room for those behind it.
        ranked = rank(confidence, oddness, found.embeddings, 2 * budget)
        places, num_unreadable = _chosen(rows, ranked.order, budget, fetch_limits, decode_limits)
        items = [_item(rows, one, bool(ranked.is_odd[one.place]), num_alike) for one, num_alike in places]
    return Queue(
        store.uri,
        store.identity.model,
        store.identity.fingerprint,
        found.confidence,
        class_names if class_names is not None else found.classes,
        items,
        found.num_labelled,
        found.num_known,
        found.codes,
        num_unreadable,
        found.embeddings is not None,
        rows.num_rows > 0 and rows.column("oddness").null_count < rows.num_rows,
    )


def _chosen(
    rows: Any, order: np.ndarray, budget: int, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> tuple[list[tuple[_Looked, int]], int]:
    """The first candidates that can be read and look like none before them, with how many look like each."""
    looked: list[_Looked] = []
    kept: list[tuple[_Looked, int]] = []
    num_unreadable, start = 0, 0
    while len(kept) < budget and start < len(order):
        end = start + max(budget - len(kept), _LEAST_AT_ONCE)
        for one in _read(rows, order[start:end], fetch_limits, decode_limits):
            if one is None:
                num_unreadable += 1
            else:
                looked.append(one)
        start = end
        kept = _each_once(looked)
    return kept[:budget], num_unreadable


def _read(
    rows: Any, places: np.ndarray, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> Iterator[_Looked | None]:
    taken = rows.select(["uri", "etag"]).take(places).to_pylist()
    drawn = small_pictures([(row["uri"], row["etag"]) for row in taken], PICTURE_SIDE, fetch_limits, decode_limits)
    for place, one in zip(places.tolist(), drawn, strict=True):
        if isinstance(one, str):
            yield None
        else:
            header = read_jpeg_header(one.jpeg)
            yield _Looked(place, one.jpeg, (header.width, header.height), one.looks)


def _each_once(looked: list[_Looked]) -> list[tuple[_Looked, int]]:
    """Of pictures that look nearly the same the first one, with the number of the others."""
    if not looked:
        return []
    hashes = hashes_array([hashes_of(one.looks) for one in looked])
    near = near_pictures(hashes, _NEAR_BITS, np.zeros(len(looked), np.int8), is_across=False)

    def compare(pairs: np.ndarray) -> np.ndarray:
        differences = [copy_difference(looked[one].looks, looked[other].looks) for one, other in pairs.tolist()]
        return np.array(differences, np.float64)

    found = confirm_pairs(
        near.pairs,
        near.bits,
        compare,
        num_pictures=len(looked),
        largest=_NEAR_DIFFERENCE,
        max_compared=_MAX_COMPARED,
    )
    first = list(range(len(looked)))

    def first_of(place: int) -> int:
        while first[place] != place:
            place = first[place]
        return place

    for one, other in found.pairs.tolist():
        low, high = sorted((first_of(one), first_of(other)))
        first[high] = low
    num_alike = Counter(first_of(place) for place in range(len(looked)))
    return [(one, num_alike[place] - 1) for place, one in enumerate(looked) if place in num_alike]


def _item(rows: Any, one: _Looked, is_odd: bool, num_alike: int) -> Item:
    [row] = rows.slice(one.place, 1).to_pylist()
    labels, scores = tuple(row["labels"] or (row["label"],)), tuple(row["scores"] or ())
    why = "odd" if is_odd else "doubtful"
    return Item(
        row["uri"], row["etag"], row["label"], row["confidence"], row["oddness"], labels, scores, why,
        one.jpeg, one.size, num_alike,
    )  # fmt: skip

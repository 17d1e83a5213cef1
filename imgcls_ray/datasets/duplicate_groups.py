"""Groups of equal and nearly equal pictures, for a split that keeps each group together.

What counts as equal is what ``check`` finds across splits: after such a split it finds no pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.datasets.bursts import connected
from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.duplicates import equal_groups, hashes_array
from imgcls_ray.datasets.inspecting import ROWS_PER_BLOCK, InspectTask, block_of, inspect_entries, serve_inspecting
from imgcls_ray.datasets.pairs import Differences, compare_looks
from imgcls_ray.options import decode_limits, fetch_limits
from imgcls_ray.workers.prepare import check_resources, local_pool, start_workers
from imgcls_ray.workers.stopping import interrupt_on_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.labelled import Entry


class Found(NamedTuple):
    """Pairs of pictures that belong together."""

    pairs: np.ndarray
    """int64 (K, 2), places of the images."""
    num_unknown: int
    """Number of images of which it is not known whether they have a partner."""


class Looks:
    """The measured pictures of a dataset.

    Args:
        images: all images.
        facts: of each block of them, as ``inspect_entries`` gives them, in any order.
        config: which pictures are nearly equal.
    """

    def __init__(self, images: Sequence[Entry], facts: Sequence[pa.Table], config: CheckConfig) -> None:
        self._images, self._config = images, config
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("number", "digest", "hashes", "has_looks")}
        for block in facts:
            good = block.filter(block["code"].is_null())
            columns["number"].append(good["number"].to_numpy())
            columns["digest"].append(np.array(good["digest"].to_pylist(), dtype="V16"))
            hashes = zip(good["perceptual_hash"].to_pylist(), good["view_hashes"].to_pylist(), strict=True)
            columns["hashes"].append(hashes_array([own + views for own, views in hashes]))
            # Pictures without anything on them all look alike.
            columns["has_looks"].append(good["contrast"].to_numpy() >= config.uniform_below)
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        order = np.argsort(joined["number"])
        self._numbers, digests = joined["number"][order], joined["digest"][order]
        self._equal = [self._numbers[places] for places in equal_groups(digests)]
        # One of each group of equal files is enough.
        _, firsts = np.unique(digests, return_index=True)
        firsts = np.sort(firsts[joined["has_looks"][order][firsts]])
        self._firsts, self._hashes = self._numbers[firsts], joined["hashes"][order][firsts]
        task = InspectTask(fetch_limits(config), decode_limits(config))
        self._measure = Differences(self._firsts, self, task)

    @property
    def num_unreadable(self) -> int:
        return len(self._images) - len(self._numbers)

    def lookup(self, numbers: np.ndarray) -> dict[int, Entry]:
        """The entries of some images, for who compares them."""
        return {int(number): self._images[number] for number in numbers}

    def pairs(self) -> Found:
        """Pairs that connect all equal and nearly equal pictures."""
        near = self._near(np.zeros(len(self._images), np.int8), is_across=False)
        equal = [np.stack([group[:-1], group[1:]], axis=1) for group in self._equal]
        return Found(np.concatenate([near.pairs, *equal]), near.num_unknown)

    def pairs_across(self, splits: np.ndarray) -> Found:
        """Pairs of nearly equal pictures in two splits.

        Args:
            splits: (N,), the split of each image, as its place in ``SPLITS``.
        """
        return self._near(splits, is_across=True)

    def _near(self, splits: np.ndarray, *, is_across: bool) -> Found:
        near = compare_looks(self._hashes, splits[self._firsts], self._measure, self._config, is_across=is_across)
        return Found(self._firsts[near.pairs], int(near.is_missed.sum()))


def measure_looks(images: Sequence[Entry], config: CheckConfig, on_progress: Callable[[int], None]) -> Looks:
    """Look at every image of a dataset, with the workers of a check.

    Args:
        images: all of them.
        config: of a check of this dataset: workers, limits, and which pictures are nearly equal.
        on_progress: told how many images more were looked at.

    Raises:
        ResourceError: more workers than there are cores.
        JobFailedError: a worker failed for good.
    """
    check_resources(config, num_workers=config.num_workers)
    task = InspectTask(fetch_limits(config), decode_limits(config))
    facts: list[pa.Table] = []
    with local_pool(config, serve_inspecting) as local:
        pool = start_workers(config, local)
        with interrupt_on_stop(0, pool.stop):
            for block in inspect_entries(_blocks(images), task, pool):
                facts.append(block)
                on_progress(len(block))
    return Looks(images, facts, config)


def _blocks(images: Sequence[Entry]) -> Iterator[pa.Table]:
    for begin in range(0, len(images), ROWS_PER_BLOCK):
        yield block_of(
            [
                (number, SPLITS.index(image.split), image.path, image.uri, image.label, image.source, image.locator)
                for number, image in enumerate(images[begin : begin + ROWS_PER_BLOCK], begin)
            ]
        )


def group_names(pairs: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """The group of each image by its name: the first name, in order, of those that pairs connect.

    >>> group_names(np.array([[0, 2]]), ["c", "b", "a"])
    {'c': 'a', 'b': 'b', 'a': 'a'}
    """
    numbers = connected(pairs, len(names))
    firsts: dict[int, str] = {}
    for number, name in sorted(zip(numbers.tolist(), names, strict=True), key=lambda one: one[1]):
        firsts.setdefault(number, name)
    return {name: firsts[number] for number, name in zip(numbers.tolist(), names, strict=True)}

"""Turn the measurements of a dataset's images into findings, and find pairs among them; no image stays in memory.

69 bytes of each image stay in memory: position, split, class, size, and hashes of its name, bytes and pixels. All
entries are in a file, from which findings get their line and path.
"""

from __future__ import annotations

import heapq
import logging
import posixpath
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.datasets.check_result import SPLITS, CheckResult, Sample
from imgcls_ray.datasets.duplicates import equal_groups, hashes_array, near_pairs
from imgcls_ray.datasets.findings import Finding, FindingCode, Severity
from imgcls_ray.datasets.inspecting import ENTRY_SCHEMA, ROWS_PER_BLOCK, InspectTask
from imgcls_ray.datasets.looks import judge_looks
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.measure import small_grey
from imgcls_ray.machine import available_cores
from imgcls_ray.storage import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _typeshed import SupportsRichComparisonT

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.datasets.labelled import DatasetSource, Entry

logger = logging.getLogger(__name__)

_NUM_SAMPLES = 10
"""Number of samples of each split, as in PaddleX."""
_SIZE_STEP = 32
_MIN_FREQUENT_SHARE = 0.05
"""Smallest share of the images that makes a size one of ``CheckResult.frequent_sizes``: so they are twenty at most."""
_MAX_CONFIRMED = 20_000
"""Largest number of pairs whose pixels are compared; with so many, it is clear that the dataset has many duplicates."""
_MISSING = frozenset({ImageErrorCode.NOT_FOUND, ImageErrorCode.NOT_A_FILE})


class _Pending(NamedTuple):
    """A finding about an image, before its line and path are looked up."""

    code: FindingCode
    number: int
    detail: str
    other: int | None = None


class Collector:
    """Collects the measurements of images, and keeps only what the search for pairs needs."""

    def __init__(self, config: CheckConfig, source: DatasetSource, entries: EntryFile) -> None:
        self._config, self._source, self._entries = config, source, entries
        self._counts: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._pending: dict[FindingCode, list[tuple[int, int, _Pending]]] = defaultdict(list)
        self._images_per_class: dict[str, Counter[int]] = {split: Counter() for split in source.splits}
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._exact_sizes: list[np.ndarray] = []
        self._kinds: Counter[str] = Counter()
        # Numbers below nought: heaps give the smallest first, and of the images it is the last that have to go.
        self._odd_colours: dict[str, list[int]] = defaultdict(list)
        # Of each split the ten with the smallest hash: chosen at random, whatever the order they come in.
        self._samples: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._columns: dict[str, list[np.ndarray]] = defaultdict(list)
        for finding in source.findings:
            self.add(finding)

    def add(self, finding: Finding) -> None:
        self._counts[finding.code] += 1
        if self._counts[finding.code] <= self._config.max_findings:
            self._findings.append(finding)

    def _add_about(self, code: FindingCode, number: int, detail: str, other: int | None = None) -> None:
        """Keep the findings of the first images, in whatever order the blocks come back."""
        self._counts[code] += 1
        pending = (-number, 1 if other is None else -other, _Pending(code, number, detail, other))
        _push_bounded(self._pending[code], pending, self._config.max_findings)

    def blocks(self) -> Iterator[pa.Table]:
        """Read the entries once: count them, write them to a file, and yield them in blocks."""
        waiting: list[tuple[int, int, str, str, int]] = []
        number = 0
        with self._entries.writing():
            for entry in self._source.read(self.add):
                self._images_per_class[entry.split][entry.label] += 1
                self._entries.append(entry)
                if any(part.startswith(".") and part.strip(".") for part in entry.path.split("/")):
                    self._add_about(FindingCode.HIDDEN, number, "")
                waiting.append((number, SPLITS.index(entry.split), entry.path, entry.uri, entry.label))
                number += 1
                if len(waiting) == ROWS_PER_BLOCK:
                    yield _block(waiting)
                    waiting = []
        if waiting:
            yield _block(waiting)

    def take(self, facts: pa.Table) -> None:
        """Make findings of the images of a block, and keep what the search for pairs needs."""
        is_good = pc.is_null(facts["code"])
        for row in facts.filter(pc.invert(is_good)).select(["number", "code", "detail"]).to_pylist():
            self._judge_unreadable(row["number"], ImageErrorCode(row["code"]), row["detail"])
        good = facts.filter(is_good)
        if len(good):
            self._judge(good)
        for name in ("number", "split", "label"):
            self._columns[name].append(good[name].to_numpy())
        self._columns["digest"].append(np.array(good["digest"].to_pylist(), dtype="V16"))
        self._columns["perceptual_hash"].append(hashes_array(good["perceptual_hash"].to_pylist()))
        # Pictures without anything on them all look alike.
        self._columns["has_looks"].append(good["contrast"].to_numpy() >= self._config.uniform_below)
        # Names are compared whether or not there is an image behind them.
        for name in ("path_hash", "folded_hash"):
            self._columns[name].append(facts[name].to_numpy())
        self._columns["named"].append(facts["number"].to_numpy())

    def _judge_unreadable(self, number: int, error: ImageErrorCode, detail: str | None) -> None:
        what = f"{error}: {detail}" if detail else str(error)
        self._add_about(FindingCode.MISSING_IMAGE if error in _MISSING else FindingCode.UNREADABLE_IMAGE, number, what)

    def _judge(self, good: pa.Table) -> None:
        numbers = good["number"].to_numpy()
        exact = np.stack([good["width"].to_numpy(), good["height"].to_numpy()], axis=1)
        self._exact_sizes.append(exact)
        sides = exact // _SIZE_STEP * _SIZE_STEP
        for (width, height), count in zip(*np.unique(sides, axis=0, return_counts=True), strict=True):
            self._sizes[int(width), int(height)] += int(count)
        for kind in pc.value_counts(good["kind"]).to_pylist():
            self._kinds[kind["values"]] += kind["counts"]
        self._choose_samples(numbers, good["split"].to_numpy())
        for code, details in judge_looks(good, self._config):
            for place, detail in details.items():
                self._add_about(code, int(numbers[place]), detail)
        for place in np.flatnonzero(~pc.ends_with(good["kind"], " RGB").to_numpy(zero_copy_only=False)).tolist():
            colour = good["kind"][place].as_py().rpartition(" ")[2]
            _push_bounded(self._odd_colours[colour], -int(numbers[place]), self._config.max_findings)

    def _choose_samples(self, numbers: np.ndarray, splits: np.ndarray) -> None:
        """Keep the ten of each split with the smallest random number, which the image's own number gives."""
        ranks = _scattered(numbers.astype(np.uint64) + np.uint64(self._config.seed % 2**63))
        for split in np.unique(splits):
            own = np.flatnonzero(splits == split)
            chosen = self._samples[int(split)]
            for place in own[np.argsort(ranks[own])[:_NUM_SAMPLES]]:
                _push_bounded(chosen, (-int(ranks[place]), int(numbers[place])), _NUM_SAMPLES)

    def look_at_pairs(self, task: InspectTask) -> None:
        """Find similar names, then equal bytes, then nearly equal pictures."""
        if not self._columns["named"]:
            return
        kept = {name: np.concatenate(self._columns.pop(name)) for name in list(self._columns)}
        # Blocks come back in any order; what is found, and what is said of it, must not depend on it.
        _sort_by(kept, "named", ("path_hash", "folded_hash"))
        _sort_by(kept, "number", ("split", "label", "digest", "perceptual_hash", "has_looks"))
        self._look_at_names(kept)
        self._look_at_equal_bytes(kept)
        self._look_at_looks(kept, task)

    def _look_at_names(self, kept: dict[str, np.ndarray]) -> None:
        for places in equal_groups(kept["folded_hash"]):
            hashes = kept["path_hash"][places]
            _, firsts = np.unique(hashes, return_index=True)
            first, *others = np.sort(kept["named"][places[firsts]])
            for other in others:
                self._add_about(FindingCode.NAME_TWINS, int(other), "differs only in case or accents", int(first))
        for places in equal_groups(kept["path_hash"]):
            first, *others = np.sort(kept["named"][places])
            for other in others:
                self._add_about(FindingCode.DUPLICATE_LINE, int(other), "is listed before", int(first))

    def _look_at_equal_bytes(self, kept: dict[str, np.ndarray]) -> None:
        numbers, splits, labels = kept["number"], kept["split"], kept["label"]
        # Every entry has a name, so its number is its place there.
        path_hash_of = kept["path_hash"]
        for places in equal_groups(kept["digest"]):
            first = places[0]
            for place in places[1:]:
                number, other = int(numbers[place]), int(numbers[first])
                is_same_file = path_hash_of[number] == path_hash_of[other]
                what = "the same file" if is_same_file else "the same bytes"
                if labels[place] != labels[first]:
                    names = (self._source.class_name(int(labels[at])) for at in (place, first))
                    self._add_about(FindingCode.CONFLICTING_LABELS, number, f"{what}: {' and '.join(names)}", other)
                if splits[place] != splits[first]:
                    self._add_about(FindingCode.LEAKAGE, number, f"{what} in {SPLITS[splits[first]]}", other)
                elif not is_same_file:
                    self._add_about(FindingCode.EXACT_DUPLICATE, number, what, other)

    def _look_at_looks(self, kept: dict[str, np.ndarray], task: InspectTask) -> None:
        # One of each group of equal files is enough.
        _, firsts = np.unique(kept["digest"], return_index=True)
        firsts = np.sort(firsts[kept["has_looks"][firsts]])
        pairs = firsts[near_pairs(kept["perceptual_hash"][firsts], self._config.near_duplicate_bits)]
        numbers, splits, labels = kept["number"], kept["split"], kept["label"]
        if len(pairs) > _MAX_CONFIRMED:
            logger.warning(
                "%d pairs of pictures may be nearly equal; the pixels of the first %d are compared",
                len(pairs),
                _MAX_CONFIRMED,
            )
        for (one, two), difference in self._differences(numbers, pairs[:_MAX_CONFIRMED], task):
            if difference > self._config.near_duplicate_difference:
                continue
            first, place = sorted((one, two), key=lambda at: int(numbers[at]))
            what = f"nearly the same, {difference:.1f} of 255 apart"
            if labels[first] != labels[place]:
                what += f", and of another class: {self._source.class_name(int(labels[first]))}"
            is_leak = splits[first] != splits[place]
            what += f", in {SPLITS[splits[first]]}" if is_leak else ""
            code = FindingCode.LEAKAGE if is_leak else FindingCode.NEAR_DUPLICATE
            self._add_about(code, int(numbers[place]), what, int(numbers[first]))

    def _differences(
        self, numbers: np.ndarray, pairs: np.ndarray, task: InspectTask
    ) -> Iterator[tuple[tuple[int, int], float]]:
        """Mean difference of the pixels of each pair, 0 to 255."""
        uris = {number: entry.uri for number, entry in self._entries.lookup(np.unique(numbers[pairs])).items()}

        def difference(pair: np.ndarray) -> float:
            try:
                one, two = (
                    small_grey(decode_image(fetch(uris[int(numbers[at])], None, task.fetch_limits), task.decode_limits))
                    for at in pair
                )
            except ImageError:  # it was there before
                return 255.0
            return float(np.abs(one - two).mean())

        with ThreadPoolExecutor(available_cores(), thread_name_prefix="compare") as executor:
            for (one, two), found in zip(pairs, executor.map(difference, pairs), strict=True):
                yield (int(one), int(two)), found

    def look_at_classes(self) -> None:
        """Find splits and classes with too few images, and images with unusual colours."""
        for split in ("train", "val"):
            if not sum(self._images_per_class.get(split, Counter()).values()):
                self.add(Finding(FindingCode.EMPTY_SPLIT, _list_of(self._source, split), split=split))
        known = [label for label, name in enumerate(self._source.class_names) if name is not None]
        for split, counts in self._images_per_class.items():
            if not counts:
                continue
            for label in known:
                if not counts[label]:
                    name = self._source.class_name(label)
                    self.add(
                        Finding(
                            FindingCode.CLASS_WITHOUT_IMAGES,
                            _list_of(self._source, split),
                            split=split,
                            class_name=name,
                        )
                    )
        train = {label: count for label, count in self._images_per_class.get("train", Counter()).items() if count}
        if len(train) == 1:
            [name] = map(self._source.class_name, train)
            what = f"{name} is the only class with images to train with"
            self.add(Finding(FindingCode.ONE_CLASS, _list_of(self._source, "train"), split="train", detail=what))
        if train and max(train.values()) > self._config.imbalance_above * min(train.values()):
            most, least = (choose(train, key=lambda label: train[label]) for choose in (max, min))
            what = (
                f"{self._source.class_name(most)} has {train[most]:,} images to train with, "
                f"{self._source.class_name(least)} has {train[least]:,}"
            )
            self.add(Finding(FindingCode.IMBALANCE, _list_of(self._source, "train"), split="train", detail=what))
        self._look_at_colours()

    def _look_at_colours(self) -> None:
        colours: Counter[str] = Counter()
        for kind, count in self._kinds.items():
            colours[kind.rpartition(" ")[2]] += count
        if 2 * colours["RGB"] <= colours.total():
            return
        for kind, numbers in self._odd_colours.items():
            for number in numbers:
                self._add_about(FindingCode.ODD_COLOURS, -number, kind)
            self._counts[FindingCode.ODD_COLOURS] += colours[kind] - len(numbers)

    def result(self) -> CheckResult:
        """Look up the lines and paths of findings, and return the whole result."""
        all_pending = [pending for kept in self._pending.values() for *_, pending in kept]
        wanted = {number for pending in all_pending for number in (pending.number, pending.other)}
        wanted |= {number for chosen in self._samples.values() for _, number in chosen}
        entries = self._entries.lookup(np.array(sorted(number for number in wanted if number is not None), np.int64))
        findings = [*self._findings, *(self._finding(pending, entries) for pending in all_pending)]
        order = {code: place for place, code in enumerate(FindingCode)}
        findings.sort(
            key=lambda finding: (
                finding.code.severity is not Severity.ERROR,
                order[finding.code],
                finding.file,
                finding.line or 0,
                finding.path,
                finding.detail,
            )
        )
        samples = {
            SPLITS[split]: [self._sample(entries[number]) for _, number in sorted(chosen, reverse=True)]
            for split, chosen in sorted(self._samples.items())
        }
        return CheckResult(
            dataset=self._config.data,
            label_file=self._source.label_file,
            class_names=[
                None if name is None else self._source.class_name(label)
                for label, name in enumerate(self._source.class_names)
            ],
            num_images={split: sum(counts.values()) for split, counts in self._images_per_class.items()},
            images_per_class=self._images_per_class,
            samples=samples,
            sizes=Counter(dict(sorted(self._sizes.items()))),
            frequent_sizes=_frequent_sizes(self._exact_sizes),
            formats=Counter(dict(sorted(self._kinds.items()))),
            findings=findings,
            num_findings=Counter({code: self._counts[code] for code in FindingCode if self._counts[code]}),
        )

    def _sample(self, entry: Entry) -> Sample:
        return Sample(entry.path, entry.uri, self._source.class_name(entry.label))

    def _finding(self, pending: _Pending, entries: dict[int, Entry]) -> Finding:
        entry = entries[pending.number]
        detail, other_uri = pending.detail, ""
        if pending.other is not None:
            other = entries[pending.other]
            where = f"{other.file}:{other.line}" if other.line else ""
            detail = f"{detail}; the other is {other.path}" + (f" ({where})" if where else "")
            other_uri = other.uri
        return Finding(
            pending.code,
            entry.file,
            entry.line,
            entry.split,
            self._source.class_name(entry.label),
            entry.path,
            detail,
            entry.uri,
            other_uri,
        )


def _push_bounded(heap: list[SupportsRichComparisonT], item: SupportsRichComparisonT, bound: int) -> None:
    """Add to a heap of at most ``bound`` items; the smallest one goes."""
    if len(heap) < bound:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _sort_by(columns: dict[str, np.ndarray], key: str, others: Sequence[str]) -> None:
    order = np.argsort(columns[key], kind="stable")
    for name in (key, *others):
        columns[name] = columns[name][order]


def _scattered(numbers: np.ndarray) -> np.ndarray:
    """A random-looking uint64 for each uint64 (the last steps of SplitMix64, https://doi.org/10.1145/2714064.2660195)."""
    mixed = (numbers + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _frequent_sizes(blocks: list[np.ndarray]) -> Counter[tuple[int, int]]:
    """Exact sizes of at least 5 % of the images, from int32 (N, 2) of each block."""
    if not blocks:
        return Counter()
    # As one number, which sorts many times faster than a pair.
    sizes, counts = np.unique(np.concatenate(blocks).view(np.int64), return_counts=True)
    is_frequent = counts >= _MIN_FREQUENT_SHARE * counts.sum()
    pairs = sizes[is_frequent].view(np.int32).reshape(-1, 2).tolist()
    found = zip(pairs, counts[is_frequent].tolist(), strict=True)
    return Counter({(width, height): count for (width, height), count in sorted(found)})


def _list_of(source: DatasetSource, split: str) -> str:
    return source.list_files[split] if source.list_files else posixpath.basename(source.dataset.rstrip("/"))


def _block(rows: list[tuple[int, int, str, str, int]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, ENTRY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ENTRY_SCHEMA)

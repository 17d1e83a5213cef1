"""Turn the measurements of a dataset's images into findings; no image stays in memory.

181 bytes of each image stay in memory: position, split, class, size, and hashes of its name, bytes and pixels. All
entries are in a file, from which findings get their line and path.
"""

from __future__ import annotations

import heapq
import posixpath
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.datasets.check_result import SPLITS, CheckResult, Sample
from imgcls_ray.datasets.duplicates import hashes_array
from imgcls_ray.datasets.findings import Finding, FindingCode, ImageFinding, Severity
from imgcls_ray.datasets.inspecting import ROWS_PER_BLOCK, InspectTask, block_of
from imgcls_ray.datasets.looks import judge_looks
from imgcls_ray.datasets.pairs import class_twins, find_pairs
from imgcls_ray.errors import ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import SupportsRichComparisonT

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.datasets.labelled import DatasetSource, Entry

_NUM_SAMPLES = 10
"""Number of samples of each split, as in PaddleX."""
_SIZE_STEP = 32
_MIN_FREQUENT_SHARE = 0.05
"""Smallest share of the images that makes a size one of ``CheckResult.frequent_sizes``: so they are twenty at most."""
_MISSING = frozenset({ImageErrorCode.NOT_FOUND, ImageErrorCode.NOT_A_FILE})


class Collector:
    """Collects the measurements of images, and keeps only what the search for pairs needs."""

    def __init__(self, config: CheckConfig, source: DatasetSource, entries: EntryFile) -> None:
        self._config, self._source, self._entries = config, source, entries
        self._counts: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._pending: dict[FindingCode, list[tuple[int, int, ImageFinding]]] = defaultdict(list)
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
        pending = (-number, 1 if other is None else -other, ImageFinding(code, number, detail, other))
        _push_bounded(self._pending[code], pending, self._config.max_findings)

    def blocks(self) -> Iterator[pa.Table]:
        """Read the entries once: count them, write them to a file, and yield them in blocks."""
        waiting: list[tuple[object, ...]] = []
        number = 0
        with self._entries.writing():
            for entry in self._source.read(self.add):
                self._images_per_class[entry.split][entry.label] += 1
                self._entries.append(entry)
                if any(part.startswith(".") and part.strip(".") for part in entry.path.split("/")):
                    self._add_about(FindingCode.HIDDEN, number, "")
                place = (number, SPLITS.index(entry.split))
                waiting.append((*place, entry.path, entry.uri, entry.label, entry.source, entry.locator))
                number += 1
                if len(waiting) == ROWS_PER_BLOCK:
                    yield block_of(waiting)
                    waiting = []
        if waiting:
            yield block_of(waiting)

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
        hashes = zip(good["perceptual_hash"].to_pylist(), good["view_hashes"].to_pylist(), strict=True)
        self._columns["hashes"].append(hashes_array([own + views for own, views in hashes]))
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
        columns = {name: np.concatenate(self._columns.pop(name)) for name in list(self._columns)}
        for found in find_pairs(columns, self._source, self._entries, self._config, task):
            self._add_about(*found)

    def look_at_classes(self) -> None:
        """Find splits and classes with too few images, and images with unusual colours."""
        for split in ("train", "val"):
            if not sum(self._images_per_class.get(split, Counter()).values()):
                self.add(Finding(FindingCode.EMPTY_SPLIT, _list_of(self._source, split), split=split))
        for finding in class_twins(self._source):
            self.add(finding)
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
                f"{self._source.class_name(least)} has {train[least]:,}; `imgcls train` with --class-weights balanced "
                "or with --sampling balanced counts them alike"
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

    def _finding(self, pending: ImageFinding, entries: dict[int, Entry]) -> Finding:
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

"""The jobs that `benchmarks.kills` disturbs: their data, their commands, how far they are, and what they found out."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import imgcls
from imgcls_ray.datasets.inspecting import ROWS_PER_BLOCK
from imgcls_ray.evaluate.classifying import rows_per_block
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import is_store, open_store
from tests.conftest import SMALL_CLASSES

if TYPE_CHECKING:
    import random

    from benchmarks.opens import OpenCounter
    from imgcls_ray.store.label_store import LabelStore
    from tests.jobs.cluster import OwnCluster

Job = Literal["predict", "evaluate", "check"]
On = Literal["local", "ray"]
"""Where the workers run: the key ``on``."""
NUM_WORKERS = 2
_UNIT_SIZE = 256

Row = tuple[Any, ...]


@dataclass
class Bench:
    """What all jobs have in common."""

    data: Path
    """A labelled dataset, with its pictures in ``images``."""
    model: Path
    environment: dict[str, str]
    expected: dict[Job, dict[str, Row]]
    """Row of every input in an undisturbed job."""
    rng: random.Random
    cluster: OwnCluster | None = None
    """For the nodes to be killed; started with the first."""

    @property
    def images(self) -> Path:
        return self.data / "images"

    def command(self, job: Job, output: str, on: On) -> list[str]:
        if job == "predict":
            words: tuple[str | Path, ...] = (self.images, "--model", self.model, "-s", f"unit_size={_UNIT_SIZE}")
        elif job == "evaluate":
            words = (self.data, "--model", self.model, "-s", "num_mistakes=0")
        else:
            # So each picture is a finding, and one that was lost or looked at twice shows; and none is read again to be
            # compared with its likes.
            words = (self.data, "-s", "tiny_below=100", "-s", "max_findings=10000000", "-s", "near_duplicate_bits=0")
        return imgcls(job, *words, "--output", output, "--num-workers", str(NUM_WORKERS), "--on", on)


def draw_small_images(folder: Path, count: int) -> None:
    """Distinct pictures of about a kilobyte."""
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((80, 64), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=80)
        (folder / f"{i:06d}.jpg").write_bytes(buffer.getvalue())


def list_images(data: Path) -> None:
    """Make a dataset of pictures: a hundredth to train with, the others to evaluate on."""
    lines = [f"images/{path.name} {i % 7}\n" for i, path in enumerate(sorted((data / "images").iterdir()))]
    num_train = len(lines) // 100
    (data / "train.txt").write_text("".join(lines[:num_train]))
    (data / "val.txt").write_text("".join(lines[num_train:]))
    (data / "label.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(SMALL_CLASSES)))


def rows_of(store: LabelStore) -> dict[str, Row]:
    """Newest row of every input: label and scores."""
    return {
        uri: (label, tuple(scores or ()))
        for table in latest_rows(store)
        for uri, label, scores in zip(
            *(table.column(name).to_pylist() for name in ("uri", "label", "scores")), strict=True
        )
    }


def read_rows(job: Job, output: str) -> list[tuple[str, Row]]:
    """What a job found out about each input, in its own order."""
    if job == "predict":
        return list(rows_of(open_store(open_directory(output))).items())
    if job == "evaluate":
        rows = pq.read_table(Path(output, "evaluate", "predictions.parquet")).to_pylist()
        return [(row["uri"], (row["predicted"], tuple(row["scores"] or ()))) for row in rows]
    rows = pq.read_table(Path(output, "check_dataset", "findings.parquet")).to_pylist()
    return [(row["uri"], (row["line"], row["detail"])) for row in rows if row["code"] == "tiny"]


class Progress(Protocol):
    """Looks at what a job has done so far."""

    def num_done(self) -> int: ...

    def units(self) -> list[list[str]]:
        """Names of the files of each unit or block; none as long as they are not known."""


class StoreProgress:
    """Of a job that fills a store."""

    def __init__(self, uri: str) -> None:
        self._directory = open_directory(uri)
        self._units: list[list[str]] = []

    def num_done(self) -> int:
        return sum(1 for _ in self._directory.entries("predictions", starts_with="0001-")) if self.units() else 0

    def units(self) -> list[list[str]]:
        if not self._units and is_store(self._directory):
            store = open_store(self._directory)
            if store.planned_runs() == [1]:
                uris = (store.read_unit(unit).column("uri").to_pylist() for unit in store.units(1))
                self._units = [[os.path.basename(uri) for uri in of_unit] for of_unit in uris]
        return self._units


class ReadProgress:
    """Of a job that keeps nothing before its end: by what it has read."""

    def __init__(self, job: Job, bench: Bench, opens: OpenCounter) -> None:
        self._opens = opens
        lists = ["train.txt", "val.txt"] if job == "check" else ["val.txt"]
        lines = [line for name in lists for line in (bench.data / name).read_text().splitlines()]
        names = [os.path.basename(line.split()[0]) for line in lines]
        of_evaluate = rows_per_block(len(names), num_workers=NUM_WORKERS, batch_size=32, crop_size=64)
        size = ROWS_PER_BLOCK if job == "check" else of_evaluate
        self._blocks = [names[start : start + size] for start in range(0, len(names), size)]

    def num_done(self) -> int:
        return sum(all(self._opens.counts[name] for name in block) for block in self._blocks)

    def units(self) -> list[list[str]]:
        return self._blocks

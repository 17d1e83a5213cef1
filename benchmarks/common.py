"""What the benchmarks share: figures as JSON lines, the images, the command under test, and the parts it wrote.

Nothing here imports torch, Ray or imgcls_ray: a benchmark pays only for what it measures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

_SUFFIXES = frozenset({".jpg", ".jpeg"})
# Before that many rows the workers are still starting, one after the other.
_WARM_UP_ROWS = 1000


def emit(benchmark: str, figure: str, value: float, unit: str, **about: Any) -> None:
    """Print one figure as one JSON line on stdout."""
    line = {
        "benchmark": benchmark,
        "figure": figure,
        "value": float(f"{value:.4g}") if abs(value) < 1 else round(value, 3),
        "unit": unit,
        **about,
    }
    print(json.dumps(line), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, console: Console) -> None:
    """Print a table for people; every column but the first is aligned to the right."""
    table = Table(*columns, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


def list_images(folder: Path) -> list[Path]:
    """The JPEG files directly in a folder, sorted.

    Raises:
        SystemExit: there are none.
    """
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not images:
        sys.exit(f"{folder}: holds no JPEG files; `python -m benchmarks.make_images {folder} -n 5000` draws some")
    return images


def read_once(images: Sequence[Path]) -> None:
    """Bring all files into the page cache, so that the first benchmark does not pay for the others' reads."""
    for path in images:
        path.read_bytes()


@contextmanager
def linked_images(images: Sequence[Path], count: int, *, under: Path | None = None) -> Iterator[Path]:
    """A temporary folder of ``count`` links to the images, each with a name of its own, round and round."""
    with tempfile.TemporaryDirectory(prefix="imgcls-links-", dir=under) as folder:
        # Symbolic, because the images may lie on another file system, or belong to someone else.
        for i in range(count):
            Path(folder, f"{i:06d}.jpg").symlink_to(images[i % len(images)].resolve())
        yield Path(folder)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def imgcls(*arguments: str | Path) -> list[str]:
    """The command line of ``imgcls`` as it is installed beside this Python."""
    command = Path(sys.executable).with_name("imgcls")
    if not command.exists():
        sys.exit(f"{command}: not installed; run `{sys.executable} -m pip install -e '.[bench]'`")
    return [str(command), *map(str, arguments)]


@contextmanager
def isolated_environment() -> Iterator[dict[str, str]]:
    """An environment in which imgcls and Ray keep nothing and find nothing of other runs.

    Converted networks, temporary files and Ray's sessions go to a folder of their own, also those of a killed job.
    """
    # Directly in the temporary folder: Ray's sockets lie below it, and their paths may have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="ib-", ignore_cleanup_errors=True) as folder:
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment |= {
            "RAY_TMPDIR": folder,
            "TMPDIR": folder,
            "IMGCLS_CACHE": f"{folder}/cache",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        yield environment


def keep_conversion(model: Path, image: Path, environment: dict[str, str]) -> None:
    """Label one image, so that the converted network is kept in the environment's cache."""
    subprocess.run(imgcls("predict", image, "--model", model), env=environment, stdout=subprocess.DEVNULL, check=True)


class Part(NamedTuple):
    """One part file of a label store."""

    time: float
    """When it was written, seconds of the wall clock; its name appears some milliseconds later."""
    num_rows: int
    name: str


def read_parts(store: Path) -> list[Part]:
    """The part files of a store, the oldest first."""
    return sorted(
        Part(path.stat().st_mtime_ns / 1e9, pq.read_metadata(path).num_rows, path.name)
        for path in (store / "predictions").glob("[0-9]*.parquet")
    )


def steady_rate(parts: Sequence[Part]) -> float:
    """Images per second from the moment when the first rows were durable to the last part.

    The first rows are 1,000, or a fifth of a smaller job.
    """
    total = sum(part.num_rows for part in parts)
    num_rows = 0
    for part in parts:
        num_rows += part.num_rows
        if num_rows >= min(_WARM_UP_ROWS, total / 5):
            seconds = parts[-1].time - part.time
            return (total - num_rows) / seconds if seconds else float("nan")
    return float("nan")


def wait_for(seconds: float, condition: Callable[[], bool], *, every_s: float = 0.02) -> bool:
    """Wait until the condition holds; says whether it came to hold within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True

"""Say how a long job goes: a bar for people at a terminal, a log line every ten seconds for everyone else."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.words import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress

_LOG_INTERVAL_S = 10.0
_MIN_RATE_S = 3.0
logger = logging.getLogger(__name__)


class LabelProgress:
    """Counts images of one run. The rate is that of the running workers: it begins when the first unit is done."""

    def __init__(self, total: int, done: int, bar: Progress | None) -> None:
        self._total, self._done, self._num_errors = total, done, 0
        self._first: tuple[float, int] | None = None
        self._last_log = time.monotonic()
        self._bar = bar
        self._task = bar.add_task("labelling", total=total, completed=done, errors=0, rate="") if bar else None

    def add(self, num_images: int, num_errors: int) -> None:
        """Count a unit that is durable."""
        self._done += num_images
        self._num_errors += num_errors
        if self._first is None:
            self._first = (time.monotonic(), self._done)
        rate = self.images_per_s
        if self._bar is not None and self._task is not None:
            shown = f"{rate:.1f}/s" if rate else ""
            self._bar.update(self._task, completed=self._done, errors=self._num_errors, rate=shown)
        elif rate and time.monotonic() - self._last_log >= _LOG_INTERVAL_S:
            self._last_log = time.monotonic()
            logger.info(
                "labelled %d of %d images, %.1f images/s, %d errors, %s left",
                self._done,
                self._total,
                rate,
                self._num_errors,
                duration((self._total - self._done) / rate),
            )

    @property
    def images_per_s(self) -> float:
        """Since the first unit was done; 0 until that is long enough to mean something."""
        if self._first is None:
            return 0.0
        start, done = self._first
        seconds = time.monotonic() - start
        return (self._done - done) / seconds if seconds >= _MIN_RATE_S else 0.0


@contextmanager
def label_progress(total: int, done: int, console: Console) -> Iterator[LabelProgress]:
    """Show progress on the console while the block runs."""
    if not console.is_terminal:
        yield LabelProgress(total, done, None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("[red]{task.fields[errors]} errors"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield LabelProgress(total, done, bar)


@contextmanager
def image_progress(doing: str, console: Console) -> Iterator[Callable[[int], None]]:
    """Say how many images are done where nobody knows yet how many there are. Gives what is to be told of more."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    start = last_log = time.monotonic()
    done = 0

    def rate() -> float:
        return done / max(time.monotonic() - start, 1e-9)

    if not console.is_terminal:

        def log(count: int) -> None:
            nonlocal done, last_log
            done += count
            if time.monotonic() - last_log >= _LOG_INTERVAL_S:
                last_log = time.monotonic()
                logger.info("%s: %d images, %.1f images/s", doing, done, rate())

        yield log
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(doing, words="")

        def show(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, words=f"{done:,} images, {rate():,.0f}/s")

        yield show

"""Say how a long job goes: a bar for people at a terminal, a log line every ten seconds for everyone else."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.words import counted, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress

_LOG_INTERVAL_S = 10.0
_MIN_RATE_S = 3.0
logger = logging.getLogger(__name__)


class LabelProgress:
    """Counts images of one run. The rate is that of the running workers: it begins when the first unit is done."""

    def __init__(self, total: int, done: int, doing: str, bar: Progress | None) -> None:
        self._total, self._done, self._num_errors = total, done, 0
        self._doing = doing
        self._first: tuple[float, int] | None = None
        self._last_log = time.monotonic()
        self._bar = bar
        # Without a total the bar moves to and fro: nothing can be counted before the workers have started.
        waiting = "waiting for the first images: workers start"
        self._task = bar.add_task(waiting, total=None, count="", errors="", rate="") if bar else None

    def add(self, num_images: int, num_errors: int) -> None:
        """Count a unit that is durable."""
        self._done += num_images
        self._num_errors += num_errors
        if self._first is None:
            self._first = (time.monotonic(), self._done)
        rate = self.images_per_s
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                description=self._doing,
                total=self._total,
                completed=self._done,
                count=f"{self._done:,}/{self._total:,}",
                errors=counted(self._num_errors, "error"),
                rate=f"{rate:.1f}/s" if rate else "",
            )
        elif rate and time.monotonic() - self._last_log >= _LOG_INTERVAL_S:
            self._last_log = time.monotonic()
            logger.info(
                "%s: %s of %s images, %.1f images/s, %s, %s left",
                self._doing,
                f"{self._done:,}",
                f"{self._total:,}",
                rate,
                counted(self._num_errors, "error"),
                duration(self.eta_s or 0),
            )

    @property
    def num_done(self) -> int:
        """Images that are durable, those that were done before included."""
        return self._done

    @property
    def eta_s(self) -> float | None:
        """Seconds until all are done; ``None`` without a rate."""
        rate = self.images_per_s
        return (self._total - self._done) / rate if rate else None

    @property
    def images_per_s(self) -> float | None:
        """Since the first unit was done; ``None`` until that is long enough to mean something."""
        if self._first is None:
            return None
        start, done = self._first
        seconds = time.monotonic() - start
        return (self._done - done) / seconds if seconds >= _MIN_RATE_S else None


@contextmanager
def label_progress(total: int, done: int, console: Console, *, doing: str) -> Iterator[LabelProgress]:
    """Show progress on the console while the block runs.

    Args:
        total: images of the run.
        done: those of them that were done before.
        console: a terminal shows a bar; elsewhere there are lines of the log.
        doing: what is done with the images, e.g. ``labelling``.
    """
    if not console.is_terminal:
        yield LabelProgress(total, done, doing, None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("[red]{task.fields[errors]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield LabelProgress(total, done, doing, bar)


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
                logger.info("%s: %s images, %.1f images/s", doing, f"{done:,}", rate())

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

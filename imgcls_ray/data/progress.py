"""Say how a long job goes: a bar for people at a terminal, a log line every ten seconds for everyone else."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress

_LOG_INTERVAL_S = 10.0
logger = logging.getLogger("imgcls_ray")


class LabelProgress:
    """Counts images of one run; images that earlier commands labelled count as done, not into the rate."""

    def __init__(self, total: int, done: int, bar: Progress | None) -> None:
        self._total, self._done_before, self._num_errors = total, done, 0
        self._done = done
        self._start = self._last_log = time.monotonic()
        self._bar = bar
        self._task = bar.add_task("labelling", total=total, completed=done, errors=0, rate="") if bar else None

    def add(self, num_images: int, num_errors: int) -> None:
        self._done += num_images
        self._num_errors += num_errors
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, errors=self._num_errors, rate=f"{self._rate():.1f}/s")
        elif time.monotonic() - self._last_log >= _LOG_INTERVAL_S:
            self._last_log = time.monotonic()
            logger.info(
                "labelled %d of %d images, %.1f images/s, %d errors, %s left",
                self._done,
                self._total,
                self._rate(),
                self._num_errors,
                duration((self._total - self._done) / max(self._rate(), 1e-9)),
            )

    def _rate(self) -> float:
        return (self._done - self._done_before) / max(time.monotonic() - self._start, 1e-9)


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


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""Report the progress of a run: a bar or lines at the terminal, ``train.log``, TensorBoard events, ``curves.png``."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.models.class_names import names_apart
from imgcls_ray.report.curves import draw_curves
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.events import Doing, EpochDone, StepsDone, WorkersLost, WorkersReady
from imgcls_ray.train.scores import recalls_by_epoch
from imgcls_ray.words import counted, duration, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress

    from imgcls_ray.storage import Directory
    from imgcls_ray.train.events import Event
    from imgcls_ray.train.state import TrainState

logger = logging.getLogger(__name__)
_steps = logging.getLogger(f"{__name__}.steps")

LOG_FILE, CURVES_FILE, EVENTS_FOLDER = "train.log", "curves.png", "tensorboard"
_LOG_INTERVAL_S = 10.0
_CURVES_INTERVAL_S = 60.0
# Of a traceback: a loading process tells its own one within that of the worker.
_MAX_REASON = 300


class Reporter:
    """Takes the events of the workers, and updates log, bar, TensorBoard and curves."""

    def __init__(self, directory: Directory, folder: Path, state: TrainState, bar: Progress | None) -> None:
        from tensorboardX import SummaryWriter

        self._directory, self._folder, self._bar = directory, folder, bar
        self.history = list(state.history)
        self._class_names = names_apart(state.model.class_names)
        self._class_counts = dict(state.class_counts)
        self._best_epoch = state.best_epoch
        self._events = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=state.step + 1)
        self._task = bar.add_task("starting workers", total=None, count="", words="") if bar else None
        self._begun: tuple[float, int] | None = None
        self._total = 0
        self._last_line = self._last_curves = time.monotonic()

    def take(self, event: Event) -> None:
        """Report one event."""
        match event:
            case WorkersReady():
                self._ready(event)
            case Doing():
                self._show(event.what, event.step)
            case StepsDone():
                self._steps_done(event)
            case EpochDone():
                self._epoch_done(event)
            case WorkersLost():
                for rank, reason in event.reasons.items():
                    told = shortened(" ".join(reason.split()), _MAX_REASON)
                    logger.warning("worker %s was lost (%s); the run continues from the last saved state", rank, told)

    def _ready(self, event: WorkersReady) -> None:
        self._total = event.epochs * event.steps_per_epoch
        self._begun = None
        self._show("training", event.step)
        # A run that goes on after a death does again what was not saved.
        self.history = [row for row in self.history if row["step"] <= event.step]
        epochs = {row["epoch"] for row in self.history}
        self._class_counts = {epoch: counts for epoch, counts in self._class_counts.items() if epoch in epochs}
        logger.info(
            "epoch %d of %d, %d steps each; %s on %s, mixed precision: %s",
            event.step // event.steps_per_epoch + 1,
            event.epochs,
            event.steps_per_epoch,
            counted(event.num_workers, "worker"),
            event.device.partition(":")[0],
            event.amp.removeprefix("torch."),
        )

    def _steps_done(self, event: StepsDone) -> None:
        if self._begun is None:
            self._begun = (time.monotonic(), event.step)
        text = (
            f"epoch {event.epoch}, step {event.step:,} of {self._total:,}: loss {event.loss:.4f}, "
            f"learning rate {event.learning_rate:.3g}, {event.images_per_s:.1f} images/s{self._time_left(event.step)}"
        )
        _steps.debug(text)
        self._events.add_scalar("train/loss", event.loss, event.step)
        self._events.add_scalar("learning_rate", event.learning_rate, event.step)
        self._events.add_scalar("images_per_s", event.images_per_s, event.step)
        if self._bar is not None and self._task is not None:
            words = f"epoch {event.epoch}  loss {event.loss:.4f}  lr {event.learning_rate:.2g}  "
            words += f"{event.images_per_s:.0f} images/s"
            self._bar.update(self._task, words=words)
            self._show("training", event.step)
        elif time.monotonic() - self._last_line >= _LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            logger.info(text)

    def _show(self, what: str, step: int) -> None:
        """Move the bar, which says what the workers do."""
        if self._bar is not None and self._task is not None and self._total:
            count = f"step {step:,}/{self._total:,}"
            self._bar.update(self._task, description=what, total=self._total, completed=step, count=count)

    def _time_left(self, step: int) -> str:
        assert self._begun is not None
        start, first = self._begun
        if step == first:
            return ""
        return f", {duration((time.monotonic() - start) / (step - first) * (self._total - step))} left"

    def _epoch_done(self, event: EpochDone) -> None:
        row = event.row
        self.history.append(row)
        if event.class_counts is not None:
            self._class_counts[row["epoch"]] = event.class_counts
        if event.is_best:
            self._best_epoch = row["epoch"]
        # An evaluation within an epoch has no figures of its training.
        is_whole = "train.loss" in row
        parts = [f"train loss {row['train.loss']:.4f}"] if is_whole else []
        if "val.top1" in row:
            parts.append(f"val top-1 {row['val.top1']:.2%}, top-5 {row['val.top5']:.2%}, loss {row['val.loss']:.4f}")
            parts.append(f"macro F1 {row['val.macro_f1']:.2%}")
            if "val.mAP" in row:
                parts.append(f"mAP {row['val.mAP']:.2%}")
        if is_whole:
            parts.append(f"{row['images_per_s']:.1f} images/s")
        if event.num_bad:
            parts.append(f"{counted(event.num_bad, 'image')} could not be read")
        best = " (best)" if event.is_best else ""
        epoch = f"{row['epoch']:.4g}" if not is_whole else f"{row['epoch']:.0f}"
        logger.info("epoch %s: %s%s", epoch, ", ".join(parts), best)
        if event.warning:
            logger.warning("epoch %s: %s", epoch, event.warning)
        for key in row:
            if key.startswith(("train.", "val.")):
                place, x = ("epoch", row["epoch"]) if is_whole else ("within", row["step"])
                self._events.add_scalar(f"{place}/{key.replace('.', '_')}", row[key], x)
        if time.monotonic() - self._last_curves >= _CURVES_INTERVAL_S:
            self.publish()

    def publish(self) -> None:
        """Write curves and events to the output; to object storage, the log too."""
        self._last_curves = time.monotonic()
        self._events.flush()
        if self.history:
            recalls = recalls_by_epoch(self._class_counts, self._class_names)
            self._directory.replace(CURVES_FILE, draw_curves(self.history, self._best_epoch, recalls))
        if is_object(self._directory.uri):
            for path in [self._folder / LOG_FILE, *(self._folder / EVENTS_FOLDER).iterdir()]:
                self._directory.replace_from(str(path.relative_to(self._folder)), str(path))

    def close(self) -> None:
        """Write everything a last time. Called at the end of the command, also after an error."""
        self._events.close()
        self.publish()


@contextmanager
def report_to(directory: Directory, state: TrainState, console: Console) -> Iterator[Reporter]:
    """Report during the ``with`` block.

    Args:
        directory: output of the run.
        state: state that the run resumes from.
        console: terminal of the bar.
    """
    with ExitStack() as stack:
        if is_object(directory.uri):
            folder = stack.enter_context(scratch_folder("train-log"))
            with suppress(FileNotFoundError):
                (folder / LOG_FILE).write_bytes(directory.read(LOG_FILE))
        else:
            folder = Path(path_from_uri(directory.uri))
            os.makedirs(folder, exist_ok=True)
        stack.enter_context(_log_to(folder / LOG_FILE))
        bar = stack.enter_context(_progress(console)) if console.is_terminal else None
        yield Reporter(directory, folder, state, bar)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _steps.setLevel(logging.DEBUG)
    # Every step stands in the file; at the terminal a line every ten seconds is enough.
    _steps.propagate = False
    package = logging.getLogger("imgcls_ray")
    level = package.level
    if not package.isEnabledFor(logging.INFO):
        package.setLevel(logging.INFO)
    for one in (package, _steps):
        one.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        for one in (package, _steps):
            one.removeHandler(handler)
        handler.close()


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
        console=console,
    )

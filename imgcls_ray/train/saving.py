"""Save a run: first the state to resume from, then the model folders."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.models.spec import SPEC_FILE, WEIGHTS_FILE
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.train.network import publish_model
from imgcls_ray.train.state import STATE_FILE, save_state

if TYPE_CHECKING:
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.train.state import TrainState

LATEST, BEST = "latest", "best_model"
_CHECKPOINT = re.compile(r"epoch_([0-9]+)")
_MIN_RATIO = 20


class Saver:
    """Saves synchronously: training waits.

    A thread would change the training: building a network for the model folder draws random numbers, and training uses
    the same generator.

    Args:
        output: folder of the run, or prefix of a bucket.
        storage: how to reach it.
        keep: number of permanent checkpoints that stay; 0 keeps all.
    """

    def __init__(self, output: str, storage: StorageOptions, *, keep: int) -> None:
        self._output, self._directory, self._keep = output, open_directory(output, storage), keep
        self._last = time.monotonic()
        self._took_s = 0.0
        self._best_epoch = -1.0

    def is_due(self, seconds: float) -> bool:
        """Whether ``seconds`` have passed since the last save, and at least 20 times the duration of that save."""
        return time.monotonic() - self._last >= max(seconds, _MIN_RATIO * self._took_s)

    def save(self, state: TrainState, *, checkpoint: str | None = None) -> None:
        """Write ``latest`` with the state to resume from, and ``best_model`` if the best epoch has changed.

        Args:
            state: the state to write.
            checkpoint: name of a folder for a permanent checkpoint with the same content, e.g. ``epoch_5``.

        Raises:
            StorageError: it cannot be written.
        """
        start = time.monotonic()
        self._write(state, checkpoint)
        self._last = time.monotonic()
        self._took_s = self._last - start

    def _write(self, state: TrainState, checkpoint: str | None) -> None:
        # The state first, and alone enough: whatever is broken off after it is written again by the run that goes on.
        save_state(state, self._directory, f"{LATEST}/{STATE_FILE}")
        metrics = state.history[-1] if state.history else {}
        kept = {key: value for key, value in metrics.items() if key.startswith("val.") or key == "epoch"}
        publish_model(state, state.weights_for_use(), kept, self._directory, LATEST)
        if state.best is not None and state.best_epoch != self._best_epoch:
            metrics = {**state.best_metrics, "epoch": state.best_epoch}
            publish_model(state, state.best, metrics, self._directory, BEST)
            self._best_epoch = state.best_epoch
        if checkpoint is not None:
            publish_model(state, state.weights_for_use(), kept, self._directory, checkpoint)
            save_state(state, self._directory, f"{checkpoint}/{STATE_FILE}")
            self._prune()

    def _prune(self) -> None:
        names = {name.rstrip("/") for name in self._directory.entries()}
        numbers = sorted(int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name)))
        for number in numbers[: -self._keep] if self._keep else []:
            for file in (STATE_FILE, SPEC_FILE, WEIGHTS_FILE):
                self._directory.remove(f"epoch_{number}/{file}")
            if not is_object(self._output):
                with suppress(OSError):
                    os.rmdir(os.path.join(path_from_uri(self._output), f"epoch_{number}"))

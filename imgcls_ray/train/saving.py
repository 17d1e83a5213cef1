"""Write states and model folders beside the training, one after the other, in the order in which they were made."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imgcls_ray.models.folder import SPEC_FILE, WEIGHTS_FILE
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.local import path_from_uri
from imgcls_ray.storage.s3 import is_s3
from imgcls_ray.train.network import publish_model
from imgcls_ray.train.state import STATE_FILE, save_state

if TYPE_CHECKING:
    from concurrent.futures import Future

    from imgcls_ray.storage.s3 import S3Options
    from imgcls_ray.train.state import TrainState

LATEST, BEST = "latest", "best_model"
_CHECKPOINT = re.compile(r"epoch_([0-9]+)")


class Saver:
    """Saves in a thread of its own; a failure is told by the next call."""

    def __init__(self, output: str, s3: S3Options, *, keep: int) -> None:
        self._output, self._directory, self._keep = output, open_directory(output, s3), keep
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._pending: Future[None] | None = None
        self._last = time.monotonic()
        self._best_epoch = -1

    def seconds_since_save(self) -> float:
        """Since this was made, or the last save began."""
        return time.monotonic() - self._last

    def save(self, state: TrainState, *, checkpoint: str | None = None) -> None:
        """Write ``latest``, with the state to go on from, and ``best_model`` where it is another one.

        Args:
            state: its weights are not changed after this.
            checkpoint: write the same to a folder of this name, to stay.

        Raises:
            StorageError: this or an earlier save failed.
        """
        self.wait()
        self._last = time.monotonic()
        snapshot = replace(
            state,
            optimizer=_copied(state.optimizer),
            sums=dict(state.sums),
            history=list(state.history),
            bad=dict(state.bad),
        )
        self._pending = self._executor.submit(self._write, snapshot, checkpoint)

    def wait(self) -> None:
        """Wait until what was saved is durable."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """End the thread; what it has in hand is written."""
        self._executor.shutdown(wait=True)

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
            if not is_s3(self._output):
                with suppress(OSError):
                    os.rmdir(os.path.join(path_from_uri(self._output), f"epoch_{number}"))


def _copied(value: Any) -> Any:
    """An optimizer's state on the CPU, apart from the one that training goes on with."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value

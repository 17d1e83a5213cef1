"""What a worker does with a unit of the plan: classify its images, and write their part file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import ImageError
from imgcls_ray.inputs.absence import ListedIn, check_absences
from imgcls_ray.models.classifier import Prediction
from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.parts import commit_unit, done_before
from imgcls_ray.store.schema import Unit
from imgcls_ray.workers.classifier_task import ClassifierTask, ClassifierWork
from imgcls_ray.workers.local_worker import serve_workers
from imgcls_ray.workers.worker import Block

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.errors import ImageErrorCode
    from imgcls_ray.models.classifier import ModelInput, StageSeconds
    from imgcls_ray.store.label_store import LabelStore


@dataclass(frozen=True)
class LabelTask(ClassifierTask):
    """What every worker of a run is told."""

    store: str
    listed: ListedIn | None = None
    """Where the run's inputs were listed. ``None``: what is missing stays missing."""
    limits: dict[str, Any] = field(default_factory=dict)
    """What decides whether a failed input is asked again under wider limits, by the configuration's keys."""

    def open_store(self) -> LabelStore:
        return open_store(open_directory(self.store, self.fetch_limits.storage))

    def check_absences(self, rows: pa.Table, errors: Sequence[ImageErrorCode | None]) -> None:
        """End the job where inputs are missing because their storage is away.

        Raises:
            StorageError: with the way out.
        """
        check_absences(rows, errors, listed=self.listed, store=self.store, storage=self.fetch_limits.storage)


def serve_labelling() -> None:
    """The process that local workers are forked from."""
    serve_workers(openvino_core)


def block_of_unit(unit: Unit) -> Block:
    """A unit for a worker."""
    content = pa.table({name: [value] for name, value in unit._asdict().items()})
    return Block(unit.number, unit.part_name, f"unit {unit.number} of run {unit.run:04d}", content)


def unit_of(content: pa.Table) -> Unit:
    """The unit that is a block's content."""
    [row] = content.to_pylist()
    return Unit(**row)


class LabelWork(ClassifierWork[list[Prediction | ImageError]]):
    """Classifies units and commits them; what comes back of each is one row of counts."""

    def __init__(
        self, task: LabelTask, *, device: str | None = "cpu", num_threads: int = 1, num_cores: int = 1
    ) -> None:
        self._task, self._store = task, task.open_store()
        super().__init__(task, device, num_threads, num_cores, self._store.identity.calibration)

    def done_before(self, content: pa.Table) -> pa.Table | None:
        unit = unit_of(content)
        return done_before(unit).to_table() if self._store.directory.exists(unit.part_name) else None

    def rows(self, content: pa.Table) -> pa.Table:
        return self._store.read_unit(unit_of(content))

    def check(self, rows: pa.Table, errors: Sequence[ImageErrorCode | None]) -> None:
        self._task.check_absences(rows, errors)

    def compute(
        self, _content: pa.Table, inputs: Iterable[ModelInput | ImageError], seconds: StageSeconds
    ) -> list[Prediction | ImageError]:
        return list(self._classifier.classify_inputs(inputs, seconds))

    def commit(
        self, content: pa.Table, rows: pa.Table, results: list[Prediction | ImageError], seconds: StageSeconds
    ) -> pa.Table:
        names, limits = self._spec.class_names, self._task.limits
        precision = self._classifier.precision
        return commit_unit(self._store, names, unit_of(content), rows, results, seconds, limits, precision).to_table()

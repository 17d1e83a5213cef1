"""Count what a command labels, in one place: Prometheus, Ray and schedulers are told the same numbers.

The counts come with those of each unit, so no image costs anything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from imgcls_ray.errors import ImageErrorCode
from imgcls_ray.store.records import now
from imgcls_ray.store.schema import STATUS_OK
from imgcls_ray.workers.ray_metrics import Family

if TYPE_CHECKING:
    from imgcls_ray.json_files import Json
    from imgcls_ray.predict.report import RunReport
    from imgcls_ray.predict.verdict import Verdict
    from imgcls_ray.store.counts import UnitCounts
    from imgcls_ray.store.plan import PlanCounts
    from imgcls_ray.workers.progress import LabelProgress

State = Literal["running", "finished", "stopped", "failed"]

_NOT_FETCHED = frozenset(
    {
        ImageErrorCode.NOT_FOUND.value,
        ImageErrorCode.ACCESS_DENIED.value,
        ImageErrorCode.ARCHIVED.value,
        ImageErrorCode.NOT_A_FILE.value,
        ImageErrorCode.UNSUPPORTED_STORAGE.value,
        ImageErrorCode.FETCH_FAILED.value,
        ImageErrorCode.CHANGED.value,
        ImageErrorCode.TOO_MANY_BYTES.value,
    }
)
_DECODED = frozenset({STATUS_OK, ImageErrorCode.NON_FINITE_OUTPUT.value})


class BulkMetrics:
    """The numbers of one command. It is told by the thread that labels, and may be read from another one.

    Args:
        store: URI of the label store.
        plan: counts of the listing, which grow while it goes on.
    """

    def __init__(self, store: str, plan: PlanCounts) -> None:
        # A path may hold bytes that are not UTF-8, which a label must not.
        self.store = store.encode(errors="backslashreplace").decode()
        self.state: State = "running"
        self._plan = plan
        self._start = time.time()
        self._lock = threading.Lock()
        self._codes: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._run: RunReport | None = None
        self._progress: LabelProgress | None = None

    def begin_run(self, run: RunReport, progress: LabelProgress) -> None:
        """From now on, units are those of this run."""
        with self._lock:
            self._run, self._progress = run, progress

    def add(self, counts: UnitCounts) -> None:
        """Count a unit that is durable."""
        with self._lock:
            self._codes.update(counts.codes)
            self._seconds.update(vars(counts.seconds))

    def families(self) -> list[Family]:
        """All metrics, with the numbers of this moment."""
        with self._lock:
            families = [
                Family(
                    "imgcls_bulk_images_total",
                    "Images of this command that were listed, and that passed each stage.",
                    self._images(),
                    label="stage",
                ),
                Family(
                    "imgcls_bulk_errors_total",
                    "Images of this command that got an error, by its code.",
                    {code: count for code, count in self._codes.items() if code != STATUS_OK},
                    label="code",
                ),
                Family(
                    "imgcls_bulk_worker_seconds_total",
                    "Seconds that the workers of this command spent in each stage.",
                    dict(self._seconds),
                    label="stage",
                ),
                Family("imgcls_bulk_running", "1 while the command runs.", _one(float(self.state == "running"))),
                Family("imgcls_bulk_start_timestamp_seconds", "Time at which the command started.", _one(self._start)),
            ]
            if self._run is None or self._progress is None:
                return families
            return [
                *families,
                Family("imgcls_bulk_run_images", "Images of the current run.", _one(self._run.num_images)),
                Family(
                    "imgcls_bulk_run_done_images",
                    "Images of the current run that have their row, those of earlier commands included.",
                    _one(self._progress.num_done),
                ),
                Family("imgcls_bulk_workers", "Workers of the current run.", _one(self._run.num_workers)),
                Family(
                    "imgcls_bulk_images_per_second",
                    "Rate of the current run since its first unit; absent during its first seconds.",
                    _one(self._progress.images_per_s),
                ),
                Family(
                    "imgcls_bulk_eta_seconds",
                    "Seconds until the end of the current run; absent while there is no rate.",
                    _one(self._eta_s()),
                ),
                Family(
                    "imgcls_bulk_drift",
                    "Jensen-Shannon divergence of the finished run's images from those of the model's evaluation, by "
                    "feature; 0 if it may be noise.",
                    _drift_of(self._run),
                    label="feature",
                ),
                *_of_verdict(self._run.verdict),
            ]

    def to_record(self) -> dict[str, Json]:
        """``progress.json``."""
        with self._lock:
            record: dict[str, Json] = {
                "state": self.state,
                "started": datetime.fromtimestamp(self._start, UTC).isoformat(timespec="seconds"),
                "updated": now(),
                "images": dict(self._images()),
                "errors": {code: count for code, count in sorted(self._codes.items()) if code != STATUS_OK},
            }
            if self._run is not None and self._progress is not None:
                record |= {
                    "run": self._run.run,
                    "num_images": self._run.num_images,
                    "num_done": self._progress.num_done,
                    "num_workers": self._run.num_workers,
                    "images_per_s": _rounded(self._progress.images_per_s),
                    "eta_s": _rounded(self._eta_s()),
                    "verdict": verdict.to_record() if (verdict := self._run.verdict) is not None else None,
                }
            return record

    def _images(self) -> dict[str, float]:
        codes = self._codes
        return {
            "listed": self._plan.listed,
            "fetched": sum(count for code, count in codes.items() if code not in _NOT_FETCHED),
            "decoded": sum(count for code, count in codes.items() if code in _DECODED),
            "predicted": codes[STATUS_OK],
            "written": codes.total(),
        }

    def _eta_s(self) -> float | None:
        return self._progress.eta_s if self._progress is not None and self.state == "running" else None


def _drift_of(run: RunReport) -> dict[str, float]:
    features = () if run.drift is None else run.drift.features
    return {feature.name: feature.divergence if feature.is_real else 0.0 for feature in features}


def _of_verdict(verdict: Verdict | None) -> list[Family]:
    return [
        Family(
            "imgcls_bulk_possible_speedup",
            "Factor of the rate of the current run that a change could bring, as measured until now.",
            {} if verdict is None else {str(change): factor for change, factor in verdict.speedups.items()},
            label="change",
        ),
        Family(
            "imgcls_bulk_gpu_busy_ratio",
            "Share of the time in which the GPUs of the current run computed; absent on CPUs.",
            _one(None if verdict is None else verdict.gpu_busy),
        ),
    ]


def _one(value: float | None) -> dict[str, float]:
    """The only sample of a metric without a label, or none."""
    return {} if value is None else {"": value}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)

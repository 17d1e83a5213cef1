"""Metrics of a job, and how Ray is told them: it shows them at the metrics port of the driver's node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Family:
    """A metric in the sense of Prometheus; one whose name ends with ``_total`` only grows."""

    name: str
    description: str
    samples: Mapping[str, float]
    """Values by the value of ``label``; without a label one value by the empty text, or none."""
    label: str = ""
    """Name of the label beside ``store``."""

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")


class Metrics(Protocol):
    """Metrics of one label store."""

    store: str

    def families(self) -> list[Family]:
        """All of them, with the numbers of this moment."""


class RayMetrics:
    """The metrics of the Ray that the driver has started or joined."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._told: dict[tuple[str, str], float] = {}

    def export(self, metrics: Metrics) -> None:
        """Bring Ray's metrics to these numbers. Ray's own prefix ``ray_`` comes before the names."""
        from ray.util.metrics import Counter, Gauge

        for family in metrics.families():
            kind: Any = Counter if family.is_counter else Gauge
            keys = ("store", family.label) if family.label else ("store",)
            if (metric := self._metrics.get(family.name)) is None:
                metric = kind(family.name, description=family.description, tag_keys=keys)
                self._metrics[family.name] = metric
            for value, number in family.samples.items():
                tags = {"store": metrics.store, **({family.label: value} if family.label else {})}
                if not family.is_counter:
                    metric.set(number, tags=tags)
                elif (more := number - self._told.get((family.name, value), 0)) > 0:
                    metric.inc(more, tags=tags)
                    self._told[family.name, value] = number

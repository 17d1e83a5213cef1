"""The result of a check: all data of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgcls_ray.datasets.findings import Severity

if TYPE_CHECKING:
    from imgcls_ray.datasets.findings import Finding

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """An image that the report shows."""

    path: str
    """Path as it is written in the dataset."""
    uri: str
    class_name: str


@dataclass
class CheckResult:
    """The result of checking one dataset. Counts include images that cannot be read."""

    dataset: str
    """Path or URI, as it was given."""
    label_file: str | None
    """Path of ``label.txt``, relative to the dataset; ``None`` if class names come from folders or a table."""
    class_names: list[str | None]
    """Class names by id; ``None`` for an id without a class."""
    num_images: dict[str, int] = field(default_factory=dict)
    """Number of images by split, in the order train, val, test, for the splits that the dataset has."""
    images_per_class: dict[str, Counter[int]] = field(default_factory=dict)
    """Number of images by split, then by class id."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Samples by split: at most ten, chosen at random (seeded) from all readable images."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of decoded images by (width, height), both rounded down to a multiple of 32."""
    frequent_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of decoded images by exact (width, height), for the sizes that at least 5 % of them have."""
    formats: Counter[str] = field(default_factory=Counter)
    """Number of images by format and colours, e.g. ``JPEG RGB``."""
    findings: list[Finding] = field(default_factory=list)
    """Findings, errors first; of each code at most ``max_findings`` of the configuration."""
    num_findings: Counter[str] = field(default_factory=Counter)
    """Number of all findings by code, also of those that are not in ``findings``."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not any(finding.code.severity is Severity.ERROR for finding in self.findings)

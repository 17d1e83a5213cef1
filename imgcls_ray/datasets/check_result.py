"""What a check found out: everything that the report is made of."""

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
    """As the dataset names it."""
    uri: str
    class_name: str


@dataclass
class CheckResult:
    """One dataset, checked. Counts are of listed images, whether or not they can be read."""

    dataset: str
    """Path or URI, as it was given."""
    label_file: str | None
    """Relative to the dataset; none if class names come from folders or a table."""
    class_names: list[str | None]
    """By class id; None where no class has the id."""
    num_images: dict[str, int] = field(default_factory=dict)
    """By split, in the order train, val, test; those that the dataset has."""
    images_per_class: dict[str, Counter[int]] = field(default_factory=dict)
    """By split, then by class id."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """By split, at most ten, chosen at random (seeded) among all that can be read."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many images have which (width, height), both rounded down to a multiple of 32; those that were decoded."""
    formats: Counter[str] = field(default_factory=Counter)
    """How many images are of which format (``JPEG``, ``PNG``, ...) and colours, e.g. ``JPEG RGB``."""
    findings: list[Finding] = field(default_factory=list)
    """Errors first; by kind at most ``max_findings`` of the configuration."""
    num_findings: Counter[str] = field(default_factory=Counter)
    """All of them, by code, those that are not in ``findings`` too."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not any(finding.code.severity is Severity.ERROR for finding in self.findings)

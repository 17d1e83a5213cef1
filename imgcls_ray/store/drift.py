"""How far the images of a run are from those that the model was evaluated on, and how much of that may be chance.

The images of each feature are laid into groups that hold equal shares of the reference. The divergence of two such
histograms is Jensen and Shannon's, from 0 (equal) to 1 (nothing in common). Two samples of one population differ, too:
so both are drawn again, many times, from what they are together, and what is exceeded by one draw in a hundred, of all
features together, is noise.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.models.profile import FEATURES, Profile
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.records import run_name
from imgcls_ray.store.rows import KEY_COLUMNS
from imgcls_ray.store.schema import run_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.json_files import Json
    from imgcls_ray.store.label_store import LabelStore

_NUM_GROUPS = 10
_NUM_DRAWS = 2000
_MAX_AT_ONCE = 2_000_000
"""Numbers in memory: of twenty thousand classes, all draws at once would take gigabytes."""
_FALSE_ALARMS = 0.01
_RARE = 5
"""Classes with fewer images in both together count as one."""
_UNLIKE_SHARE = 0.01


class FeatureDrift(NamedTuple):
    """One feature of a run beside that of the reference."""

    name: str
    divergence: float
    """Jensen-Shannon divergence in bits, 0 to 1."""
    noise: float
    """What chance alone hardly exceeds."""

    @property
    def is_real(self) -> bool:
        return self.divergence > self.noise


class Drift(NamedTuple):
    """A run beside the reference."""

    num_images: int
    num_reference: int
    features: tuple[FeatureDrift, ...]
    """The farthest first."""
    share_unlike: float
    """Share of the run's images whose out-of-distribution score is above that of all but 1 % of the reference."""
    share_unlike_reference: float
    """The same share of the reference, which is at most 1 %."""

    @property
    def real(self) -> list[FeatureDrift]:
        """The features that differ by more than noise."""
        return [feature for feature in self.features if feature.is_real]

    @property
    def worst(self) -> float:
        """The largest divergence that is more than noise; 0 if none is."""
        return max((feature.divergence for feature in self.real), default=0.0)

    def to_record(self) -> dict[str, Json]:
        """As JSON holds it."""
        return {
            "drift": round(self.worst, 6),
            "num_images": self.num_images,
            "num_reference": self.num_reference,
            "features": {
                feature.name: {
                    "divergence": round(feature.divergence, 6),
                    "noise": round(feature.noise, 6),
                    "is_real": feature.is_real,
                }
                for feature in self.features
            },
            "share_unlike": round(self.share_unlike, 6),
            "share_unlike_reference": round(self.share_unlike_reference, 6),
        }

    @property
    def words(self) -> str:
        """One line: ``sharpness 0.31, confidence 0.12 (noise up to 0.02); 8.1 % unlike ...``."""
        unlike = (
            f"{self.share_unlike:.1%} of the images are as unlike as the last {self.share_unlike_reference:.1%} of the "
            "reference"
        )
        if not self.real:
            return f"none above noise; {unlike}"
        told = ", ".join(f"{feature.name} {feature.divergence:.3f}" for feature in self.real)
        return f"{told} (noise up to {max(feature.noise for feature in self.real):.3f}); {unlike}"


def compare(reference: Profile, run: Profile) -> Drift | None:
    """Compare a run with the reference; ``None`` if one of both has no images."""
    names = [name for name in FEATURES if reference.counts.get(name) and run.counts.get(name)]
    if not names:
        return None
    features = [
        _feature(name, *_histograms(name, reference.counts[name], run.counts[name]), len(names)) for name in names
    ]
    features.sort(key=lambda feature: -feature.divergence)
    shares = _unlike_shares(reference.counts.get("unlike", {}), run.counts.get("unlike", {}))
    return Drift(run.num_images, reference.num_images, tuple(features), *shares)


def drift_of_run(store: LabelStore, profile: Profile) -> Drift | None:
    """How far a run's images are from those that the store's model was evaluated on; ``None`` where that is not known.

    Args:
        store: of the run.
        profile: of the run.
    """
    calibration = store.identity.calibration
    return None if calibration is None or calibration.profile is None else compare(calibration.profile, profile)


def newest_profile(store: LabelStore, run: int | None = None) -> tuple[int, Profile] | None:
    """The newest finished run with a profile, or the run of this number; ``None`` if there is none.

    Raises:
        LabelStoreDamagedError: its record is damaged.
    """
    for number in reversed(store.finished_runs()) if run is None else [run]:
        if found := store.run_record(number).get("profile"):
            try:
                return number, Profile.model_validate(found)
            except ValueError as error:
                raise LabelStoreDamagedError(
                    f"{store.uri}: {run_name(number)} is damaged; bring it back from a copy"
                ) from error
    return None


def most_unlike(store: LabelStore, run: int, count: int) -> list[dict[str, Any]]:
    """The newest rows of a run with the highest out-of-distribution scores, highest first. All rows are read.

    Raises:
        LabelStoreDamagedError: a file is damaged or lost.
    """
    columns = (*KEY_COLUMNS, "label", "score", "ood_score")
    rows = (row for table in latest_rows(store, columns) for row in table.to_pylist())
    of_run = (row for row in rows if row["ood_score"] is not None and run_of(row["image_id"]) == run)
    return heapq.nlargest(count, of_run, key=lambda row: row["ood_score"])


def _feature(name: str, reference: np.ndarray, run: np.ndarray, num_features: int) -> FeatureDrift:
    divergence = float(_divergence(reference / reference.sum(), run / run.sum()))
    # The same draws for everybody: what is told does not change from one look to the next.
    random = np.random.default_rng(0)
    together = (reference + run) / (reference + run).sum()
    num_at_once = max(1, _MAX_AT_ONCE // len(together))
    drawn = []
    for start in range(0, _NUM_DRAWS, num_at_once):
        size = min(num_at_once, _NUM_DRAWS - start)
        drawn.append(
            _divergence(*(random.multinomial(int(of.sum()), together, size) / of.sum() for of in (reference, run)))
        )
    noise = float(np.quantile(np.concatenate(drawn), 1 - _FALSE_ALARMS / num_features))
    return FeatureDrift(name, divergence, noise)


def _divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits of shares along the last axis."""
    middle = (one + other) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(shares > 0, shares * np.log2(shares / middle), 0).sum(axis=-1) for shares in (one, other)]
    divergence: np.ndarray = (parts[0] + parts[1]) / 2
    return divergence


def _histograms(name: str, reference: Mapping[int, int], run: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of images of both by group."""
    bins = np.array(sorted({*reference, *run}))
    counts = [np.array([of.get(place, 0) for place in bins.tolist()]) for of in (reference, run)]
    groups = _classes(*counts) if name == "label" else _equal_shares(counts[0])
    num_groups = int(groups.max()) + 1
    of_reference, of_run = (np.bincount(groups, weights=of, minlength=num_groups) for of in counts)
    return of_reference, of_run


def _classes(reference: np.ndarray, run: np.ndarray) -> np.ndarray:
    """A group for each class that is not rare, and one for the rest."""
    is_rare = reference + run < _RARE
    groups: np.ndarray = np.where(is_rare, 0, np.cumsum(~is_rare))
    return groups


def _equal_shares(reference: np.ndarray) -> np.ndarray:
    """Groups of neighbouring bins with about equal shares of the reference; what it never has, at both ends, alone."""
    before = np.cumsum(reference) - reference
    groups: np.ndarray = 1 + np.minimum(before * _NUM_GROUPS // reference.sum(), _NUM_GROUPS - 1)
    there = np.flatnonzero(reference)
    groups[: there[0]], groups[there[-1] + 1 :] = 0, _NUM_GROUPS + 1
    return groups


def _unlike_shares(reference: Mapping[int, int], run: Mapping[int, int]) -> tuple[float, float]:
    if not reference or not run:
        return 0.0, 0.0
    allowed, above = _UNLIKE_SHARE * sum(reference.values()), 0
    for limit in sorted(reference, reverse=True):
        if above + reference[limit] > allowed:
            break
        above += reference[limit]
    share = sum(count for place, count in run.items() if place > limit) / sum(run.values())
    return share, above / sum(reference.values())

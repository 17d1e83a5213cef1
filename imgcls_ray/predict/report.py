"""What a job did, for its record, its summary and its exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageErrorCode, InputError, JobFailedError
from imgcls_ray.inputs.listing import ListingCounts
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.models.profile import Profile
from imgcls_ray.predict.verdict import judge, judge_with_gpus
from imgcls_ray.store.plan import PlanCounts
from imgcls_ray.store.schema import STATUS_OK

if TYPE_CHECKING:
    from imgcls_ray.inputs.sampling import Sample
    from imgcls_ray.predict.verdict import Verdict
    from imgcls_ray.store.drift import Drift
    from imgcls_ray.store.presence_changes import PresenceChanges
    from imgcls_ray.store.records import PlanRecord
    from imgcls_ray.store.values import ValueChanges


@dataclass
class RunReport:
    """What one run did, for the record and for people."""

    run: int
    num_images: int
    num_done_before: int
    """Images that an earlier command had labelled in the same run."""
    plan: PlanRecord
    """The record of the run's plan."""
    num_labelled: int = 0
    """Images that this command labelled."""
    is_finished: bool = False
    """Whether every image has its row; not so where a limit ended the work."""
    codes: Counter[str] = field(default_factory=Counter)
    """Images of the whole run per status."""
    seconds: float = 0.0
    """Labelling in this command, the start of the workers included."""
    images_per_s: float | None = None
    """Of the running workers: from the first unit that was done to the last; ``None`` where that is seconds."""
    stages: StageSeconds = field(default_factory=StageSeconds)
    """Of all cores of all workers together; for fetching and writing a worker has a single thread."""
    num_measured: int = 0
    """Images that ``stages`` counts: those whose parts this command wrote."""
    num_workers: int = 1
    """Those that took part: on a cluster some may have joined, or left, during the run."""
    cores_per_worker: int = 1
    """Which decode and classify side by side."""
    decodes_whole: bool = False
    """The model decodes large JPEGs whole, where another one would decode them at a fraction."""
    may_quantize: bool = False
    """The network could be exported to 8 bits, for which the processor of this machine has instructions."""
    num_gpus: int = 0
    """Workers with a GPU, for which the others then fetch and decode."""
    precisions: set[str] = field(default_factory=set)
    """Number formats that the rows of the whole run were computed in; none are known of parts of earlier versions."""
    profile: Profile = field(default_factory=Profile)
    """What the images of the whole run are like; without parts of earlier versions."""
    drift: Drift | None = None
    """How far they are from those of the model's evaluation; ``None`` if the store knows nothing of these."""

    @property
    def worker_seconds(self) -> StageSeconds:
        """The stages in the time of the workers: what the cores of one do side by side counts once."""
        cores = self.cores_per_worker
        return replace(self.stages, decode=self.stages.decode / cores, forward=self.stages.forward / cores)

    @property
    def verdict(self) -> Verdict | None:
        """What bounds the rate; ``None`` without a rate: most of a run that was too short for one is its start."""
        if self.images_per_s is None:
            return None
        if not self.num_gpus:
            return judge(self.worker_seconds)
        return judge_with_gpus(
            self.stages,
            num_images=self.num_measured,
            images_per_s=self.images_per_s,
            num_cpu_workers=self.num_workers,
            num_gpus=self.num_gpus,
        )

    def cost_per_million_images(self, price_per_hour: float | None) -> float | None:
        """Of what this command labelled, in the currency of the price; ``None`` without a price or images."""
        return _cost_per_million(self.num_labelled, self.seconds, price_per_hour)


@dataclass
class PredictReport:
    """What one ``imgcls predict`` did."""

    store: str
    plan: PlanCounts = field(default_factory=PlanCounts)
    listing: ListingCounts = field(default_factory=ListingCounts)
    presence: PresenceChanges | None = None
    """What the listing found changed; ``None`` if it is not asked."""
    values: ValueChanges | None = None
    """What lists tell of inputs otherwise than the store did."""
    sample: Sample | None = None
    """What of the listing is taken; ``None``: everything."""
    runs: list[RunReport] = field(default_factory=list)
    """Runs that this command worked on; the last one may be empty."""
    num_finished_before: int = 0
    """The first ones of them, which an earlier command had planned: their rows are answers to this one's listing."""
    num_left_open: int = 0
    """For a dry run: inputs of open runs that have no row."""
    input_error: InputError | None = None
    """Why nothing new was looked for: the runs that were open are finished all the same."""
    seconds: float = 0.0

    def cost_per_million_images(self, price_per_hour: float | None) -> float | None:
        """Of the whole command, listing included, in the currency of the price; ``None`` without a price or images."""
        return _cost_per_million(sum(run.num_labelled for run in self.runs), self.seconds, price_per_hour)

    def check_errors(self, max_error_rate: float, *, accept_missing: bool = False) -> None:
        """End the job as failed if every input failed, or more than the accepted share.

        Counted are all inputs of the listing, labelled now or before: one image that fails again and again does not
        fail every run after the first. The runs that an earlier command left open are counted by themselves, because
        their inputs need not be listed any more; without the rows that this command has already replaced. A command
        that found nothing to label has not failed, unless it only waits for failures to pass.

        Args:
            max_error_rate: the accepted share, 0 to 1.
            accept_missing: whether ``not_found`` in a run that was left open is what the user expects.

        Raises:
            JobFailedError: naming the codes.
        """
        left_open, planned = self.runs[: self.num_finished_before], self.runs[self.num_finished_before :]
        if not any(run.codes for run in self.runs) and not self.plan.waiting:
            return
        codes = _codes_of(left_open)
        numbers = {run.run for run in left_open}
        for (run, status), count in self.plan.replaced.items():
            if run in numbers:
                codes[status] -= count
        if accept_missing:
            del codes[ImageErrorCode.NOT_FOUND.value]
        _check_codes(+codes, max_error_rate, of=" of what an earlier command left open")
        _check_codes(_codes_of(planned) + self.plan.answered_codes, max_error_rate)


def _cost_per_million(num_images: int, seconds: float, price_per_hour: float | None) -> float | None:
    return price_per_hour * seconds / 3600 / num_images * 1e6 if price_per_hour and num_images else None


def _codes_of(runs: list[RunReport]) -> Counter[str]:
    return sum((run.codes for run in runs), Counter())


def _check_codes(codes: Counter[str], max_error_rate: float, *, of: str = "") -> None:
    total, num_errors = codes.total(), codes.total() - codes[STATUS_OK]
    if not num_errors:
        return
    named = ", ".join(f"{code} {count:,}" for code, count in codes.most_common() if code != STATUS_OK)
    if num_errors == total:
        raise JobFailedError(f"all inputs{of} failed ({total:,}): {named}")
    if num_errors / total > max_error_rate:
        raise JobFailedError(
            f"{num_errors:,} of {total:,} inputs{of} failed ({num_errors / total:.1%}, accepted are "
            f"{max_error_rate:.1%}): {named}"
        )

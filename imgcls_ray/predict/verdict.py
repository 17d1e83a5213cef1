"""Which stage bounds the rate of a run, and what would change it, from the seconds that were measured.

Amdahl's law (1967): a change makes a run faster only by the share of the time that it touches. A worker computes one
unit while it writes the one before, so writing costs time only where it takes longer than all other stages together.
The figures are bounds: a change may bring less, because something else then binds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imgcls_ray.words import counted

if TYPE_CHECKING:
    from imgcls_ray.json_files import Json
    from imgcls_ray.models.classifier import StageSeconds

Stage = Literal["fetch", "decode", "network", "write"]
Bound = Stage | Literal["mixed"]
Change = Literal["twice_the_cores", "twice_the_gpus", "no_fetch", "no_decode", "no_network", "no_write"]

# A stage with a smaller share of the time does not bind alone.
_BINDS_FROM = 0.5
# Workers that are busy for this share of the time have no room for more.
_FULL_FROM = 0.9


@dataclass(frozen=True)
class Verdict:
    """What bounds a run, and what a change could bring."""

    bound: Bound
    shares: dict[Stage, float]
    """Of each stage in the time of the workers that do it, 0 to 1; of writing what is not hidden behind the others."""
    speedups: dict[Change, float]
    """Factor of the rate after a change, at least 1."""
    gpu_busy: float | None = None
    """Share of the time in which the GPUs computed, 0 to 1; ``None`` on CPUs."""
    cpu_busy: float | None = None
    """Likewise of the workers on CPUs that fetch and decode for the GPUs."""
    num_gpus: int = 0
    num_cpu_workers: int = 0
    """Those for the GPUs."""
    cores_to_fill_gpus: int | None = None
    """CPU workers that would keep the GPUs busy; ``None`` on CPUs."""

    def to_record(self) -> dict[str, Json]:
        """For JSON, rounded to what a measurement is worth."""
        record: dict[str, Json] = {
            "bound": self.bound,
            "shares": {stage: round(share, 3) for stage, share in self.shares.items()},
            "speedups": {change: round(factor, 2) for change, factor in self.speedups.items()},
        }
        if self.gpu_busy is not None and self.cpu_busy is not None:
            record |= {
                "gpu_busy": round(self.gpu_busy, 3),
                "cpu_busy": round(self.cpu_busy, 3),
                "cores_to_fill_gpus": self.cores_to_fill_gpus,
            }
        return record

    def words(self, *, decodes_whole: bool = False, may_quantize: bool = False) -> str:
        """For people, in one line.

        Args:
            decodes_whole: the model decodes large JPEGs whole, and another one would not.
            may_quantize: the network is not in 8 bits, and this machine's processor would run it faster if it were.
        """
        if self.gpu_busy is not None:
            words, may_quantize = self._with_gpus(), False
        else:
            words = self._on_cpus()
        if self.bound == "decode" and decodes_whole:
            words += "; a model made with --decode scaled decodes large JPEGs at a fraction of their size"
        if self.bound == "network" and may_quantize:
            words += "; `imgcls export --int8` makes most networks faster on a processor like this one, and measures it"
        return words

    def _on_cpus(self) -> str:
        cores = f"with twice the cores about {self.speedups['twice_the_cores']:.1f} times as fast"
        shares = {stage: f"{share:.0%}" for stage, share in self.shares.items()}
        if self.bound == "decode":
            return f"decode-bound: {shares['decode']} of the workers' time; {cores}"
        if self.bound == "network":
            return (
                f"network-bound: {shares['network']} of the workers' time; {cores}; the run would take "
                f"{1 / self.speedups['no_network']:.2f} of the time if the network took none: a GPU or a smaller model "
                "would help"
            )
        if self.bound == "fetch":
            return (
                f"fetch-bound: the workers waited {shares['fetch']} of their time for bytes; the run would take "
                f"{1 / self.speedups['no_fetch']:.2f} of the time if the storage of the images never made them wait"
            )
        if self.bound == "write":
            return (
                f"write-bound: {shares['write']} of the workers' time was only writing; the run would take "
                f"{1 / self.speedups['no_write']:.2f} of the time if the label store took no time"
            )
        first, second = sorted(self.shares, key=self.shares.__getitem__, reverse=True)[:2]
        return (
            f"no stage binds alone: {first} {shares[first]} and {second} {shares[second]} of the workers' time; {cores}"
        )

    def _with_gpus(self) -> str:
        assert self.gpu_busy is not None
        assert self.cores_to_fill_gpus is not None
        is_one = self.num_gpus == 1
        busy = f"the GPU was busy {self.gpu_busy:.0%}" if is_one else f"the GPUs were busy {self.gpu_busy:.0%}"
        busy += " of the time"
        if self.bound == "network":
            return (
                f"network-bound: {busy}; with twice the GPUs about {self.speedups['twice_the_gpus']:.1f} times as fast"
            )
        if self.bound == "mixed":
            return f"no stage binds alone: {busy}, the workers on CPUs {self.cpu_busy:.0%}"
        num_more = max(1, self.cores_to_fill_gpus - self.num_cpu_workers)
        fill = f"{counted(num_more, 'more core')} would fill {'it' if is_one else 'them'}"
        faster = f"about {1 / self.gpu_busy:.1f} times as fast"
        if self.bound == "decode":
            return f"decode-bound: {busy}; {fill}: {faster}"
        return (
            f"fetch-bound: the workers on CPUs waited {self.shares['fetch']:.0%} of their time for bytes, {busy}; "
            f"{fill} if the storage of the images keeps up: {faster}"
        )


def judge(stages: StageSeconds) -> Verdict | None:
    """Judge a run on CPUs, whose workers fetch, decode and classify one after the other.

    Args:
        stages: of all workers together, seconds of their time: what several cores of one do side by side counts once.

    Returns:
        ``None`` if nothing was measured.
    """
    serial = stages.fetch + stages.decode + stages.forward
    total = max(serial, stages.write)
    if total <= 0:
        return None

    def speedup(serial_then: float, write_then: float = stages.write) -> float:
        return total / max(serial_then, write_then, 1e-3 * total)

    shares: dict[Stage, float] = {
        "fetch": stages.fetch / total,
        "decode": stages.decode / total,
        "network": stages.forward / total,
        "write": (total - serial) / total,
    }
    largest = max(shares, key=shares.__getitem__)
    return Verdict(
        largest if shares[largest] >= _BINDS_FROM else "mixed",
        shares,
        {
            "twice_the_cores": speedup(stages.fetch + (stages.decode + stages.forward) / 2),
            "no_fetch": speedup(serial - stages.fetch),
            "no_decode": speedup(serial - stages.decode),
            "no_network": speedup(serial - stages.forward),
            "no_write": speedup(serial, 0.0),
        },
    )


def judge_with_gpus(
    stages: StageSeconds, *, num_images: int, images_per_s: float, num_cpu_workers: int, num_gpus: int
) -> Verdict | None:
    """Judge a run whose workers on CPUs fetch and decode while GPUs classify.

    Args:
        stages: of all workers together, seconds.
        num_images: for which these were measured.
        images_per_s: rate of the running workers.
        num_cpu_workers: fetch and decode.
        num_gpus: run the network.

    Returns:
        ``None`` if nothing was measured.
    """
    cpu_s, gpu_s = stages.fetch + stages.decode, stages.forward
    if min(cpu_s, gpu_s, num_images, images_per_s) <= 0:
        return None
    gpu_busy = min(1.0, gpu_s / num_images * images_per_s / num_gpus)
    cpu_busy = min(1.0, cpu_s / num_images * images_per_s / num_cpu_workers)
    shares: dict[Stage, float] = {"fetch": stages.fetch / cpu_s, "decode": stages.decode / cpu_s, "network": gpu_busy}
    bound: Bound
    if gpu_busy >= _FULL_FROM:
        bound = "network"
    elif cpu_busy < _FULL_FROM:
        bound = "mixed"
    else:
        bound = "fetch" if shares["fetch"] >= _BINDS_FROM else "decode"
    return Verdict(
        bound,
        shares,
        {"twice_the_cores": min(2.0, 1 / gpu_busy), "twice_the_gpus": min(2.0, 1 / cpu_busy)},
        gpu_busy=gpu_busy,
        cpu_busy=cpu_busy,
        num_gpus=num_gpus,
        num_cpu_workers=num_cpu_workers,
        # The rate of full GPUs is that of now, divided by the share of the time in which they were busy.
        cores_to_fill_gpus=math.ceil(cpu_s / num_images * images_per_s / gpu_busy - 1e-6),
    )

"""Where the workers of a job run."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from imgcls_ray.config.base import StrictModel


class RunsBlocks(StrictModel):
    """The key ``on``, of every job that hands its images to workers in blocks."""

    help_sections: ClassVar = {"on": "Workers"}

    on: Literal["auto", "local", "ray"] = "auto"
    """Place of the workers. ``local``: processes of this machine; ``ray``: Ray, on a cluster or on this machine;
    ``auto``: Ray if a cluster is given (``RAY_ADDRESS``, a submitted job) or GPUs are used, else this machine."""

    @property
    def uses_gpus(self) -> bool:
        return False

    @property
    def worker_limits(self) -> tuple[int | None, int | None]:
        """Smallest and largest number of workers, where the job does not fix it."""
        return None, None

    @model_validator(mode="after")
    def _gpus_need_ray(self) -> Self:
        if self.on == "local" and self.uses_gpus:
            raise ValueError("on=local runs on CPUs; for GPUs give on=ray, or leave it out")
        return self

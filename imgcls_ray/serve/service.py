"""What every protocol asks: label these images, with the model whose turn it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.serve.errors import ErrorCode, no_room, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.config import ServeConfig
    from imgcls_ray.models.classifier import ModelInput, Prediction
    from imgcls_ray.serve.fleet import Chosen, Fleet
    from imgcls_ray.serve.inputs import UrlReader
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.pipeline import Job, Pipeline


@dataclass
class Service:
    """One replica's models and threads."""

    config: ServeConfig
    fleet: Fleet
    pipeline: Pipeline
    urls: UrlReader
    metrics: Metrics

    def __post_init__(self) -> None:
        self._comparisons: set[asyncio.Task[None]] = set()

    def choose(self) -> Chosen:
        """The model for one request.

        Raises:
            ApiError: there is none yet.
        """
        chosen = self.fleet.choose()
        if chosen is None:
            raise refuse(ErrorCode.NOT_READY, "the model is not loaded yet")
        return chosen

    def check_room(self, num_images: int) -> None:
        """Refuse what there is no room for.

        Raises:
            ApiError: too many images in the request, or in the replica.
        """
        if num_images > self.config.max_images_per_request:
            raise refuse(ErrorCode.TOO_MANY_IMAGES, f"at most {self.config.max_images_per_request} images a request")
        if self.pipeline.num_images + num_images > self.config.max_queued_images:
            raise no_room()

    async def classify(
        self, images: Sequence[bytes | ModelInput | ImageError], chosen: Chosen, top_k: int
    ) -> list[Prediction | ImageError]:
        """Label images, in order, one result each; an error in is the same error out.

        Raises:
            ApiError: there is no room for so many.
        """
        self.check_room(len(images))
        jobs = [
            None if isinstance(image, ImageError) else self.pipeline.submit(image, chosen.model, top_k)
            for image in images
        ]
        try:
            await self._wait([job for job in jobs if job is not None])
        except BaseException:  # the caller went away, or the deadline passed: nobody waits for what is left
            for job in jobs:
                if job is not None:
                    job.future.cancel()
            raise
        results = [
            image if job is None and isinstance(image, ImageError) else _result(job)
            for image, job in zip(images, jobs, strict=True)
        ]
        for result in results:
            status, label = _status(result, chosen)
            self.metrics.image(chosen.model, chosen.role, status, label)
        self._compare([job for job in jobs if job is not None])
        return results

    async def _wait(self, jobs: Sequence[Job]) -> None:
        """Until all have an answer; what is not decoded by its deadline gets none."""
        if not jobs:
            return
        timer = asyncio.get_running_loop().call_later(self.config.decode_timeout_s, _give_up_decoding, jobs)
        try:
            await asyncio.wait([job.future for job in jobs])
        finally:
            timer.cancel()

    def _compare(self, jobs: Sequence[Job]) -> None:
        """Let the shadow model label the same images, after their caller has his answer."""
        model = self.fleet.choose_shadow()
        if model is None:
            return
        for job in jobs:
            result = job.future.result()
            if isinstance(result, ImageError):
                continue
            shadow = self.pipeline.submit_shadow(job, model)
            if shadow is None:
                self.metrics.compared(model, agrees=None)
                continue
            name = job.model.class_names[int(result.class_ids[0])]
            task = asyncio.create_task(self._count(shadow, name))
            self._comparisons.add(task)
            task.add_done_callback(self._comparisons.discard)

    async def _count(self, shadow: Job, name: str) -> None:
        try:
            result = await shadow.future
            agrees = not isinstance(result, ImageError) and shadow.model.class_names[int(result.class_ids[0])] == name
        except Exception:  # of the engine; the pipeline has logged it
            agrees = False
        self.metrics.compared(shadow.model, agrees=agrees)


def _give_up_decoding(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.image is None and not job.future.done():
            job.future.set_result(ImageError(ImageErrorCode.DECODE_TIMEOUT))


def _result(job: Job | None) -> Prediction | ImageError:
    assert job is not None
    return job.future.result()


def _status(result: Prediction | ImageError, chosen: Chosen) -> tuple[str, str]:
    if isinstance(result, ImageError):
        return result.code.value, ""
    return "ok", chosen.model.class_names[int(result.class_ids[0])]

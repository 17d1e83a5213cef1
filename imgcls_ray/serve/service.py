"""What every protocol asks: label these images, with the model whose turn it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError
from imgcls_ray.serve.errors import ApiError, ErrorCode, no_room, refuse

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
    """One replica's models, threads and decoder processes."""

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
        if self.pipeline.num_ordinary + num_images > self.config.max_queued_images:
            raise no_room()

    async def classify(
        self, images: Sequence[bytes | ModelInput | ImageError], chosen: Chosen, top_k: int
    ) -> list[Prediction | ImageError]:
        """Label images, in order, one result each; an error in is the same error out.

        Raises:
            ApiError: there is no room for so many, or one would wait too long for its turn.
        """
        self.check_room(len(images))
        request = object()
        jobs = [
            None if isinstance(image, ImageError) else self.pipeline.submit(image, chosen.model, top_k, request)
            for image in images
        ]
        try:
            await _wait([job for job in jobs if job is not None])
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

    async def draw(self, image: bytes, lines: Sequence[str]) -> str | ImageError:
        """An image with its labels below it: base64 of a JPEG.

        Raises:
            ApiError: there is no room for it.
        """
        return await self.pipeline.submit_drawing(image, lines)

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
            name = job.model.names_apart[int(result.class_ids[0])]
            task = asyncio.create_task(self._count(shadow, name))
            self._comparisons.add(task)
            task.add_done_callback(self._comparisons.discard)

    async def _count(self, shadow: Job, name: str) -> None:
        agrees: bool | None
        try:
            result = await shadow.future
            agrees = not isinstance(result, ImageError) and shadow.model.names_apart[int(result.class_ids[0])] == name
        except ApiError:  # there was no time for it
            agrees = None
        except Exception:  # of the engine; the pipeline has logged it
            agrees = False
        self.metrics.compared(shadow.model, agrees=agrees)


async def _wait(jobs: Sequence[Job]) -> None:
    """Until all have an answer, or one of them ends the request: there was no room for it, or the engine failed."""
    if not jobs:
        return
    done, waiting = await asyncio.wait([job.future for job in jobs], return_when=asyncio.FIRST_EXCEPTION)
    if waiting:
        for future in done:
            future.result()


def _result(job: Job | None) -> Prediction | ImageError:
    assert job is not None
    result: Prediction | ImageError = job.future.result()
    return result


def _status(result: Prediction | ImageError, chosen: Chosen) -> tuple[str, str]:
    if isinstance(result, ImageError):
        return result.code.value, ""
    # By this name answers are counted: two classes of one name are two.
    return "ok", chosen.model.names_apart[int(result.class_ids[0])]

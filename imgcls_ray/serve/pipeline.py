"""From bytes to labels for many requests at once: decoding in threads, then batches of whatever waits.

One image cannot harm another. It is decoded before it comes near a batch, so a bad one fails alone and its error
travels as a value; pictures that will take long have a thread of their own, so that they never stand before the others;
what its caller no longer waits for is skipped at every step.

An engine that is free takes what waits, at most a batch: a lone image is never held back for company, and batches grow
by themselves when there is more to do. (Ray Serve's ``@serve.batch`` waits for a full batch or a timeout, and its queue
knows neither bounds nor callers that have gone.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.cost import HEAVY_COST, decode_cost
from imgcls_ray.models.classifier import decode_model_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.models.classifier import ModelInput, Prediction
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.model import ServedModel

logger = logging.getLogger("imgcls_ray.serve")

_NICENESS = 5


class Job:
    """One image on its way."""

    __slots__ = ("data", "future", "image", "is_shadow", "model", "top_k")

    def __init__(
        self,
        content: bytes | ModelInput,
        model: ServedModel,
        top_k: int,
        future: asyncio.Future[Prediction | ImageError],
    ) -> None:
        self.data: bytes | None = None
        self.image: ModelInput | None = None
        """Once it is decoded."""
        if isinstance(content, bytes):
            self.data = content
        else:
            self.image = content
        self.model = model
        self.top_k = top_k
        self.future = future
        self.is_shadow = False


class Pipeline:
    """The threads of one replica. Made in the event loop that submits to it."""

    def __init__(
        self, *, num_cores: int, num_engines: int, max_batch_size: int, limits: DecodeLimits, metrics: Metrics
    ) -> None:
        self.num_engines = num_engines
        self._max_batch_size = max_batch_size
        self.limits = limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._light: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._heavy: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ready: deque[Job] = deque()
        self._shadows: deque[Job] = deque()
        self._condition = threading.Condition()
        self._is_open = True
        self._decoding_since: dict[int, float] = {}
        self.num_images = 0
        """Submitted and not answered."""
        self.num_shadows = 0
        lanes = [self._light] * num_cores + [self._heavy]
        self._threads = [
            threading.Thread(target=self._decode, args=(lane,), name=f"decode-{i}", daemon=True)
            for i, lane in enumerate(lanes)
        ]
        self._threads += [
            threading.Thread(target=self._classify, args=(i,), name=f"engine-{i}", daemon=True)
            for i in range(num_engines)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, content: bytes | ModelInput, model: ServedModel, top_k: int) -> Job:
        """Take in one image, encoded or decoded; its future gets the prediction or the error, and may be cancelled."""
        future: asyncio.Future[Prediction | ImageError] = self._loop.create_future()
        future.add_done_callback(self._leave)
        self.num_images += 1
        job = Job(content, model, top_k, future)
        if job.data is None:
            self._enqueue(job)
        else:
            self._light.put(job)
        return job

    def submit_shadow(self, original: Job, model: ServedModel) -> Job | None:
        """Let another model label the same image when there is nothing else to do; None where too many wait already."""
        is_like = original.image is not None and original.model.preprocess == model.preprocess
        content = original.image if is_like else original.data
        if content is None or self.num_shadows >= self._max_batch_size * 2:
            return None
        job = Job(content, model, 1, self._loop.create_future())
        job.is_shadow = True
        self.num_shadows += 1
        job.future.add_done_callback(self._leave_shadow)
        if job.data is None:
            self._enqueue(job)
        else:
            self._heavy.put(job)
        return job

    def seconds_stuck(self) -> float:
        """How long the image that is being decoded for longest has taken until now; 0 if there is none."""
        started = list(self._decoding_since.values())
        return time.monotonic() - min(started) if started else 0.0

    def close(self) -> None:
        """End the threads; what waits is not answered."""
        self._is_open = False
        for thread in self._threads:
            if thread.name.startswith("decode"):
                self._light.put(None)
        self._heavy.put(None)
        with self._condition:
            self._condition.notify_all()

    def _leave(self, _future: object) -> None:
        self.num_images -= 1

    def _leave_shadow(self, _future: object) -> None:
        self.num_shadows -= 1

    def _decode(self, lane: queue.SimpleQueue[Job | None]) -> None:
        _give_way()
        number = threading.get_ident()
        while (job := lane.get()) is not None and self._is_open:
            data = job.data
            if job.future.done() or data is None:
                continue
            if lane is self._light and decode_cost(data) > HEAVY_COST:
                self._heavy.put(job)
                continue
            start = self._decoding_since[number] = time.monotonic()
            try:
                image = decode_model_input(data, job.model.preprocess, self.limits)
            except BaseException:  # of which nobody thought: this image, and not the thread that others need
                logger.exception("decoding failed")
                image = ImageError(ImageErrorCode.DECODER_CRASHED)
            finally:
                del self._decoding_since[number]
            self._metrics.decoded(time.monotonic() - start)
            if isinstance(image, ImageError):
                self._answer([(job, image)])
                continue
            job.image = image
            self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        with self._condition:
            (self._shadows if job.is_shadow else self._ready).append(job)
            self._condition.notify()

    def _classify(self, number: int) -> None:
        _give_way()
        while self._is_open:
            with self._condition:
                while self._is_open and not (self._ready or self._shadows):
                    self._condition.wait()
                batch = self._take(self._ready) or self._take(self._shadows)
            if batch:
                self._run(batch, number)

    def _take(self, waiting: deque[Job]) -> list[Job]:
        """What the next forward pass labels: the first that waits, and others of its model."""
        batch: list[Job] = []
        others: list[Job] = []
        while waiting and len(batch) < self._max_batch_size:
            job = waiting.popleft()
            if job.future.done():
                continue
            if batch and job.model is not batch[0].model:
                others.append(job)
            else:
                batch.append(job)
        waiting.extendleft(reversed(others))
        return batch

    def _run(self, batch: list[Job], number: int) -> None:
        model = batch[0].model
        start = time.monotonic()
        try:
            results = model.classify(
                [job.image for job in batch if job.image is not None], number, top_k=max(job.top_k for job in batch)
            )
            answers = list(zip(batch, results, strict=True))
        except Exception as error:
            logger.exception("the engine failed on a batch of %d images", len(batch))
            self._loop.call_soon_threadsafe(_fail, batch, error)
            return
        self._metrics.classified(model, len(batch), time.monotonic() - start, is_shadow=batch[0].is_shadow)
        self._answer(answers)

    def _answer(self, results: Sequence[tuple[Job, Prediction | ImageError]]) -> None:
        try:
            # One call for a batch: waking the event loop costs more than what it then does.
            self._loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:
            if self._is_open:  # otherwise the loop has ended, and nobody waits
                raise


def _give_way() -> None:
    """Let the event loop go before this thread: in overload it must still say so to those there is no room for."""
    with suppress(OSError, AttributeError):  # where threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _resolve(results: Sequence[tuple[Job, Prediction | ImageError]]) -> None:
    for job, result in results:
        if not job.future.done():
            job.future.set_result(result)


def _fail(batch: Sequence[Job], error: Exception) -> None:
    for job in batch:
        if not job.future.done():
            job.future.set_exception(error)
            # It is logged; asyncio would log it again for those of a request that nobody asks after the first.
            job.future.exception()

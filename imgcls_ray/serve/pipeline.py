"""From bytes to labels for many requests at once: decoding, then batches of whatever waits.

One image cannot harm another. It is decoded before it comes near a batch, so a bad one fails alone and its error
travels as a value. Ordinary images are decoded in threads; everything else in decoder processes (``serve/pool.py``),
because a decoder in a thread can hold the interpreter and cannot be ended. What its caller no longer waits for is
skipped at every step.

An engine that is free takes what waits, at most a batch: a lone image is never held back for company, and batches grow
by themselves when there is more to do. (Ray Serve's ``@serve.batch`` waits for a full batch or a timeout, and its queue
knows neither bounds nor callers that have gone.)
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.cost import decode_cost
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.serve.decoders import Decoding, Drawing
from imgcls_ray.serve.errors import ApiError, no_room
from imgcls_ray.serve.lanes import Work
from imgcls_ray.serve.pool import DecoderPool
from imgcls_ray.serve.priority import give_way
from imgcls_ray.workers.decoding import late

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.model import ServedModel

logger = logging.getLogger(__name__)

_LONGEST_WATCH_S = 0.25


class Job(Work):
    """One image on its way to a label."""

    def __init__(
        self,
        content: bytes | ModelInput,
        model: ServedModel,
        top_k: int,
        future: asyncio.Future[Prediction | ImageError],
        request: object = None,
    ) -> None:
        data = content if isinstance(content, bytes) else None
        super().__init__(data, Decoding(model.preprocess), future, request if request is not None else self)
        self.image = None if isinstance(content, bytes) else content
        """Once it is decoded."""
        self.model = model
        self.top_k = top_k


class Pipeline:
    """The threads and decoder processes of one replica. Made in the event loop that submits to it."""

    def __init__(
        self,
        *,
        num_cores: int,
        num_engines: int,
        max_batch_size: int,
        max_queued_images: int,
        max_queued_bytes: int,
        limits: DecodeLimits,
        metrics: Metrics,
    ) -> None:
        self.num_engines = num_engines
        self._max_batch_size = max_batch_size
        self.limits = limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._encoded: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._ready: deque[Job] = deque()
        self._shadows: deque[Job] = deque()
        self._condition = threading.Condition()
        self._is_open = True
        self.num_images = 0
        """Submitted and not answered."""
        self.num_done = 0
        """Answered or given up, ever."""
        self.num_shadows = 0
        # A lane of the pool holds as many images as the threads' queue: neither kind takes the other's room. Half of
        # the bytes stay for ordinary images, and each lane has a quarter.
        self.pool = DecoderPool(
            num_processes=num_cores,
            limits=limits,
            max_images=max_queued_images,
            max_bytes=max_queued_bytes // 2,
            finish=self._finish,
        )
        self._max_stuck = num_cores
        self._stuck: set[_Decoder] = set()
        self._decoders: set[_Decoder] = set()
        self._decoder_lock = threading.Lock()
        for _ in range(num_cores):
            self._add_decoder()
        for i in range(num_engines):
            threading.Thread(target=self._classify, args=(i,), name=f"engine-{i}", daemon=True).start()
        self._watch()

    @property
    def num_ordinary(self) -> int:
        """Of ``num_images``, those that are not in the pool: what ``max_queued_images`` bounds."""
        return self.num_images - self.pool.num_images

    @property
    def num_stuck(self) -> int:
        """Decode threads that do not come back from an image; each has another in its place."""
        return len(self._stuck)

    def submit(self, content: bytes | ModelInput, model: ServedModel, top_k: int, request: object = None) -> Job:
        """Take in one image, encoded or decoded; its future gets the prediction or the error, and may be cancelled.

        The future fails with an ``ApiError`` where there is no room in the pool. ``request`` is the same object for
        the images of one request.
        """
        job = Job(content, model, top_k, self._loop.create_future(), request)
        self._take_in(job)
        if job.data is None:
            self._enqueue(job)
        else:
            self._encoded.put(job)
        return job

    def submit_drawing(self, data: bytes, lines: Sequence[str]) -> asyncio.Future[str | ImageError]:
        """Draw an image with its labels: base64 of a JPEG. The future is as that of ``submit``."""
        future: asyncio.Future[str | ImageError] = self._loop.create_future()
        work = Work(data, Drawing(tuple(lines)), future, future)
        self._take_in(work)
        self._encoded.put(work)
        return future

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
            self.pool.put(job, is_heavy=True)
        return job

    def close(self) -> None:
        """End the threads and processes; what waits is not answered."""
        self._is_open = False
        for _ in range(len(self._decoders)):
            self._encoded.put(None)
        with self._condition:
            self._condition.notify_all()
        self.pool.close()

    def _take_in(self, work: Work) -> None:
        self.num_images += 1

        def leave(_future: object) -> None:
            self.num_images -= 1
            self.num_done += 1
            self.pool.give_up(work)

        work.future.add_done_callback(leave)

    def _leave_shadow(self, _future: object) -> None:
        self.num_shadows -= 1

    def _add_decoder(self) -> None:
        decoder = _Decoder()
        self._decoders.add(decoder)
        threading.Thread(target=self._decode, args=(decoder,), name="decode", daemon=True).start()

    def _watch(self) -> None:
        """Give up images that a thread does not come back from, and let another thread take its place.

        A thread cannot be ended. It goes when it comes back, if ever; until then it costs a core's share and an
        ordinary image's memory. With ``_max_stuck`` of them no image is decoded in threads any more.
        """
        if not self._is_open:
            return
        started_before = time.monotonic() - self.limits.timeout_s
        with self._decoder_lock:
            stuck = [decoder for decoder in self._decoders if decoder.work and decoder.started < started_before]
            for decoder in stuck:
                self._decoders.discard(decoder)
                self._stuck.add(decoder)
        for decoder in stuck:
            logger.error("a thread does not come back from an image; another one takes its place")
            self._add_decoder()
            if decoder.work is not None:
                _resolve([(decoder.work, late(self.limits))])
        self._loop.call_later(min(_LONGEST_WATCH_S, self.limits.timeout_s / 8), self._watch)

    def _decode(self, decoder: _Decoder) -> None:
        give_way()
        while (work := self._encoded.get()) is not None and self._is_open:
            if work.future.done():
                continue
            decoder.started = time.monotonic()
            decoder.work = work
            try:
                result = self._decode_here_or_pass_on(work)
            except BaseException:  # of which nobody thought: this image, and not the thread that others need
                logger.exception("decoding failed")
                result = ImageError(ImageErrorCode.DECODER_CRASHED)
            with self._decoder_lock:
                decoder.work = None
                is_replaced = decoder in self._stuck
                self._stuck.discard(decoder)
            if result is not None:
                self._finish(work, result, time.monotonic() - decoder.started)
            if is_replaced:
                return

    def _decode_here_or_pass_on(self, work: Work) -> ModelInput | str | ImageError | None:
        """None where a decoder process does it, or there is no room for that."""
        assert work.data is not None
        cost = decode_cost(work.data)
        if cost.is_ordinary and len(self._stuck) < self._max_stuck:
            return work.task(work.data, self.limits)
        if not self.pool.put(work, is_heavy=cost.is_heavy):
            self._tell(_fail, [work], no_room())
        return None

    def _finish(self, work: Work, result: Any, seconds: float) -> None:
        self._metrics.decoded(seconds)
        if isinstance(work, Job) and isinstance(result, ModelInput):
            work.image = result
            self._enqueue(work)
        elif isinstance(result, ApiError):
            self._tell(_fail, [work], result)
        else:
            self._tell(_resolve, [(work, result)])

    def _enqueue(self, job: Job) -> None:
        with self._condition:
            (self._shadows if job.is_shadow else self._ready).append(job)
            self._condition.notify()

    def _classify(self, number: int) -> None:
        give_way()
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
            self._tell(_fail, batch, error)
            return
        self._metrics.classified(model, len(batch), time.monotonic() - start, is_shadow=batch[0].is_shadow)
        self._tell(_resolve, answers)

    def _tell(self, tell: Callable[..., None], *about: object) -> None:
        """Answer in the event loop."""
        try:
            # One call for a batch: waking the event loop costs more than what it then does.
            self._loop.call_soon_threadsafe(tell, *about)
        except RuntimeError:
            if self._is_open:  # otherwise the loop has ended, and nobody waits
                raise


class _Decoder:
    """What one decode thread is at."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.started = 0.0


def _resolve(results: Sequence[tuple[Work, Any]]) -> None:
    for work, result in results:
        if not work.future.done():
            work.future.set_result(result)


def _fail(works: Sequence[Work], error: Exception) -> None:
    for work in works:
        if not work.future.done():
            work.future.set_exception(error)
            # It is logged; asyncio would log it again for those of a request that nobody asks after the first.
            work.future.exception()

"""One network on several cores of one process: as many batches at once, each on a core of its own.

The weights are in memory once. Each batch is what a process of one core would run, with the same shape and on one
thread, so its numbers are the same, too.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import StageSeconds, decode_model_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from imgcls_ray.images.crops import Crop
    from imgcls_ray.models.classifier import ImageClassifier, ModelInput, Prediction

D = TypeVar("D")
T = TypeVar("T")
R = TypeVar("R")

_IMAGES_PER_GROUP = 8
"""Decoded by one thread in one go: enough to make handing over cheap, few enough to keep all cores at work."""


class ParallelClassifier:
    """Classifies as ``ImageClassifier`` does, on several cores. One thread calls it.

    Args:
        classifier: loaded with ``num_streams`` of at least ``num_cores``.
        num_cores: batches at once.
    """

    def __init__(self, classifier: ImageClassifier, num_cores: int) -> None:
        self.executor = ThreadPoolExecutor(num_cores, thread_name_prefix="core")
        """Everything that needs a core runs here, decoding too: so there is never more of it than cores."""
        self.num_cores = num_cores
        self.precision = classifier.precision
        self._batch_size = classifier.batch_size
        self._free: SimpleQueue[ImageClassifier] = SimpleQueue()
        for one in (classifier, *(classifier.beside() for _ in range(num_cores - 1))):
            self._free.put(one)

    def classify_inputs(
        self, inputs: Iterable[ModelInput | ImageError], seconds: StageSeconds
    ) -> Iterator[Prediction | ImageError]:
        """As ``ImageClassifier.classify_inputs``; the seconds are those of all cores together."""
        # One batch more than cores waits, so that a core that is done has its next one.
        for results, own in ahead_in_order(self.executor, self._classify, self._batches(inputs), self.num_cores + 1):
            seconds.forward += own.forward
            yield from results

    def decode_inputs(
        self,
        encoded: Iterable[bytes | Crop | ImageError],
        decode: Callable[[Any], D | ImageError],
        seconds: StageSeconds,
    ) -> Iterator[D | ImageError]:
        """As ``decode_model_inputs``, in several threads at once."""

        def decode_group(group: list[bytes | Crop | ImageError]) -> tuple[list[D | ImageError], StageSeconds]:
            own = StageSeconds()
            return list(decode_model_inputs(group, decode, own)), own

        num_ahead = self.num_cores + self._batch_size // _IMAGES_PER_GROUP
        for results, own in ahead_in_order(self.executor, decode_group, _groups(encoded), num_ahead):
            seconds.decode += own.decode
            yield from results

    def _batches(self, inputs: Iterable[ModelInput | ImageError]) -> Iterator[list[ModelInput | ImageError]]:
        """Cut where ``ImageClassifier`` does: only good images take a place in a batch."""
        batch: list[ModelInput | ImageError] = []
        num_good = 0
        for item in inputs:
            batch.append(item)
            num_good += not isinstance(item, ImageError)
            if num_good == self._batch_size:
                yield batch
                batch, num_good = [], 0
        if batch:
            yield batch

    def _classify(self, batch: list[ModelInput | ImageError]) -> tuple[list[Prediction | ImageError], StageSeconds]:
        own = StageSeconds()
        classifier = self._free.get()
        try:
            return list(classifier.classify_inputs(batch, own)), own
        finally:
            self._free.put(classifier)


def ahead_in_order(
    executor: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], num_ahead: int
) -> Iterator[R]:
    """Call a function for each item in other threads; results come in order, at most ``num_ahead`` are begun."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(executor.submit(function, item))
        if len(begun) == num_ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _groups(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, _IMAGES_PER_GROUP)):
        yield group

"""One network on several cores: the answers of one core, in order, and no more read ahead than is needed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.models.classifier import ImageClassifier, Prediction, StageSeconds, decode_model_input
from imgcls_ray.models.parallel import ParallelClassifier, ahead_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.engines.engine import EngineName
    from imgcls_ray.models.folder import ModelFolder

BATCH_SIZE = 4


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("num_cores", [2, 3])
def test_several_cores_give_the_numbers_of_one_bit_for_bit(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, engine: EngineName, num_cores: int
) -> None:
    encoded: list[bytes | ImageError] = [path.read_bytes() for path in draw_images(31)]
    encoded[5] = b"no image"
    encoded[17] = ImageError(ImageErrorCode.NOT_FOUND)

    def load(num_streams: int) -> ImageClassifier:
        return ImageClassifier.load(
            small_model, engine=engine, batch_size=BATCH_SIZE, num_threads=1, num_streams=num_streams, logits=True
        )

    alone = load(1)
    expected = list(alone.classify_encoded(encoded))
    parallel, seconds = ParallelClassifier(load(num_cores), num_cores), StageSeconds()

    def decode(data: bytes) -> ModelInput | ImageError:
        return decode_model_input(data, small_model.spec.preprocess, alone.limits)

    for _ in range(3):
        inputs = parallel.decode_inputs(iter(encoded), decode, seconds)
        found = list(parallel.classify_inputs(inputs, seconds))
        assert [_told(result) for result in found] == [_told(result) for result in expected]
    assert min(seconds.decode, seconds.forward) > 0


def _told(result: Prediction | ImageError) -> object:
    if isinstance(result, ImageError):
        return result.code
    assert result.logits is not None
    return result.width, result.height, result.class_ids.tobytes(), result.scores.tobytes(), result.logits.tobytes()


def test_results_come_in_order_and_few_are_begun() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    def slow(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item

    with ThreadPoolExecutor(3) as executor:
        for expected, result in enumerate(ahead_in_order(executor, slow, items(), 5)):
            assert result == expected
            assert len(taken) <= expected + 5
    assert taken == list(range(50))


def test_decoding_uses_all_cores_at_once(small_model: ModelFolder) -> None:
    together = threading.Barrier(2, timeout=30)

    def decode(data: bytes) -> bytes:
        if data == b"0":  # the first image of each group of eight
            together.wait()
        return data

    classifier = ImageClassifier.load(small_model, batch_size=BATCH_SIZE, num_threads=1, num_streams=2)
    parallel = ParallelClassifier(classifier, 2)
    encoded = [b"%d" % (i % 8) for i in range(16)]
    assert list(parallel.decode_inputs(encoded, decode, StageSeconds())) == encoded


def test_what_fails_in_another_thread_fails_the_caller(small_model: ModelFolder) -> None:
    def decode(data: bytes) -> bytes:
        raise MemoryError

    classifier = ImageClassifier.load(small_model, batch_size=BATCH_SIZE, num_threads=1, num_streams=2)
    with pytest.raises(MemoryError):
        list(ParallelClassifier(classifier, 2).decode_inputs([b"x"], decode, StageSeconds()))

"""Many requests at once: batches form by themselves, nobody waits for nothing, and what is too much is turned away."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.errors import ImageError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import ModelInput, Prediction
from imgcls_ray.serve.metrics import NoMetrics
from imgcls_ray.serve.pipeline import Pipeline
from tests.serve.conftest import chunks, exchange, fake_model, in_base64, picture, say, wait_until
from tests.timing import assert_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.types import Message

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.serve.model import ServedModel
    from tests.serve.conftest import EventLoop, Live

Results = list[Prediction | ImageError]
IMAGE = picture(0)
PIXELS = np.zeros((64, 64, 3), np.uint8)


def decoded(number: int) -> ModelInput:
    """An image that is known by its width."""
    return ModelInput(PIXELS, number, 1)


class Gate:
    """An engine that waits until it may go on."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.is_waiting = threading.Event()

    def __call__(self, images: Sequence[ModelInput]) -> Results:
        self.is_waiting.set()
        assert self.opened.wait(60)
        return say(images)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


class Asked:
    """A pipeline of one engine without a service around it."""

    def __init__(self, events: EventLoop, num_engines: int = 1) -> None:
        self._events = events
        self.pipeline = events.run(self._make(num_engines))

    async def _make(self, num_engines: int) -> Pipeline:
        return Pipeline(
            num_cores=2,
            num_engines=num_engines,
            max_batch_size=8,
            max_queued_images=64,
            max_queued_bytes=2**28,
            limits=DecodeLimits(),
            metrics=NoMetrics(),
        )

    def submit(
        self, images: Sequence[ModelInput | bytes], model: ServedModel
    ) -> list[asyncio.Future[Prediction | ImageError]]:
        async def submit() -> list[asyncio.Future[Prediction | ImageError]]:
            return [self.pipeline.submit(image, model, 1).future for image in images]

        return self._events.run(submit())

    def results(self, futures: Sequence[asyncio.Future[Prediction | ImageError]]) -> list[Any]:
        async def wait() -> list[Any]:
            return await asyncio.gather(*futures, return_exceptions=True)

        return self._events.run(wait())

    def cancel(self, futures: Sequence[asyncio.Future[Prediction | ImageError]]) -> None:
        async def cancel() -> None:
            for future in futures:
                future.cancel()

        self._events.run(cancel())


@pytest.fixture
def asked(events: EventLoop) -> Iterator[Asked]:
    asked = Asked(events)
    yield asked
    asked.pipeline.close()


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_lone_image_does_not_wait_for_others(asked: Asked, small_model: ModelFolder) -> None:
    model = fake_model(small_model)

    def ask() -> None:
        [result] = asked.results(asked.submit([decoded(1)], model))
        assert result.width == 1

    assert_within(1, ask)
    assert {len(batch) for batch in model.batches} == {1}


def test_what_waits_for_an_engine_becomes_batches_in_order(asked: Asked, gate: Gate, small_model: ModelFolder) -> None:
    model = fake_model(small_model, gate)
    first = asked.submit([decoded(0)], model)
    assert gate.is_waiting.wait(60)
    others = asked.submit([decoded(i) for i in range(1, 31)], model)
    gate.opened.set()
    assert [result.width for result in asked.results(first + others)] == list(range(31))
    assert [len(batch) for batch in model.batches] == [1, 8, 8, 8, 6]
    assert [image.width for batch in model.batches for image in batch] == list(range(31))


def test_under_load_images_share_passes_and_none_is_larger_than_allowed(
    start: Callable[..., Live], small_model: ModelFolder
) -> None:
    def slow(images: Sequence[ModelInput]) -> Results:
        time.sleep(0.02)
        return say(images)

    model = fake_model(small_model, slow)
    live = start(model, max_batch_size=4)

    async def ask() -> None:
        await asyncio.gather(*(live.classifying(IMAGE) for _ in range(60)))

    live.run(ask())
    sizes = [len(batch) for batch in model.batches]
    assert sum(sizes) == 60
    assert max(sizes) == 4
    assert len(sizes) < 30


def test_engines_work_side_by_side(events: EventLoop, small_model: ModelFolder) -> None:
    asked = Asked(events, num_engines=2)
    barrier = threading.Barrier(2, timeout=60)

    def meet(images: Sequence[ModelInput]) -> Results:
        barrier.wait()
        return say(images)

    futures = asked.submit([decoded(1)], fake_model(small_model, meet))
    futures += asked.submit([decoded(2)], fake_model(small_model, meet))
    assert [result.width for result in asked.results(futures)] == [1, 2]
    asked.pipeline.close()


def test_images_of_different_models_never_share_a_batch(asked: Asked, gate: Gate, small_model: ModelFolder) -> None:
    blocking = fake_model(small_model, gate)
    blocked = asked.submit([decoded(0)], blocking)
    assert gate.is_waiting.wait(60)
    even = fake_model(small_model, lambda images: say(images, 1))
    odd = fake_model(small_model, lambda images: say(images, 2))
    futures = [asked.submit([decoded(i)], odd if i % 2 else even)[0] for i in range(1, 40)]
    gate.opened.set()
    asked.results(blocked)
    results = asked.results(futures)
    assert [(result.width, result.class_ids[0]) for result in results] == [(i, 1 + i % 2) for i in range(1, 40)]
    assert {image.width % 2 for batch in even.batches for image in batch} == {0}
    assert {image.width % 2 for batch in odd.batches for image in batch} == {1}
    assert max(len(batch) for batch in even.batches + odd.batches) > 1


def test_an_engine_that_fails_fails_its_batch_alone(asked: Asked, gate: Gate, small_model: ModelFolder) -> None:
    def fail_once(images: Sequence[ModelInput]) -> Results:
        if any(image.width == 13 for image in images):
            raise RuntimeError("bad luck")
        return say(images)

    blocked = asked.submit([decoded(0)], fake_model(small_model, gate))
    assert gate.is_waiting.wait(60)
    model = fake_model(small_model, fail_once)
    futures = asked.submit([decoded(i) for i in range(1, 25)], model)
    gate.opened.set()
    asked.results(blocked)
    results = asked.results(futures)
    failed = [i for i, result in enumerate(results, 1) if isinstance(result, RuntimeError)]
    assert failed == [9, 10, 11, 12, 13, 14, 15, 16]
    [after] = asked.results(asked.submit([decoded(99)], model))
    assert after.width == 99


def test_an_engine_that_answers_too_few_fails_its_batch_and_goes_on(asked: Asked, small_model: ModelFolder) -> None:
    short = fake_model(small_model, lambda _images: [])
    for _ in range(3):
        [result] = asked.results(asked.submit([decoded(1)], short))
        assert isinstance(result, ValueError)
    [after] = asked.results(asked.submit([decoded(2)], fake_model(small_model)))
    assert after.width == 2


def test_what_nobody_waits_for_is_not_classified(asked: Asked, gate: Gate, small_model: ModelFolder) -> None:
    model = fake_model(small_model, gate)
    first = asked.submit([decoded(0)], model)
    assert gate.is_waiting.wait(60)
    futures = asked.submit([decoded(i) for i in range(1, 31)], model)
    asked.cancel([future for i, future in enumerate(futures, 1) if i % 3])
    assert asked.pipeline.num_images == 11
    gate.opened.set()
    asked.results(first + futures)
    assert [image.width for batch in model.batches for image in batch] == list(range(0, 31, 3))
    assert [len(batch) for batch in model.batches] == [1, 8, 2]


def test_a_shadow_waits_until_nobody_else_does(
    asked: Asked, gate: Gate, small_model: ModelFolder, events: EventLoop
) -> None:
    order: list[str] = []

    def tell(name: str) -> Callable[[Sequence[ModelInput]], Results]:
        return lambda images: order.extend([name] * len(images)) or say(images)  # type: ignore[func-returns-value]

    async def submit() -> list[Any]:
        blocked = asked.pipeline.submit(decoded(0), fake_model(small_model, gate), 1)
        while not gate.is_waiting.is_set():
            await asyncio.sleep(0.005)
        shadow = asked.pipeline.submit_shadow(blocked, fake_model(small_model, tell("shadow")))
        assert shadow is not None
        model = fake_model(small_model, tell("caller"))
        others = [asked.pipeline.submit(decoded(i), model, 1) for i in range(12)]
        gate.opened.set()
        return await asyncio.gather(shadow.future, *(job.future for job in others))

    events.run(submit())
    assert order == ["caller"] * 12 + ["shadow"]


def test_a_pipeline_that_is_closed_leaves_no_threads(events: EventLoop, small_model: ModelFolder) -> None:
    before = set(threading.enumerate())
    asked = Asked(events, num_engines=2)
    asked.results(asked.submit([IMAGE, decoded(1)], fake_model(small_model)))
    assert len(set(threading.enumerate()) - before) == 7  # two decode, two run engines, three wait for processes
    asked.pipeline.close()
    wait_until(lambda: not set(threading.enumerate()) - before)


# --- what is too much ------------------------------------------------------------------------------------------------


async def nothing_may_be_read() -> Message:
    pytest.fail("the body was read")


def fill(live: Live, num_images: int) -> asyncio.Future[Any]:
    async def fill() -> asyncio.Future[Any]:
        return asyncio.gather(*(live.classifying(IMAGE) for _ in range(num_images)))

    filled = live.run(fill())
    wait_until(lambda: live.num_images == num_images)
    return filled


async def wait_for(future: asyncio.Future[Any]) -> Any:
    return await future


def test_a_full_service_turns_requests_away_at_once_and_unread(
    start: Callable[..., Live], gate: Gate, small_model: ModelFolder
) -> None:
    live = start(fake_model(small_model, gate), max_queued_images=10, max_images_per_request=10)
    filled = fill(live, 10)
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", b"5000")]
    for path in ("/v1/classify", "/image-classification", "/v2/models/small/infer"):

        def be_turned_away(path: str = path) -> None:
            answer = live.run(exchange(live.app, path=path, headers=headers, receive=nothing_may_be_read))
            assert (answer.status, answer.header("retry-after")) == (503, "1")
            assert b"overloaded" in answer.body

        assert_within(0.5, be_turned_away)
    for path in ("/healthz", "/readyz", "/v1/model", "/"):
        assert live.ask("GET", path).status_code == 200
    gate.opened.set()
    assert {response.status_code for response in live.run(wait_for(filled))} == {200}
    live.wait_until_empty()
    assert live.classify(IMAGE).status_code == 200


def test_a_request_for_whose_images_there_is_no_room_is_turned_away_whole(
    start: Callable[..., Live], gate: Gate, small_model: ModelFolder
) -> None:
    live = start(fake_model(small_model, gate), max_queued_images=10, max_images_per_request=10)
    filled = fill(live, 8)
    images = {"images": [{"base64": in_base64(IMAGE)}] * 3}
    for response in (live.classify_files(*[IMAGE] * 3), live.ask_in_json(images)):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
    assert live.num_images == 8
    gate.opened.set()
    live.run(wait_for(filled))
    assert live.classify_files(*[IMAGE] * 3).status_code == 200


def test_requests_for_whose_bytes_there_is_no_room_are_turned_away(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=60_000, max_queued_bytes=100_000)
    kind = (b"content-type", b"image/jpeg")
    parts: asyncio.Queue[bytes] = live.run(make_queue())

    async def upload() -> Message:
        part = await parts.get()
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    async def begin() -> asyncio.Task[Any]:
        parts.put_nowait(IMAGE + bytes(60_000 - len(IMAGE)))
        return asyncio.create_task(exchange(live.app, headers=[kind], receive=upload))

    uploading = live.run(begin())
    wait_until(lambda: live.num_bytes == 60_000)
    announced = [kind, (b"content-length", b"40001")]
    answer = live.run(exchange(live.app, headers=announced, receive=nothing_may_be_read))
    assert (answer.status, answer.json()["error"]["code"], answer.header("retry-after")) == (503, "overloaded", "1")
    unannounced = live.run(exchange(live.app, headers=[kind], receive=chunks(bytes(30_000), bytes(20_000))))
    assert (unannounced.status, unannounced.json()["error"]["code"]) == (503, "overloaded")
    assert live.classify(IMAGE).status_code == 200
    live.run(parts.put(b""))
    assert live.run(wait_for(uploading)).status == 200
    live.wait_until_empty()


async def make_queue() -> asyncio.Queue[bytes]:
    return asyncio.Queue()


def test_twice_what_fits_is_answered_or_turned_away_and_leaves_nothing(start: Callable[..., Live]) -> None:
    live = start(max_queued_images=32, max_images_per_request=8)

    async def ask() -> Counter[int]:
        asked = (live.classifying(IMAGE) for _ in range(64))
        return Counter(response.status_code for response in await asyncio.gather(*asked))

    statuses = live.run(ask())
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 32
    live.wait_until_empty()
    assert live.classify(IMAGE).status_code == 200


def test_callers_that_go_away_take_their_images_with_them(
    start: Callable[..., Live], gate: Gate, small_model: ModelFolder
) -> None:
    model = fake_model(small_model, gate)
    live = start(model, max_queued_images=100)
    rng = random.Random(0)

    async def ask() -> Counter[str]:
        tasks = [asyncio.create_task(live.classifying(IMAGE)) for _ in range(100)]
        while live.num_images < 100:
            await asyncio.sleep(0.005)
        for task in rng.sample(tasks, 30):
            task.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return Counter(type(result).__name__ for result in results)

    assert live.run(ask()) == {"Response": 70, "CancelledError": 30}
    live.wait_until_empty()
    assert sum(len(batch) for batch in model.batches) < 100


def test_connections_that_are_reset_leave_nothing_behind(start: Callable[..., Live]) -> None:
    live = start(max_queued_images=200)
    address = live.listen()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    connections = [socket.create_connection(address) for _ in range(60)]
    for i, connection in enumerate(connections):
        connection.settimeout(60)
        whole = head % len(IMAGE) + IMAGE
        # Some go in the middle of what they send, some before they are answered.
        connection.sendall(whole[:-100] if i % 6 == 0 else whole)
        if i % 6 < 2:
            connection.close()
    for i, connection in enumerate(connections):
        if i % 6 >= 2:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            connection.close()
    live.wait_until_empty()
    assert live.classify(IMAGE).status_code == 200

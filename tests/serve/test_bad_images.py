"""One bad image costs its own answer and nothing else: not its neighbours', not the next request's, not much time."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.models.classifier import decode_model_input
from imgcls_ray.serve import decoders
from tests.images import bad_images as make
from tests.images.test_decoder import BROKEN_IMAGES, GOOD_IMAGES, NOT_IMAGES
from tests.images.test_decoder_hostile import SEEDS, mutate
from tests.serve.conftest import fake_model, in_base64, picture, wait_until
from tests.timing import TRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.folder import ModelFolder
    from tests.serve.conftest import Live

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

BAD_IMAGES = {**NOT_IMAGES, **BROKEN_IMAGES}
GOOD = [picture(seed) for seed in range(2)]
STATUS = {ImageErrorCode.UNSUPPORTED_FORMAT: 415, ImageErrorCode.TOO_MANY_BYTES: 413}


@pytest.fixture(scope="module")
def bad_files() -> dict[str, bytes]:
    return {name: make_bytes() for name, (make_bytes, _) in BAD_IMAGES.items()}


@pytest.fixture(scope="module")
def alone(live: Live) -> list[dict[str, Any]]:
    """What the good images get when nobody else is there."""
    results = []
    for content in GOOD:
        [result] = live.classify(content).json()["results"]
        results.append(result)
    return results


def check_same(result: dict[str, Any], alone: dict[str, Any]) -> None:
    assert result["status"] == "ok"
    for one, other in zip(result["predictions"], alone["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=0.001)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_alone_is_refused_with_its_code(name: str, live: Live, bad_files: dict[str, bytes]) -> None:
    code = BAD_IMAGES[name][1]
    response = live.classify(bad_files[name])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (STATUS.get(code, 422), code.value)
    assert error["message"].startswith(code.message)
    assert error["message"].isprintable()
    assert error["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_among_others_a_bad_image_alone_has_a_bad_status(
    name: str, live: Live, bad_files: dict[str, bytes], alone: list[dict[str, Any]]
) -> None:
    response = live.classify_files(GOOD[0], bad_files[name], GOOD[1])
    assert response.status_code == 200
    first, bad, last = response.json()["results"]
    check_same(first, alone[0])
    check_same(last, alone[1])
    assert (bad["index"], bad["status"]) == (1, BAD_IMAGES[name][1].value)
    assert "predictions" not in bad


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_an_odd_image_is_labelled(name: str, live: Live) -> None:
    make_bytes, pixels, _ = GOOD_IMAGES[name]
    response = live.classify(make_bytes())
    assert response.status_code == 200, response.text
    [result] = response.json()["results"]
    assert (result["height"], result["width"]) == pixels.shape[:2]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_damaged_the_neighbours_are_labelled_as_ever(
    seed: str, live: Live, alone: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(len(seed))
    damaged = [mutate(SEEDS[seed], rng) for _ in range(40)]
    results = live.classify_files(GOOD[0], *damaged, GOOD[1]).json()["results"]
    check_same(results[0], alone[0])
    check_same(results[-1], alone[1])
    codes = {code.value for code in ImageErrorCode}
    assert {result["status"] for result in results} <= {"ok", *codes - {"decoder_crashed", "decode_timeout"}}


def test_after_every_bad_image_the_next_request_takes_its_usual_time(live: Live, bad_files: dict[str, bytes]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert live.classify(GOOD[0]).status_code == 200
        return time.perf_counter() - start

    def is_as_usual() -> bool:
        usual = statistics.median(seconds() for _ in range(20))
        after = []
        for content in bad_files.values():
            live.classify(content)
            after.append(seconds())
        return statistics.median(after) < 3 * usual and max(after) < 0.25 + 20 * usual

    assert any(is_as_usual() for _ in range(TRIES))


def test_an_image_of_too_many_bytes_is_refused_alone(start: Callable[..., Live]) -> None:
    live = start(max_image_bytes=10_000)
    response = live.classify(bytes(10_001))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_bytes")
    results = live.classify_files(GOOD[0], bytes(10_001)).json()["results"]
    assert [result["status"] for result in results] == ["ok", "too_many_bytes"]


def test_an_image_of_too_many_pixels_is_refused_alone(start: Callable[..., Live]) -> None:
    live = start(max_image_pixels=10_000)
    response = live.classify(picture(0, (101, 100)))
    assert (response.status_code, response.json()["error"]["code"]) == (422, "too_many_pixels")
    results = live.classify_files(GOOD[0], picture(0, (101, 100))).json()["results"]
    assert [result["status"] for result in results] == ["ok", "too_many_pixels"]


def test_what_is_not_base64_is_a_corrupt_image(live: Live, alone: list[dict[str, Any]]) -> None:
    images = [
        {"base64": in_base64(GOOD[0])},
        *({"base64": text} for text in ("!!!", "QUJ", "käse", "QUJD\x00QUJD", "data:image/png,QUJD;", "=")),
        {"base64": in_base64(GOOD[1])},
    ]
    results = live.ask_in_json({"images": images}).json()["results"]
    check_same(results[0], alone[0])
    check_same(results[-1], alone[1])
    assert {result["status"] for result in results[1:-1]} == {"corrupt"}


def test_an_output_that_is_no_number_is_that_images_error(start: Callable[..., Live], small_model: ModelFolder) -> None:
    def answer(images: Any) -> Any:
        return [ImageError(ImageErrorCode.NON_FINITE_OUTPUT) for _ in images]

    live = start(fake_model(small_model, answer))
    response = live.classify(GOOD[0])
    assert (response.status_code, response.json()["error"]["code"]) == (422, "non_finite_output")


# --- heavy pictures --------------------------------------------------------------------------------------------------


def png_of_one_colour(width: int = 8900, height: int = 8900) -> bytes:
    """Ten kilobytes that become 79 million pixels."""
    return make.png((width, height), 1, 0, bytes(height * (1 + -(-width // 8))))


def jpeg_of_many_scans() -> bytes:
    """Below the limit on scans, and each is a pass over a million and a half pixels."""
    encoded = make.jpeg(make.slopes(1500, 1000), progressive=True)
    last_scan = encoded[encoded.rindex(b"\xff\xda") : -len(make.EOI)]
    return encoded[: -len(make.EOI)] + last_scan * 80 + make.EOI


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a replica: threads of torch that wait for each other wait for everything else on the machine, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("make_heavy", [pytest.param(png_of_one_colour, marks=pytest.mark.slow), jpeg_of_many_scans])
def test_heavy_pictures_do_not_delay_light_ones(make_heavy: Callable[[], bytes], start: Callable[..., Live]) -> None:
    live = start(decode_timeout_s=60, request_timeout_s=60)
    heavy = make_heavy()
    assert live.classify(heavy).status_code == 200  # the processes that decode have started

    async def ask() -> tuple[float, list[float]]:
        started = time.perf_counter()
        asked = asyncio.gather(*(live.classifying(heavy) for _ in range(8)))
        light = []
        while not asked.done():
            asked_at = time.perf_counter()
            assert (await live.classifying(GOOD[0])).status_code == 200
            light.append(time.perf_counter() - asked_at)
            await asyncio.sleep(0.02)  # heavy ones are decoded when nobody else needs the cores
        assert {response.status_code for response in await asked} == {200}
        return time.perf_counter() - started, light

    def are_light_ones_quick() -> bool:
        seconds, light = live.run(ask())
        # One after the other they would take as long as one heavy picture each.
        return len(light) > 20 and statistics.median(light) < seconds / 40 and max(light) < seconds / 3

    assert any(are_light_ones_quick() for _ in range(TRIES))


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    decoder = Decoder()
    monkeypatch.setattr(decoders, "decode_model_input", decoder)
    yield decoder
    decoder.go_on.set()


class Decoder:
    """Decodes, but is stuck in some images until it may go on."""

    def __init__(self) -> None:
        self.stuck: set[bytes] = set()
        self.go_on = threading.Event()
        self.num_stuck = 0
        self.decoded: list[bytes] = []

    def __call__(self, data: bytes, preprocess: Preprocess, limits: DecodeLimits) -> ModelInput | ImageError:
        if data in self.stuck:
            self.num_stuck += 1
            self.go_on.wait(60)
            self.num_stuck -= 1
        self.decoded.append(data)
        return decode_model_input(data, preprocess, limits)


def test_an_image_that_takes_too_long_is_given_up_alone(
    decoder: Decoder, start: Callable[..., Live], alone: list[dict[str, Any]]
) -> None:
    live, stuck = start(decode_timeout_s=0.7), picture(7)
    decoder.stuck.add(stuck)
    started = time.monotonic()
    results = live.classify_files(GOOD[0], stuck, GOOD[1]).json()["results"]
    assert time.monotonic() - started > 0.6
    check_same(results[0], alone[0])
    check_same(results[2], alone[1])
    assert results[1]["status"] == "decode_timeout"
    assert live.num_images == 0


def test_an_image_that_takes_too_long_alone_is_an_error(decoder: Decoder, start: Callable[..., Live]) -> None:
    live = start(decode_timeout_s=0.2)
    decoder.stuck.add(GOOD[1])
    response = live.classify(GOOD[1])
    assert (response.status_code, response.json()["error"]["code"]) == (422, "decode_timeout")


def test_the_time_of_an_image_counts_from_when_its_own_decoding_began(
    decoder: Decoder, start: Callable[..., Live]
) -> None:
    """All threads are stuck for all of the time that an image has; who waits behind them is decoded all the same."""
    live = start(decode_timeout_s=1)
    blocking, waiting = [picture(11), picture(12)], [picture(13 + i) for i in range(5)]
    decoder.stuck.update(blocking)
    results = live.classify_files(*blocking, *waiting).json()["results"]
    assert [result["status"] for result in results] == ["decode_timeout"] * 2 + ["ok"] * 5


def test_while_a_decoder_is_stuck_others_are_answered_and_it_is_noticed(
    decoder: Decoder, start: Callable[..., Live]
) -> None:
    live = start(decode_timeout_s=0.2)
    assert live.service.pipeline.num_stuck == 0
    decoder.stuck.add(GOOD[1])
    live.classify(GOOD[1])
    assert live.service.pipeline.num_stuck == 1
    for _ in range(10):
        assert live.classify(GOOD[0]).status_code == 200
    decoder.go_on.set()
    wait_until(lambda: live.service.pipeline.num_stuck == 0)
    assert live.classify(GOOD[0]).status_code == 200


def test_what_nobody_waits_for_is_not_decoded(decoder: Decoder, start: Callable[..., Live]) -> None:
    """All threads are busy; those who waited behind have gone when they come free."""
    live = start(decode_timeout_s=60)
    blocking, waiting = [picture(11), picture(12)], [picture(13 + i) for i in range(5)]
    decoder.stuck.update(blocking)

    async def ask() -> list[int]:
        first = asyncio.gather(*(live.classifying(content) for content in blocking))
        while decoder.num_stuck < len(blocking):
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(live.classifying(content)) for content in waiting]
        while live.num_images < len(blocking) + len(waiting):
            await asyncio.sleep(0.005)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        decoder.go_on.set()
        return [response.status_code for response in await first]

    assert live.run(ask()) == [200, 200]
    assert live.classify(GOOD[0]).status_code == 200
    assert not set(waiting) & set(decoder.decoded)


def test_a_decoder_that_fails_as_nobody_thought_costs_one_image(
    monkeypatch: pytest.MonkeyPatch, live: Live, alone: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    broken = picture(9)

    def fail(data: bytes, preprocess: Preprocess, limits: DecodeLimits) -> ModelInput | ImageError:
        if data == broken:
            raise SystemExit("a bug")
        return decode_model_input(data, preprocess, limits)

    monkeypatch.setattr(decoders, "decode_model_input", fail)
    for _ in range(4):  # more often than there are threads
        first, bad, last = live.classify_files(GOOD[0], broken, GOOD[1]).json()["results"]
        check_same(first, alone[0])
        check_same(last, alone[1])
        assert (bad["status"], bad["message"]) == ("decoder_crashed", ImageErrorCode.DECODER_CRASHED.message)
    assert caplog.messages.count("decoding failed") == 4


def test_a_request_of_bad_images_alone_is_answered(live: Live) -> None:
    response: httpx.Response = live.classify_files(b"", b"x", b"\xff\xd8\xff")
    assert response.status_code == 200
    statuses = [result["status"] for result in response.json()["results"]]
    assert statuses == ["empty", "unsupported_format", "truncated"]

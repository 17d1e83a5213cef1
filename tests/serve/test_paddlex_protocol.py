"""PaddleX's clients get what PaddleX's server gives them, and better errors.

The protocol is that of PaddleX 3's serving of the image classification pipeline, and of the beta before it
(``inferenceParams``): https://paddlepaddle.github.io/PaddleX/latest/en/pipeline_usage/tutorials/cv_pipelines/image_classification.html
"""

from __future__ import annotations

import asyncio
import base64
import io
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SMALL_CLASSES
from tests.images import bad_images as make
from tests.serve.conftest import in_base64, picture
from tests.timing import TRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from imgcls_ray.models.api import Model
    from tests.serve.conftest import Live

URL = "/image-classification"
IMAGE = picture(5)


def ask(live: Live, content: bytes = IMAGE, **body: Any) -> httpx.Response:
    return live.ask_in_json({"image": in_base64(content), **body}, URL)


def drawn(response: httpx.Response) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(response.json()["result"]["image"], validate=True)))
    image.load()
    return image


def test_a_good_answer_has_paddlexs_form(live: Live, python_model: Model) -> None:
    response = ask(live)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    content = response.json()
    assert set(content) == {"logId", "errorCode", "errorMsg", "result"}
    assert content["logId"] == response.headers["x-request-id"]
    assert (content["errorCode"], content["errorMsg"]) == (0, "Success")
    assert set(content["result"]) == {"categories", "image"}
    [expected] = python_model.predict(IMAGE)
    categories = content["result"]["categories"]
    assert [category["name"] for category in categories] == list(expected.label_names)
    assert [category["id"] for category in categories] == list(expected.class_ids)
    assert [category["score"] for category in categories] == pytest.approx(expected.scores, abs=0.001)
    assert all(set(category) == {"id", "name", "score"} for category in categories)


@pytest.mark.parametrize(
    "wanted",
    [{"topk": 2}, {"inferenceParams": {"topK": 2}}, {"topk": 2, "inferenceParams": {"topK": 6}},
     {"topk": 2, "inferenceParams": None}, {"topk": None, "inferenceParams": {"topK": 2}}],
)  # fmt: skip
def test_labels_are_as_many_as_either_way_of_asking_says(wanted: dict[str, Any], live: Live) -> None:
    five = ask(live).json()["result"]["categories"]
    assert len(five) == 5
    two = ask(live, **wanted).json()["result"]["categories"]
    assert [category["id"] for category in two] == [category["id"] for category in five[:2]]


def test_more_than_five_labels_may_be_asked_for(live: Live) -> None:
    categories = ask(live, topk=1000).json()["result"]["categories"]
    assert {category["name"] for category in categories} == set(SMALL_CLASSES)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: f"data:image/jpeg;base64,{text}",
        lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
    ],
    ids=["data-address", "lines"],
)
def test_base64_may_be_in_lines_or_a_data_address(encode: Callable[[str], str], live: Live) -> None:
    response = live.ask_in_json({"image": encode(in_base64(IMAGE)), "visualize": False}, URL)
    found, plain = response.json()["result"]["categories"], ask(live).json()["result"]["categories"]
    assert [category["name"] for category in found] == [category["name"] for category in plain]


# --- the picture that comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_config", "asked", "comes"),
    [(True, {}, True), (True, {"visualize": None}, True), (True, {"visualize": False}, False),
     (False, {}, False), (False, {"visualize": None}, False), (False, {"visualize": True}, True)],
)  # fmt: skip
def test_the_picture_comes_back_where_it_is_wanted(
    by_config: bool, asked: dict[str, Any], comes: bool, start: Callable[..., Live]
) -> None:
    result = ask(start(visualize=by_config), **asked).json()["result"]
    assert ("image" in result) == comes


def test_the_picture_that_comes_back_is_the_one_that_was_sent(live: Live) -> None:
    sent = Image.open(io.BytesIO(picture(5, (400, 300)))).convert("RGB")
    file = io.BytesIO()
    sent.save(file, "PNG")
    image = drawn(ask(live, file.getvalue()))
    assert image.format == "JPEG"
    assert image.width == 400
    assert image.height > 300  # the labels stand below
    difference = np.asarray(image.crop((0, 0, 400, 300)), np.int16) - np.asarray(sent, np.int16)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize(
    "content",
    [
        make.encode(np.dstack([make.slopes(60, 40), np.full((40, 60), 128, np.uint8)]), "PNG"),
        make.encode(make.slopes(60, 40), "GIF"),
        make.jpeg(make.slopes(60, 40), "CMYK"),
        make.jpeg(make.slopes(60, 40), "L"),
        make.encode(make.slopes(1, 1), "PNG"),
        make.encode(make.slopes(3000, 2), "PNG"),
    ],
    ids=["rgba", "gif", "cmyk", "grey", "1x1", "3000x2"],
)
def test_a_picture_of_any_kind_can_be_drawn(content: bytes, live: Live) -> None:
    """PaddleX's server fails where JPEG has no such mode."""
    assert drawn(ask(live, content)).mode == "RGB"


def test_the_picture_comes_back_upright_and_not_huge(live: Live) -> None:
    turned = make.insert_segments(picture(0, (4000, 1000)), make.app1_exif(make.exif(6)))
    image = drawn(ask(live, turned))
    assert image.width == 512
    assert 2048 < image.height < 2300


def test_drawing_a_heavy_picture_does_not_delay_light_ones(start: Callable[..., Live]) -> None:
    live = start(decode_timeout_s=60, request_timeout_s=60)
    heavy = {"image": in_base64(make.png((6000, 6000), 1, 0, bytes(6000 * 751)))}
    light = {"image": in_base64(IMAGE)}

    async def ask() -> tuple[float, list[float]]:
        started = time.perf_counter()
        asked = asyncio.gather(*(live.client.post(URL, json=heavy) for _ in range(2)))
        seconds = []
        while not asked.done():
            asked_at = time.perf_counter()
            assert (await live.client.post(URL, json=light)).status_code == 200
            seconds.append(time.perf_counter() - asked_at)
            await asyncio.sleep(0.02)  # a heavy picture is drawn when nobody else needs the cores
        assert {response.status_code for response in await asked} == {200}
        return time.perf_counter() - started, seconds

    def are_light_ones_quick() -> bool:
        total, seconds = live.run(ask())
        return statistics.median(seconds) < total / 40 and max(seconds) < total / 4

    assert any(are_light_ones_quick() for _ in range(TRIES))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "bad_request: Invalid JSON"),
        (b"{", 400, "bad_request: Invalid JSON"),
        ({}, 422, "invalid: image: Field required"),
        ([], 422, "invalid: Input should be an object"),
        ({"image": ""}, 422, "invalid: image: String should have at least 1 character"),
        ({"image": None}, 422, "invalid: image: Input should be a valid string"),
        ({"image": 5}, 422, "invalid: image: Input should be a valid string"),
        ({"image": ["QUJD"]}, 422, "invalid: image: Input should be a valid string"),
        ({"image": "!!!"}, 422, "corrupt: its content is damaged (not base64)"),
        ({"image": "QUJD"}, 415, "unsupported_format: its content is not a JPEG"),
        ({"image": "/etc/passwd"}, 422, "corrupt: "),
        ({"image": "file:///etc/passwd"}, 422, "corrupt: "),
        ({"image": "http://169.254.169.254/"}, 422, "urls_not_allowed: "),
        ({"image": in_base64(IMAGE[:300])}, 422, "truncated: its end is missing"),
        ({"image": in_base64(IMAGE), "topk": 0}, 422, "invalid: topk: "),
        ({"image": in_base64(IMAGE), "topk": -1}, 422, "invalid: topk: "),
        ({"image": in_base64(IMAGE), "topk": 10**9}, 422, "invalid: topk: "),
        ({"image": in_base64(IMAGE), "topk": "5"}, 422, "invalid: topk: "),
        ({"image": in_base64(IMAGE), "topk": 1.5}, 422, "invalid: topk: "),
        ({"image": in_base64(IMAGE), "inferenceParams": {"topK": 0}}, 422, "invalid: inferenceParams.topK: "),
        ({"image": in_base64(IMAGE), "inferenceParams": 5}, 422, "invalid: inferenceParams: "),
        ({"image": in_base64(IMAGE), "visualize": "yes"}, 422, "invalid: visualize: "),
    ],
)
def test_an_error_has_paddlexs_form_and_its_code_is_the_status(
    body: Any, status: int, message: str, live: Live
) -> None:
    response = live.ask_in_json(body, URL)
    assert response.status_code == status
    content = response.json()
    assert set(content) == {"logId", "errorCode", "errorMsg"}
    assert (content["errorCode"], content["logId"]) == (status, response.headers["x-request-id"])
    assert content["errorMsg"].startswith(message)


def test_keys_that_paddlex_does_not_look_at_are_not_looked_at(live: Live) -> None:
    assert ask(live, fileType=1, returnImgUrl=False).status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_the_kind_of_the_body_does_not_matter(content_type: str | None, live: Live) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = f'{{"image": "{in_base64(IMAGE)}"}}'
    assert live.ask("POST", URL, content=body, headers=headers).status_code == 200


def test_health_has_paddlexs_form(live: Live) -> None:
    response = live.ask("GET", "/health")
    assert response.json() == {"logId": response.headers["x-request-id"], "errorCode": 0, "errorMsg": "Healthy"}

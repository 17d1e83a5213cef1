"""Images in, the same labels as in Python out, in every form that a request may have."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgcls_ray.models.classifier import Prediction
from imgcls_ray.serve.api import _describe
from imgcls_ray.serve.inputs import Upload
from imgcls_ray.serve.model import ServedModel
from imgcls_ray.serve.schemas import ImageResult
from tests.conftest import SMALL_CLASSES
from tests.images import bad_images as make
from tests.serve.conftest import check_labels, in_base64, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from imgcls_ray.models.api import Model
    from imgcls_ray.models.folder import ModelFolder
    from tests.serve.conftest import Live

PICTURES = [picture(seed, (60 + 7 * seed, 100 - 3 * seed)) for seed in range(16)]


def labels(response: httpx.Response) -> list[str]:
    """Of the only image."""
    [result] = response.json()["results"]
    return [label["label"] for label in result["predictions"]]


def test_the_pictures_have_different_labels(python_model: Model) -> None:
    """Otherwise no test here could see a mix-up."""
    assert len({result.label for result in python_model.predict(PICTURES)}) >= 4


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "application/octet-stream", "IMAGE/JPEG; charset=binary", "image/png", "image/x-unheard-of"],
)
def test_a_body_is_an_image_whatever_kind_it_says(content_type: str, live: Live, python_model: Model) -> None:
    response = live.classify(PICTURES[0], headers={"content-type": content_type})
    assert response.status_code == 200
    [expected] = python_model.predict(PICTURES[0], top_k=7)
    check_labels(response.json()["results"][0], expected)


def test_every_class_has_its_score(live: Live, python_model: Model) -> None:
    [result] = live.classify(PICTURES[1], params={"top_k": 7}).json()["results"]
    [expected] = python_model.predict(PICTURES[1], top_k=7)
    found = result["predictions"]
    assert [SMALL_CLASSES[label["class_id"]] for label in found] == [label["label"] for label in found]
    assert {label["label"] for label in found} == set(SMALL_CLASSES)
    assert [label["score"] for label in found] == pytest.approx(expected.scores, abs=0.001)
    assert sum(label["score"] for label in found) == pytest.approx(1, abs=1e-4)


def test_files_of_a_form_come_back_by_name_and_in_order(live: Live, python_model: Model) -> None:
    files = [("files", (f"{i}.jpg", content, "image/jpeg")) for i, content in enumerate(PICTURES)]
    results = live.ask("POST", "/v1/classify", files=files).json()["results"]
    assert [result["name"] for result in results] == [f"{i}.jpg" for i in range(16)]
    assert [result["index"] for result in results] == list(range(16))
    for result, expected in zip(results, python_model.predict(PICTURES, top_k=7), strict=True):
        check_labels(result, expected)


@pytest.mark.parametrize("name", ["käse 🐈.jpg", "a b;c=d.jpg", "../../etc/passwd", "x" * 255, "-rf", "%2e%2e"])
def test_a_name_comes_back_as_it_was(name: str, live: Live) -> None:
    [result] = live.ask("POST", "/v1/classify", files=[("files", (name, PICTURES[0]))]).json()["results"]
    assert result["name"] == name
    [result] = live.ask_in_json({"images": [{"base64": in_base64(PICTURES[0]), "name": name}]}).json()["results"]
    assert result["name"] == name


def test_a_long_name_of_a_file_is_cut(live: Live) -> None:
    [result] = live.ask("POST", "/v1/classify", files=[("files", ("x" * 1000, PICTURES[0]))]).json()["results"]
    assert result["name"] == "x" * 255


def test_files_may_stand_in_fields_of_any_name(live: Live) -> None:
    files = [("image", ("a", PICTURES[0])), ("files[]", ("b", PICTURES[1])), ("", ("c", PICTURES[2]))]
    results = live.ask("POST", "/v1/classify", files=files).json()["results"]
    assert [(result["name"], result["status"]) for result in results] == [("a", "ok"), ("b", "ok"), ("c", "ok")]


@pytest.mark.parametrize(
    "encode",
    [
        in_base64,
        lambda content: base64.encodebytes(content).decode(),
        lambda content: base64.encodebytes(content).decode().replace("\n", "\r\n"),
        lambda content: f" {in_base64(content)}\t",
        lambda content: "data:image/jpeg;base64," + in_base64(content),
        lambda content: "data:image/jpeg;name=a.jpg;base64," + base64.encodebytes(content).decode(),
        lambda content: "data:;base64," + in_base64(content),
    ],
    ids=["plain", "lines", "crlf", "blanks", "data-url", "data-url-with-name-and-lines", "data-url-without-type"],
)
def test_json_holds_images_in_base64(encode: Callable[[bytes], str], live: Live, python_model: Model) -> None:
    response = live.ask_in_json({"images": [{"base64": encode(content)} for content in PICTURES[:3]]})
    assert response.status_code == 200
    for result, expected in zip(response.json()["results"], python_model.predict(PICTURES[:3], top_k=7), strict=True):
        assert "name" not in result
        check_labels(result, expected)


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_as_many_labels_come_as_are_asked_for(top_k: int, live: Live) -> None:
    content = PICTURES[2]
    first = labels(live.classify(content, params={"top_k": 7}))[:top_k]
    assert labels(live.classify(content, params={"top_k": top_k})) == first
    assert labels(live.classify_files(content, data={"top_k": str(top_k)})) == first
    assert labels(live.classify_files(content, params={"top_k": top_k})) == first
    assert labels(live.ask_in_json({"images": [{"base64": in_base64(content)}], "top_k": top_k})) == first
    in_query = live.ask_in_json({"images": [{"base64": in_base64(content)}]}, params={"top_k": top_k})
    assert labels(in_query) == first


def test_no_more_labels_come_than_there_are_classes(live: Live) -> None:
    assert len(labels(live.classify(PICTURES[2], params={"top_k": 1000}))) == 7


def test_what_the_body_asks_for_wins_over_the_address(live: Live) -> None:
    image = {"base64": in_base64(PICTURES[2])}
    assert len(labels(live.ask_in_json({"images": [image], "top_k": 2}, params={"top_k": 6}))) == 2
    assert len(labels(live.ask_in_json({"images": [image], "top_k": None}, params={"top_k": 6}))) == 6
    assert len(labels(live.classify_files(PICTURES[2], data={"top_k": "2"}, params={"top_k": 6}))) == 2


def test_without_a_word_of_it_the_configured_number_of_labels_comes(start: Callable[..., Live], live: Live) -> None:
    assert len(labels(live.classify(PICTURES[2]))) == 5
    assert len(labels(start(top_k=3).classify(PICTURES[2]))) == 3


def test_requests_of_one_batch_get_each_its_own_number_of_labels(live: Live) -> None:
    async def ask() -> list[httpx.Response]:
        return await asyncio.gather(
            *(live.classifying(PICTURES[i % 16], params={"top_k": 1 + i % 7}) for i in range(42))
        )

    assert [len(labels(response)) for response in live.run(ask())] == [1 + i % 7 for i in range(42)]


def test_the_answer_says_who_gave_it(live: Live, small_model: ModelFolder) -> None:
    response = live.classify(PICTURES[0])
    assert response.json()["model"] == {
        "name": "small",
        "fingerprint": small_model.spec.fingerprint,
        "role": "stable",
    }
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_picture_is_upright_before_it_is_measured_and_labelled(live: Live, python_model: Model) -> None:
    turned = make.insert_segments(picture(3), make.app1_exif(make.exif(6)))
    [result] = live.classify(turned).json()["results"]
    assert (result["width"], result["height"]) == (80, 96)
    [expected] = python_model.predict(turned, top_k=7)
    check_labels(result, expected)


def test_equal_images_get_equal_answers(live: Live) -> None:
    results = live.classify_files(*[PICTURES[4]] * 20).json()["results"]
    for result in results[1:]:
        for one, other in zip(result["predictions"], results[0]["predictions"], strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=0.001)


def test_two_hundred_requests_at_once_are_not_mixed_up(start: Callable[..., Live], python_model: Model) -> None:
    """Images of many sizes, alone and in company, and bad ones among them: each answer is that of its own image."""
    live = start(max_queued_images=2000)
    good = [picture(100 + i, (40 + 31 * (i % 13), 30 + 23 * (i % 17))) for i in range(60)]
    bad = {b"": "empty", b"no image": "unsupported_format", good[0][:200]: "truncated"}
    expected = dict(zip(good, python_model.predict(good, top_k=7), strict=True))
    mixed = list(good)
    for i in range(15):
        mixed.insert(5 * i, list(bad)[i % 3])

    def check(content: bytes, result: dict[str, Any]) -> None:
        if content in bad:
            assert result["status"] == bad[content]
            assert "predictions" not in result
        else:
            check_labels(result, expected[content])

    async def ask(i: int) -> None:
        content = mixed[i % len(mixed)]
        several = [mixed[(i + 7 * j) % len(mixed)] for j in range(1 + i % 5)]
        if i % 3 == 0:
            response = await live.classifying(content)
            if content in bad:
                assert response.json()["error"]["code"] == bad[content]
            else:
                check(content, response.json()["results"][0])
            return
        if i % 3 == 1:
            files = [("files", (str(j), one)) for j, one in enumerate(several)]
            response = await live.client.post("/v1/classify", files=files)
        else:
            images = [{"base64": in_base64(one), "name": str(j)} for j, one in enumerate(several)]
            response = await live.client.post("/v1/classify", json={"images": images})
        results = response.json()["results"]
        assert [result["name"] for result in results] == [str(j) for j in range(len(several))]
        for one, result in zip(several, results, strict=True):
            check(one, result)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(i) for i in range(200)))

    live.run(ask_all())
    live.wait_until_empty()


def test_the_model_is_described(live: Live, small_model: ModelFolder) -> None:
    described = live.ask("GET", "/v1/model").json()
    assert described["name"] == "small"
    assert described["fingerprint"] == small_model.spec.fingerprint
    assert described["class_names"] == list(SMALL_CLASSES)
    assert (described["preprocess"]["resize_size"], described["preprocess"]["crop_size"]) == (72, 64)
    assert (described["canary"], described["shadow"], described["refused"]) == (None, None, False)


def test_a_service_that_is_loading_says_so(start: Callable[..., Live]) -> None:
    live = start()
    live.service.fleet.lineup = None
    for method, url in [("GET", "/readyz"), ("GET", "/v1/model"), ("GET", "/v2/health/ready")]:
        response = live.ask(method, url)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert live.classify(PICTURES[0]).json()["error"]["code"] == "not_ready"
    assert live.ask("GET", "/healthz").json() == {"status": "ok"}


def test_a_service_that_is_loaded_says_so(live: Live) -> None:
    assert live.ask("GET", "/readyz").json() == {"status": "ready"}
    assert live.ask("GET", "/v2/health/ready").json() == {"ready": True}


def test_a_png_is_labelled_as_the_same_pixels_are_in_python(live: Live, python_model: Model) -> None:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(PICTURES[5]))
    image.save(file, "PNG")
    [expected] = python_model.predict(image, top_k=7)
    check_labels(live.classify(file.getvalue()).json()["results"][0], expected)


def test_an_answer_tells_how_far_its_first_label_can_be_trusted(python_model: Model) -> None:
    result = Prediction(
        8, 8, np.array([1, 0]), np.array([0.75, 0.25]), probability=0.5, decision="unsure", ood_score=-3
    )
    model = ServedModel("model", python_model.folder, ())
    told = _describe(0, Upload(b""), result, model, top_k=1)
    assert (told["probability"], told["decision"], told["ood_score"]) == (0.5, "unsure", -3)
    assert ImageResult.model_validate(told).decision == "unsure"

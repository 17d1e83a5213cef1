"""Clients of the Open Inference Protocol: encoded images or pixels in, tensors out, as JSON or as binary data."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray import __version__
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.preprocess import preprocess_image
from imgcls_ray.serve.fleet import Lineup
from tests.conftest import SMALL_CLASSES
from tests.serve.conftest import fake_model, in_base64, picture, say

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from imgcls_ray.models.api import Model
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.results import Result
    from tests.serve.conftest import Live

URL = "/v2/models/small/infer"
PICTURES = [picture(seed) for seed in range(5)]


def images(*contents: bytes, **more: Any) -> dict[str, Any]:
    """An input tensor of encoded files in JSON."""
    data = [in_base64(content) for content in contents]
    return {"name": "image", "shape": [len(contents)], "datatype": "BYTES", "data": data, **more}


def ask(live: Live, tensor: dict[str, Any], url: str = URL, **more: Any) -> httpx.Response:
    return live.ask_in_json({"inputs": [tensor], **more}, url)


def ask_binary(live: Live, tensor: dict[str, Any], binary: bytes, **more: Any) -> httpx.Response:
    parameters = {"binary_data_size": len(binary), **tensor.pop("parameters", {})}
    header = json.dumps({"inputs": [{**tensor, "parameters": parameters}], **more}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
    return live.ask("POST", URL, content=header + binary, headers=headers)


def packed(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def tensors(response: httpx.Response) -> dict[str, Any]:
    """The outputs by name, as arrays of their shapes."""
    assert response.status_code == 200, response.text
    dtypes = {"INT32": np.int32, "FP32": np.float32, "BYTES": object}
    return {
        output["name"]: np.array(output["data"], dtypes[output["datatype"]]).reshape(output["shape"])
        for output in response.json()["outputs"]
    }


def check(outputs: dict[str, Any], expected: list[Result], top_k: int = 5) -> None:
    assert outputs["labels"].tolist() == [list(result.label_names[:top_k]) for result in expected]
    assert outputs["class_ids"].tolist() == [list(result.class_ids[:top_k]) for result in expected]
    np.testing.assert_allclose(outputs["scores"], [result.scores[:top_k] for result in expected], atol=0.001)
    assert outputs["status"].tolist() == ["ok"] * len(expected)


@pytest.fixture(scope="module")
def expected(python_model: Model) -> list[Result]:
    return list(python_model.predict(PICTURES, top_k=7))


# --- in --------------------------------------------------------------------------------------------------------------


def test_encoded_images_in_json_are_labelled(live: Live, expected: list[Result]) -> None:
    check(tensors(ask(live, images(*PICTURES))), expected)


def test_a_column_of_encoded_images_is_labelled(live: Live, expected: list[Result]) -> None:
    data = [[in_base64(content)] for content in PICTURES]
    check(tensors(ask(live, images(*PICTURES, shape=[5, 1], data=data))), expected)
    check(tensors(ask(live, images(*PICTURES, shape=[5, 1]))), expected)


def test_encoded_images_as_binary_data_are_labelled(live: Live, expected: list[Result]) -> None:
    tensor = {"name": "image", "shape": [5], "datatype": "BYTES"}
    check(tensors(ask_binary(live, tensor, packed(*PICTURES))), expected)


@pytest.fixture(scope="module")
def pixels(small_model: ModelFolder) -> np.ndarray:
    preprocess = small_model.spec.preprocess
    return np.stack([preprocess_image(decode_image(content), preprocess) for content in PICTURES])


def test_pixels_in_json_are_labelled(live: Live, expected: list[Result], pixels: np.ndarray) -> None:
    for data in (pixels.reshape(-1).tolist(), pixels.tolist()):
        tensor = {"name": "pixels", "shape": [5, 64, 64, 3], "datatype": "UINT8", "data": data}
        check(tensors(ask(live, tensor)), expected)


def test_pixels_as_binary_data_are_labelled(live: Live, expected: list[Result], pixels: np.ndarray) -> None:
    tensor = {"name": "pixels", "shape": [5, 64, 64, 3], "datatype": "UINT8"}
    check(tensors(ask_binary(live, tensor, pixels.tobytes())), expected)


def test_a_bad_image_has_a_bad_status_and_no_classes(live: Live, expected: list[Result]) -> None:
    outputs = tensors(ask(live, images(PICTURES[0], b"no image", PICTURES[1][:300], PICTURES[2])))
    assert outputs["status"].tolist() == ["ok", "unsupported_format", "truncated", "ok"]
    assert outputs["class_ids"][1].tolist() == [-1] * 5
    assert outputs["scores"][1].tolist() == [0] * 5
    assert outputs["labels"][1].tolist() == [""] * 5
    assert outputs["labels"][3].tolist() == list(expected[2].label_names[:5])


@pytest.mark.parametrize(("asked", "comes"), [(1, 1), (7, 7), (1000, 7)])
def test_as_many_labels_come_as_are_asked_for(asked: int, comes: int, live: Live, expected: list[Result]) -> None:
    outputs = tensors(ask(live, images(*PICTURES), parameters={"top_k": asked}))
    assert outputs["class_ids"].shape == (5, comes)
    check(outputs, expected, comes)


# --- out -------------------------------------------------------------------------------------------------------------


def test_the_answer_names_the_model_and_the_request(live: Live, small_model: ModelFolder) -> None:
    content = ask(live, images(PICTURES[0]), id="käse-1").json()
    assert set(content) == {"model_name", "model_version", "id", "outputs"}
    assert (content["model_name"], content["id"]) == ("small", "käse-1")
    assert content["model_version"] == small_model.spec.fingerprint[:12]
    assert "id" not in ask(live, images(PICTURES[0])).json()


def test_the_outputs_that_are_asked_for_come_in_that_order(live: Live) -> None:
    outputs = ask(live, images(PICTURES[0]), outputs=[{"name": "scores"}, {"name": "class_ids"}]).json()["outputs"]
    assert [(output["name"], output["datatype"], output["shape"]) for output in outputs] == [
        ("scores", "FP32", [1, 5]),
        ("class_ids", "INT32", [1, 5]),
    ]
    assert [output["name"] for output in ask(live, images(PICTURES[0])).json()["outputs"]] == [
        "class_ids",
        "scores",
        "labels",
        "status",
    ]


def unpack(response: httpx.Response) -> dict[str, Any]:
    """Outputs that came as binary data."""
    assert (response.status_code, response.headers["content-type"]) == (200, "application/octet-stream")
    length = int(response.headers["inference-header-content-length"])
    position = length
    found: dict[str, Any] = {}
    for output in json.loads(response.content[:length])["outputs"]:
        if "parameters" not in output:
            found[output["name"]] = output["data"]
            continue
        assert "data" not in output
        part = response.content[position : position + output["parameters"]["binary_data_size"]]
        position += len(part)
        if output["datatype"] != "BYTES":
            dtype = {"INT32": "<i4", "FP32": "<f4"}[output["datatype"]]
            found[output["name"]] = np.frombuffer(part, dtype).reshape(output["shape"])
            continue
        strings = []
        while part:
            (size,) = struct.unpack_from("<I", part)
            strings.append(part[4 : 4 + size].decode())
            part = part[4 + size :]
        found[output["name"]] = np.array(strings, object).reshape(output["shape"])
    assert position == len(response.content)
    return found


def test_all_outputs_come_as_binary_data_where_that_is_asked_for(live: Live, expected: list[Result]) -> None:
    response = ask(live, images(*PICTURES), parameters={"binary_data_output": True})
    check(unpack(response), expected)


def test_each_output_may_come_either_way(live: Live, expected: list[Result]) -> None:
    outputs = [{"name": "labels", "parameters": {"binary_data": False}}, {"name": "scores"}]
    found = unpack(ask(live, images(PICTURES[0]), parameters={"binary_data_output": True}, outputs=outputs))
    assert found["labels"] == list(expected[0].label_names[:5])
    assert found["scores"] == pytest.approx(np.array([expected[0].scores[:5]]), abs=0.001)
    only = unpack(ask(live, images(PICTURES[0]), outputs=[{"name": "scores", "parameters": {"binary_data": True}}]))
    assert set(only) == {"scores"}


# --- which model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["other", "SMALL", "small ", "smal", "%2e%2e", "small%00"])
def test_another_model_is_not_found(name: str, live: Live) -> None:
    for method, path in [("GET", ""), ("GET", "/ready"), ("POST", "/infer")]:
        response = live.ask(method, f"/v2/models/{name}{path}", content=b"{}" if method == "POST" else None)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_a_version_is_the_beginning_of_a_fingerprint(live: Live, small_model: ModelFolder) -> None:
    fingerprint = small_model.spec.fingerprint
    for version in (fingerprint, fingerprint[:12], fingerprint[:8]):
        response = ask(live, images(PICTURES[0]), f"/v2/models/small/versions/{version}/infer")
        assert response.json()["model_version"] == fingerprint[:12]
    for version in ("1", fingerprint[:7], fingerprint[:8].upper(), fingerprint + "0", "00000000", "%00" * 8):
        response = ask(live, images(PICTURES[0]), f"/v2/models/small/versions/{version}/infer")
        assert response.status_code == 404, version


def test_a_version_reaches_the_models_beside(
    start: Callable[..., Live], small_model: ModelFolder, other_folder: ModelFolder
) -> None:
    stable, canary = fake_model(small_model), fake_model(other_folder, lambda found: say(found, 6))
    live = start(stable, canary={"model": "other", "share": 0.000001})
    live.service.fleet.lineup = Lineup(live.service.config.models(), stable, canary=canary)
    response = ask(live, images(PICTURES[0]), f"/v2/models/other/versions/{canary.fingerprint[:12]}/infer")
    outputs = tensors(response)
    assert (outputs["class_ids"][0, 0], outputs["labels"][0, 0]) == (6, "ant")
    assert live.ask("GET", "/v2/models/small").json()["versions"] == [stable.fingerprint[:12]]
    assert ask(live, images(PICTURES[0]), "/v2/models/other/infer").status_code == 404


def test_a_model_is_described_alike_whoever_answers_next(
    start: Callable[..., Live], small_model: ModelFolder, other_folder: ModelFolder
) -> None:
    stable = fake_model(small_model)
    smaller = other_folder.spec.preprocess
    spec = other_folder.spec.model_copy(update={"preprocess": replace(smaller, crop_size=32)})
    live = start(stable, canary={"model": "other", "share": 1.0})
    canary = fake_model(replace(other_folder, spec=spec))
    live.service.fleet.lineup = Lineup(live.service.config.models(), stable, canary=canary)
    described = live.ask("GET", "/v2/models/small").json()
    assert (described["name"], described["inputs"][1]["shape"]) == ("small", [-1, 64, 64, 3])
    assert live.ask("GET", "/v2/models/small/ready").json()["name"] == "small"
    # Pixels fit what is described; an encoded image may go to either.
    for_pixels = ask(live, {**ONE_PIXELS, "data": NUMBERS})
    assert (for_pixels.status_code, for_pixels.json()["model_name"]) == (200, "small")
    assert ask(live, images(PICTURES[0])).json()["model_name"] == "other"


def test_the_server_and_the_model_describe_themselves(live: Live, small_model: ModelFolder) -> None:
    assert live.ask("GET", "/v2").json() == {
        "name": "imgcls-ray",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    assert live.ask("GET", "/v2/health/live").json() == {"live": True}
    assert live.ask("GET", "/v2/models/small/ready").json() == {"name": "small", "ready": True}
    described = live.ask("GET", "/v2/models/small").json()
    assert (described["name"], described["versions"]) == ("small", [small_model.spec.fingerprint[:12]])
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in described["inputs"]} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, 64, 64, 3]),
    }
    assert {tensor["name"]: tensor["datatype"] for tensor in described["outputs"]} == {
        "class_ids": "INT32",
        "scores": "FP32",
        "labels": "BYTES",
        "status": "BYTES",
    }


# --- what does not fit -----------------------------------------------------------------------------------------------

ONE_PIXELS = {"name": "pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8"}
NUMBERS = [0] * (64 * 64 * 3)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (images(PICTURES[0], shape=[2]), "inputs.0: its shape says 2 images, 1 came"),
        (images(PICTURES[0], PICTURES[1], shape=[1]), "inputs.0: its shape says 1 images, 2 came"),
        (images(shape=[0]), "inputs.0: its shape says 0 images, 0 came"),
        (images(PICTURES[0], shape=[]), "inputs.0.shape: "),
        (images(PICTURES[0], shape=[-1]), "inputs.0.shape.0: "),
        (images(PICTURES[0], shape=[1.5]), "inputs.0.shape.0: "),
        (images(PICTURES[0], shape=[1, 1, 1, 1, 1]), "inputs.0.shape: "),
        (images(PICTURES[0], shape=[1, 2]), "inputs.0: image must be BYTES of the shape [B]"),
        (images(PICTURES[0], shape="1"), "inputs.0.shape: "),
        (images(PICTURES[0], datatype="UINT8"), "inputs.0: image must be BYTES of the shape [B]"),
        (images(PICTURES[0], datatype="FP32"), "inputs.0.datatype: "),
        (images(PICTURES[0], name="input"), "inputs.0.name: "),
        (images(PICTURES[0], data=None), "inputs.0: give data, or parameters.binary_data_size and the bytes"),
        (images(PICTURES[0], parameters={"binary_data_size": 0}), "inputs.0: give data, or "),
        (images(PICTURES[0], data=[1]), "inputs.0.data: must be strings in base64"),
        (images(PICTURES[0], data=[None]), "inputs.0.data: must be strings in base64"),
        (images(PICTURES[0], data=[{"b64": "QUJD"}]), "inputs.0.data: must be strings in base64"),
        (images(PICTURES[0], data=[[["QUJD"]]]), "inputs.0.data: must be strings in base64"),
        (images(PICTURES[0], data="QUJD"), "inputs.0.data: "),
        ({**ONE_PIXELS, "data": NUMBERS[:-1]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS, 0]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], 256]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], -1]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], 0.5]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], "0"]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], None]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], 10**30]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [*NUMBERS[:-1], [0]]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": []}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "data": [[[]]]}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "shape": [0, 64, 64, 3], "data": []}, "inputs.0: must be as many numbers"),
        ({**ONE_PIXELS, "shape": [1, 3, 64, 64], "data": NUMBERS}, "inputs.0: pixels must be UINT8 of the shape"),
        ({**ONE_PIXELS, "shape": [1, 65, 64, 3], "data": NUMBERS}, "inputs.0: pixels must be UINT8 of the shape"),
        ({**ONE_PIXELS, "shape": [12288], "data": NUMBERS}, "at most 64 images a request"),
        ({**ONE_PIXELS, "shape": [2**31, 64, 64, 3], "data": NUMBERS}, "at most 64 images a request"),
        ({**ONE_PIXELS, "datatype": "BYTES", "data": NUMBERS}, "inputs.0: pixels must be UINT8 of the shape"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tensor: dict[str, Any], message: str, live: Live) -> None:
    response = ask(live, tensor)
    assert response.status_code == 422
    content = response.json()
    assert set(content) == {"error", "code", "request_id"}
    assert content["error"].startswith(message)
    assert live.num_images == 0


@pytest.mark.parametrize(
    ("shape", "binary", "message"),
    [
        ([1], b"", "inputs.0: its shape says 1 images, 0 came"),
        ([1], b"\1\0\0", "inputs.0: its binary data ends within a length"),
        ([1], b"\5\0\0\0abcd", "inputs.0: its binary data ends within an image"),
        ([1], b"\xff\xff\xff\xffabcd", "inputs.0: its binary data ends within an image"),
        ([1], packed(b"a", b"b"), "inputs.0: its shape says 1 images, 2 came"),
        ([2], packed(b"a"), "inputs.0: its shape says 2 images, 1 came"),
        ([1], bytes(4 * 10_001), "inputs.0: too many images"),
    ],
    ids=["nothing", "half-a-length", "half-an-image", "4-gigabytes", "too-many", "too-few", "10001-empty"],
)
def test_binary_data_that_does_not_fit_is_refused(shape: list[int], binary: bytes, message: str, live: Live) -> None:
    response = ask_binary(live, {"name": "image", "shape": shape, "datatype": "BYTES"}, binary)
    assert (response.status_code, response.json()["error"]) == (422, message)


def test_pixels_of_another_size_are_refused(live: Live, pixels: np.ndarray) -> None:
    response = ask_binary(live, dict(ONE_PIXELS), pixels[0].tobytes()[:-1])
    assert (response.status_code, response.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("size", [0, 5, 10**9, 2**70])
def test_binary_data_of_another_size_than_it_says_is_refused(size: int, live: Live) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    response = ask_binary(live, tensor, packed(PICTURES[0]))
    assert (response.status_code, response.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("length", ["", "-1", "1.5", "abc", "99999", "9" * 5000, "0x10", " "])
def test_a_header_length_that_does_not_fit_is_refused(length: str, live: Live) -> None:
    headers = {"inference-header-content-length": length}
    response = live.ask("POST", URL, content=json.dumps({"inputs": [images(PICTURES[0])]})[:9000], headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "more",
    [
        {"inputs": []},
        {"inputs": [images(PICTURES[0])] * 2},
        {"inputs": None},
        {"id": 5},
        {"id": "x" * 129},
        {"parameters": {"top_k": 0}},
        {"parameters": {"top_k": 10**9}},
        {"parameters": {"binary_data_output": "maybe"}},
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "scores"}] * 5},
        {"outputs": {}},
    ],
    ids=ascii,
)
def test_a_request_that_does_not_fit_is_refused(more: dict[str, Any], live: Live) -> None:
    response = live.ask_in_json({"inputs": [images(PICTURES[0])], **more}, URL)
    assert (response.status_code, response.json()["code"]) == (422, "invalid")


def test_parameters_of_other_servers_are_not_looked_at(live: Live, expected: list[Result]) -> None:
    tensor = images(PICTURES[0], parameters={"content_type": "image/jpeg"})
    outputs = tensors(ask(live, tensor, parameters={"priority": 1, "timeout": 5}, more=1))
    check(outputs, expected[:1])
    assert set(outputs["labels"][0]) <= set(SMALL_CLASSES)


def test_too_many_images_are_refused(live: Live) -> None:
    response = ask(live, images(*[b"x"] * 65))
    assert (response.status_code, response.json()["code"]) == (422, "too_many_images")

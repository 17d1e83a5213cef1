"""The description at ``/openapi.json`` is complete and true."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.conftest import in_base64, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import Case
    from schemathesis.schemas import BaseSchema

    from tests.serve.conftest import Live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
OPERATIONS = [
    ("POST", "/v1/classify"),
    ("GET", "/v1/model"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("POST", "/image-classification"),
    ("GET", "/health"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{name}"),
    ("GET", "/v2/models/{name}/ready"),
    ("POST", "/v2/models/{name}/infer"),
    ("POST", "/v2/models/{name}/versions/{version}/infer"),
]


@pytest.fixture(scope="module")
def described(live: Live) -> dict[str, Any]:
    content: dict[str, Any] = live.ask("GET", "/openapi.json").json()
    return content


@pytest.fixture(scope="module")
def api(live: Live) -> BaseSchema:
    host, port = live.listen()
    return schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_is_described(method: str, path: str, mode: GenerationMode, api: BaseSchema) -> None:
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE and "name" in case.path_parameters:
            case.path_parameters["name"] = "small"
        case.call_and_validate(checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with a request that has no parts


IMAGE = picture(0)
TENSOR = {"name": "image", "shape": [2], "datatype": "BYTES", "data": [in_base64(IMAGE), "QUJD"]}


@pytest.mark.parametrize(
    ("method", "path", "request_of", "status"),
    [
        ("POST", "/v1/classify", {"content": IMAGE, "headers": {"content-type": "image/jpeg"}}, 200),
        (
            "POST",
            "/v1/classify",
            {"json": {"images": [{"base64": in_base64(IMAGE)}, {"base64": "QUJD", "name": "b"}]}},
            200,
        ),
        ("POST", "/v1/classify", {"content": b"no image", "headers": {"content-type": "image/jpeg"}}, 415),
        ("GET", "/v1/model", {}, 200),
        ("POST", "/image-classification", {"json": {"image": in_base64(IMAGE)}}, 200),
        ("POST", "/image-classification", {"json": {"image": in_base64(IMAGE), "visualize": False}}, 200),
        ("POST", "/image-classification", {"json": {"image": "QUJD"}}, 415),
        ("GET", "/v2/models/{name}", {}, 200),
        ("POST", "/v2/models/{name}/infer", {"json": {"inputs": [TENSOR]}}, 200),
        (
            "POST",
            "/v2/models/{name}/infer",
            {"json": {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}},
            200,
        ),
    ],
)
def test_what_a_client_gets_fits_the_description(
    method: str, path: str, request_of: dict[str, Any], status: int, api: BaseSchema, live: Live
) -> None:
    response = live.ask(method, path.format(name="small"), **request_of)
    assert response.status_code == status
    api[path][method].validate_response(response)


def test_every_route_is_described(described: dict[str, Any]) -> None:
    found = [(method.upper(), path) for path, operations in described["paths"].items() for method in operations]
    assert sorted(found) == sorted(OPERATIONS)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert set(references(described)) <= known


def test_every_error_is_described_in_the_form_of_its_protocol(described: dict[str, Any]) -> None:
    for path, operations in described["paths"].items():
        form = "KServeError" if path.startswith("/v2") else "ErrorResponse"
        if path in ("/image-classification", "/health"):
            form = "PaddleXError"
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert set(response["content"]) == {"application/json"}
                    assert response["content"]["application/json"]["schema"]["$ref"].endswith(f"/{form}"), path


def test_no_good_answer_is_described_in_the_form_of_an_error(described: dict[str, Any]) -> None:
    for path, operations in described["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                forms = {reference.rpartition("/")[2] for reference in references(response)}
                assert int(status) >= 400 or not any("Error" in form for form in forms), path


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("/v1/classify", {"image/jpeg", "application/octet-stream", "multipart/form-data", "application/json"}),
        ("/image-classification", {"application/json"}),
        ("/v2/models/{name}/infer", {"application/json", "application/octet-stream"}),
    ],
)
def test_every_kind_of_body_is_described(path: str, kinds: set[str], described: dict[str, Any]) -> None:
    assert set(described["paths"][path]["post"]["requestBody"]["content"]) >= kinds


def test_the_parts_of_a_body_are_described_with_it(described: dict[str, Any]) -> None:
    body = described["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    image = body["properties"]["images"]["items"]
    assert set(image["properties"]) == {"base64", "url", "name"}
    assert image["additionalProperties"] is False


def test_the_description_tells_nothing_of_the_machine(live: Live, described: dict[str, Any]) -> None:
    text = json.dumps(described)
    assert live.service.config.model not in text
    assert "/home" not in text

"""Who shows no key is told so before anything of his request is read; a key is never seen again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ConfigError
from imgcls_ray.serve.keys import ApiKeys, read_api_keys
from tests.serve.conftest import exchange, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message

    from tests.serve.conftest import Live

KEY = "correct-horse-battery"
OTHER_KEY = "staple of 20 letters"
OPEN = ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/health", "/v2", "/v2/health/live", "/v2/health/ready",
        "/assets/page.js", "/assets/swagger-ui.css"]  # fmt: skip
CLOSED = [
    ("POST", "/v1/classify"),
    ("GET", "/v1/model"),
    ("POST", "/image-classification"),
    ("GET", "/v2/models/small"),
    ("GET", "/v2/models/small/ready"),
    ("POST", "/v2/models/small/infer"),
    ("POST", "/v2/models/small/versions/12345678/infer"),
    ("GET", "/nothing"),
    ("GET", "/metrics"),
    ("GET", "/healthz/"),
    ("GET", "//healthz"),
    ("GET", "/HEALTHZ"),
    ("GET", "/assets"),
    ("OPTIONS", "/v1/classify"),
]


@pytest.fixture
def locked(start: Callable[..., Live]) -> Live:
    return start(keys=[KEY, OTHER_KEY])


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_a_key_nothing_is_told_or_read(method: str, path: str, locked: Live) -> None:
    async def receive() -> Message:
        pytest.fail("the body was read")

    answer = locked.run(exchange(locked.app, method, path, receive=receive))
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert b"unauthorized" in answer.body


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer {KEY}"),
        ("authorization", f"Bearer   {KEY} "),
        ("authorization", f"Bearer {OTHER_KEY}"),
        ("x-api-key", KEY),
        ("x-api-key", OTHER_KEY),
    ],
)
def test_each_key_opens_by_either_header(header: tuple[str, str], locked: Live) -> None:
    assert locked.ask("GET", "/v1/model", headers=[header]).status_code == 200
    response = locked.classify(picture(0), headers=[header, ("content-type", "image/jpeg")])
    assert response.status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer"),
        (b"authorization", b"Bearer "),
        (b"authorization", b"Bearer wrong-key-of-20-chars"),
        (b"authorization", KEY.encode()),
        (b"authorization", b"Basic " + KEY.encode()),
        (b"authorization", f"Bearer {KEY}x".encode()),
        (b"authorization", f"Bearer {KEY[:-1]}".encode()),
        (b"authorization", f"Bearer {KEY},{OTHER_KEY}".encode()),
        (b"authorization", f"Bearer {KEY.upper()}".encode()),
        (b"x-api-key", b""),
        (b"x-api-key", f" {KEY}".encode()),
        (b"x-api-key", b"\xff\xfe\x00"),
        (b"x-api-key", b"x" * 100_000),
        (b"cookie", f"x-api-key={KEY}".encode()),
    ],
    ids=range(14),
)
def test_no_other_key_opens(header: tuple[bytes, bytes], locked: Live) -> None:
    answer = locked.run(exchange(locked.app, "GET", "/v1/model", [header]))
    assert (answer.status, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_a_key_in_the_address_does_not_open(locked: Live) -> None:
    assert locked.ask("GET", f"/v1/model?key={KEY}&x-api-key={KEY}&api_key={KEY}").status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_nothing_of_the_model_is_open(path: str, locked: Live) -> None:
    assert locked.ask("GET", path).status_code == 200


def test_assets_lead_no_further_without_a_key(locked: Live) -> None:
    for path in ("/assets/../v1/model", "/assets/..%2fv1%2fmodel", "/assets//v1/model", "/assets/"):
        assert locked.run(exchange(locked.app, "GET", path, [])).status == 404


def test_without_keys_everybody_may_ask(live: Live) -> None:
    assert live.ask("GET", "/v1/model").status_code == 200
    assert live.ask("GET", "/v1/model", headers={"x-api-key": "anything"}).status_code == 200


def test_a_key_is_in_no_answer_and_no_line(locked: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="imgcls_ray")
    answers = []
    for key in (KEY, OTHER_KEY, "another-secret-of-someone"):
        for name, value in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
            for path in ("/v1/model", "/nothing", "/openapi.json", "/v1/classify"):
                response = locked.ask("GET", path, headers={name: value})
                answers.append(response.text + str(response.headers))
    lines = [str(vars(record)) + record.getMessage() for record in caplog.records]
    assert lines
    for secret in (KEY, OTHER_KEY, "another-secret"):
        assert not any(secret in text for text in answers + lines)


def test_a_short_key_is_refused_unseen() -> None:
    with pytest.raises(ValueError, match="a key has fewer than 16 characters") as caught:
        ApiKeys([KEY, "hunter2"])
    assert "hunter2" not in repr(caught.value)
    with pytest.raises(ConfigError, match="IMGCLS_API_KEYS: a key has fewer than 16 characters") as refused:
        read_api_keys({"IMGCLS_API_KEYS": f"{KEY},hunter2"})
    assert "hunter2" not in str(refused.value)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("text", ["", " ", ",", " , ,", "\n", "\t,\r\n", "\0", "\0,\0", "\u200b" * 20, "\ufeff"])
def test_a_variable_without_a_key_is_refused_not_taken_for_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^IMGCLS_API_KEYS: is set but holds no key; .* or unset it") as refused:
        read_api_keys({"IMGCLS_API_KEYS": text})
    assert "\n" not in str(refused.value)


def test_an_application_is_not_built_with_keys_that_no_replica_would_start_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``serve run`` and ``serve deploy`` say so at once, and not after replicas that did not come up."""
    from imgcls_ray.serve.deployment import build_app

    monkeypatch.setenv("IMGCLS_API_KEYS", " ,")
    with pytest.raises(ConfigError, match="IMGCLS_API_KEYS: is set but holds no key"):
        build_app({"model": "model"})
    monkeypatch.delenv("IMGCLS_API_KEYS")
    assert build_app({"model": "model"}) is not None


def test_without_the_variable_there_are_no_keys() -> None:
    assert not read_api_keys({})


@pytest.mark.parametrize("text", [f"{KEY}\n{OTHER_KEY}", f"{KEY}\0", f"{KEY},\udcff{OTHER_KEY}", f"\ufeff{KEY}"])
def test_a_key_that_no_caller_can_show_is_refused_unseen(text: str) -> None:
    with pytest.raises(ConfigError, match="IMGCLS_API_KEYS: a key holds a line break or another character") as refused:
        read_api_keys({"IMGCLS_API_KEYS": text})
    assert KEY not in str(refused.value)


def test_keys_in_the_environment_stand_between_commas() -> None:
    keys = read_api_keys({"IMGCLS_API_KEYS": f" {KEY} ,{OTHER_KEY},"})
    assert keys.admit(KEY.encode())
    assert keys.admit(OTHER_KEY.encode())
    assert not keys.admit(b"")
    assert not keys.admit(f"{KEY},{OTHER_KEY}".encode())


def test_the_keys_themselves_are_not_kept() -> None:
    assert KEY not in str(vars(ApiKeys([KEY])))

"""What a process loads before its first image: nothing of that may count as the image's time or memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import decode_model_input
from imgcls_ray.serve import decoders
from imgcls_ray.workers import decoding, local_worker

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_decoder_process_can_resize_before_its_memory_is_limited_and_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    serving: list[Callable[[bytes], bytes]] = []
    monkeypatch.setattr(decoding, "load_resizer", lambda: events.append("resizer"))
    monkeypatch.setattr(decoding, "_limit_memory", lambda _: events.append("limit"))
    monkeypatch.setattr(decoding, "answer_messages", serving.append)
    decoding.serve_images(lambda task: (DecodeLimits(), lambda image: task + image))
    [answer] = serving
    assert answer(b"task ") == b"ready"
    assert events == ["resizer", "limit"]
    assert answer(b"image") == b"task image"
    assert events == ["resizer", "limit"]


def test_local_workers_are_forked_from_a_process_that_can_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def serve(prepare: Callable[[], Any]) -> None:
        assert prepare() is local_worker._serve

    def leave(_code: int) -> None:
        raise SystemExit

    monkeypatch.setattr(local_worker, "spare_pandas", lambda: None)
    monkeypatch.setattr(local_worker, "load_resizer", lambda: events.append("resizer"))
    monkeypatch.setattr(local_worker, "serve_forks", serve)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit):
        local_worker.serve_workers(lambda: events.append("engine"))
    assert events == ["resizer", "engine"]


def test_decoder_processes_of_a_service_are_forked_from_one_that_can_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr("os.setpriority", lambda *_: None)
    monkeypatch.setattr(decoders, "load_resizer", lambda: events.append("resizer"))

    def noted(*given: Any) -> Any:
        events.append("decodes")
        return decode_model_input(*given)

    monkeypatch.setattr(decoders, "decode_model_input", noted)
    assert decoders.prepare_decoders() is decoders.run_decoder
    assert events == ["resizer", "decodes"]

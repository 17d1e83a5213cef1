"""Failures are asked again: at once where they may pass, then less and less often, and never without a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from imgcls_ray.errors import ImageErrorCode
from imgcls_ray.store import plan as plan_module
from imgcls_ray.store.plan import PlanCounts, unanswered
from imgcls_ray.store.retrying import RetryRules
from imgcls_ray.store.schema import LIMITS_KEY
from imgcls_ray.store.verify import verify_store
from tests.store.stores import info, label, new_store, part_bytes, plan, rows_of, run_record

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = {
    "max_image_bytes": 1000,
    "max_image_pixels": 1000,
    "decode_timeout_s": 10.0,
    "fetch_timeout_s": 10.0,
    "allow_private_urls": False,
}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return new_store(tmp_path / "store")


def asked(store: LabelStore, *uris: str, etag: str | None = "v1", **rules: Any) -> tuple[list[str], PlanCounts]:
    counts = PlanCounts()
    files = unanswered((info(uri, etag) for uri in uris), store, counts, RetryRules(store, **rules))
    return [file.uri for file in files], counts


def fail(
    store: LabelStore, code: str, uri: str = "/a", *, at: datetime, monkeypatch: pytest.MonkeyPatch, etag: str = "v1"
) -> None:
    monkeypatch.setattr(plan_module, "now", at.isoformat)
    label(store, [info(uri, etag)], {uri: code})


def test_a_failure_that_may_pass_is_asked_less_and_less_often(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours_asked = []
    # A run each hour of three days, then every eight hours, and in the hours before the later ones are due.
    for hour in sorted({*range(72), *range(72, 24 * 30, 8), 127, 255, 423, 591}):
        time = START + hour * HOUR
        if hour == 0 or asked(store, "/a", time=time)[0]:
            hours_asked.append(hour)
            fail(store, "access_denied", at=time, monkeypatch=monkeypatch)
    # One more at once, then 1, 2, 4, ... hours, at last a week.
    assert hours_asked == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 424, 592]
    assert verify_store(store).is_sound


def test_a_day_of_hourly_runs_asks_a_denied_file_six_times(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    for hour in range(24):
        left, _ = asked(store, *(f"/{i}" for i in range(5)), time=START + hour * HOUR) if hour else (["/0"], None)
        if left:
            monkeypatch.setattr(plan_module, "now", (START + hour * HOUR).isoformat)
            files = [info(f"/{i}") for i in range(5)] if not hour else [info(uri) for uri in left]
            label(store, files, {"/3": "access_denied"})
            rows += len(files)
    assert rows == 5 + 5


def test_what_waits_is_told(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("/a", "/b"):
        fail(store, "fetch_failed", uri, at=START, monkeypatch=monkeypatch)
    fail(store, "fetch_failed", "/a", at=START + HOUR, monkeypatch=monkeypatch)
    uris, counts = asked(store, "/a", "/b", time=START + 1.5 * HOUR)
    assert uris == ["/b"]
    assert (counts.retried, counts.answered, counts.waiting) == (1, 1, 1)
    assert counts.next_retry == START + 2 * HOUR


def test_a_new_version_waits_for_nothing(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in range(3):
        fail(store, "fetch_failed", at=START + hour * HOUR, monkeypatch=monkeypatch)
    assert asked(store, "/a", etag="v2", time=START + 2.1 * HOUR)[0] == ["/a"]
    # And its failures are counted from the first.
    fail(store, "fetch_failed", at=START + 3 * HOUR, monkeypatch=monkeypatch, etag="v2")
    assert asked(store, "/a", etag="v2", time=START + 3.1 * HOUR)[0] == ["/a"]


def test_a_clock_that_was_wrong_makes_nobody_wait(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for year in (0, 10):
        fail(store, "fetch_failed", at=START + year * timedelta(days=365), monkeypatch=monkeypatch)
    assert asked(store, "/a", time=START + 3 * HOUR)[0] == ["/a"]


@pytest.mark.parametrize("code", sorted(ImageErrorCode))
def test_a_code_that_is_named_is_asked_again_once_and_nothing_else(
    code: str, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = {f"/{other.value}": other.value for other in ImageErrorCode}
    for hour in range(2):  # so that those that may pass wait
        monkeypatch.setattr(plan_module, "now", (START + hour * HOUR).isoformat)
        files = [info(uri) for uri in final] if not hour else [info(uri) for uri in asked(store, *final)[0]]
        label(store, sorted(files), final)
    soon = START + 1.1 * HOUR
    assert asked(store, *sorted(final), time=soon)[0] == []
    assert asked(store, *sorted(final), time=soon, codes=frozenset({code}))[0] == [f"/{code}"]


def test_a_row_that_was_asked_for_by_its_code_is_no_double(store: LabelStore) -> None:
    label(store, [info("/a")], {"/a": "corrupt"})
    run = plan(store, [info("/a")], retried=["corrupt"])
    for unit in store.units(run):
        store.directory.create(unit.part_name, part_bytes(rows_of(store, unit), store.schema))
    store.finish_run(run, run_record(run))
    assert verify_store(store).is_sound


def test_a_second_row_without_a_reason_is_a_double(store: LabelStore) -> None:
    label(store, [info("/a")], {"/a": "corrupt"})
    label(store, [info("/a")])
    assert verify_store(store).num_doubled == 1


def label_under(
    store: LabelStore, code: str, under: dict[str, Any] | None, *, record: dict[str, Any], **about: Any
) -> None:
    uri = "http://h/a" if code == "access_denied" else "/a"
    run = plan(store, [info(uri)], **about)
    schema = store.schema
    if under is not None:
        schema = schema.with_metadata({**schema.metadata, LIMITS_KEY: json.dumps(under).encode()})
    for unit in store.units(run):
        rows = rows_of(store, unit, {uri: code})
        store.directory.create(unit.part_name, part_bytes(rows, pa.schema(schema)))
    store.finish_run(run, run_record(run, config=record))


@pytest.mark.parametrize(
    ("code", "key", "wider"),
    [
        ("too_many_bytes", "max_image_bytes", 1001),
        ("too_many_pixels", "max_image_pixels", 1001),
        ("decode_timeout", "decode_timeout_s", 11.0),
        ("fetch_failed", "fetch_timeout_s", 11.0),
        ("access_denied", "allow_private_urls", True),
    ],
)
@pytest.mark.parametrize("is_told_by_part", [True, False], ids=["part", "run of an earlier version"])
def test_a_wider_limit_asks_again_what_failed_by_it(
    code: str, key: str, wider: Any, is_told_by_part: bool, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://h/a" if code == "access_denied" else "/a"
    for hour in range(2):  # so that those that may pass wait
        monkeypatch.setattr(plan_module, "now", (START + hour * HOUR).isoformat)
        label_under(store, code, LIMITS if is_told_by_part else None, record={} if is_told_by_part else LIMITS)
    time = START + 1.1 * HOUR
    assert asked(store, uri, time=time, limits=LIMITS)[0] == []
    assert asked(store, uri, time=time, limits={**LIMITS, key: wider})[0] == [uri]
    others = {name: 10**9 if name != "allow_private_urls" else True for name in LIMITS if name != key}
    assert asked(store, uri, time=time, limits={**LIMITS, **others})[0] == []


def test_a_narrower_limit_asks_nothing_again(store: LabelStore) -> None:
    label_under(store, "too_many_bytes", LIMITS, record={})
    assert asked(store, "/a", limits={**LIMITS, "max_image_bytes": 10})[0] == []


def test_a_row_of_a_wider_limit_is_no_double(store: LabelStore) -> None:
    label_under(store, "too_many_pixels", LIMITS, record={})
    label_under(store, "corrupt", {**LIMITS, "max_image_pixels": 2000}, record={})
    assert verify_store(store).is_sound
    label_under(store, "corrupt", {**LIMITS, "max_image_pixels": 3000}, record={})
    assert verify_store(store).num_doubled == 1


def test_an_input_that_was_listed_with_a_version_and_is_missing_is_asked_again(store: LabelStore) -> None:
    label(store, [info("/a"), info("/b", None)], {"/a": "not_found", "/b": "not_found"})
    assert asked(store, "/a")[0] == ["/a"]
    assert asked(store, "/b", etag=None)[0] == []


def test_the_limits_of_the_command_that_planned_are_the_reason_for_a_second_row(store: LabelStore) -> None:
    """A third command, with the old limit, may have finished the run."""
    label_under(store, "too_many_bytes", LIMITS, record={}, limits=LIMITS)
    wider = {**LIMITS, "max_image_bytes": 2000}
    label_under(store, "too_many_bytes", LIMITS, record={}, limits=wider)
    assert verify_store(store).is_sound


def test_limits_that_are_not_known_any_more_are_asked_once(store: LabelStore) -> None:
    label_under(store, "too_many_bytes", None, record={})
    store.directory.replace("runs/0001.json", b"")
    assert asked(store, "/a", limits=LIMITS)[0] == ["/a"]
    store.directory.remove("runs/0001.json")
    assert asked(store, "/a", limits=LIMITS)[0] == ["/a"]
    label_under(store, "too_many_bytes", LIMITS, record={}, limits=LIMITS)
    assert asked(store, "/a", limits=LIMITS)[0] == []


def test_the_record_of_a_command_that_finished_a_run_of_an_earlier_version_is_not_believed(store: LabelStore) -> None:
    run = plan(store, [info("/a")])
    for unit in store.units(run):
        store.directory.create(unit.part_name, part_bytes(rows_of(store, unit, {"/a": "too_many_bytes"}), store.schema))
    store.finish_run(run, run_record(run, config={**LIMITS, "max_image_bytes": 10**9}, input="/in"))
    assert asked(store, "/a", limits={**LIMITS, "max_image_bytes": 10**9})[0] == ["/a"]


def test_a_lost_plan_record_makes_nobody_wait(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in range(2):
        fail(store, "fetch_failed", at=START + hour * HOUR, monkeypatch=monkeypatch)
    store.directory.replace("plans/0002.json", b"{")
    assert asked(store, "/a", time=START + 1.1 * HOUR)[0] == ["/a"]


def test_a_code_is_asked_once_by_the_command_that_names_it(store: LabelStore) -> None:
    """Killed after its plan, it finishes the run first, and does not ask the same inputs in another one."""
    label(store, [info("/a")], {"/a": "corrupt"})
    run = plan(store, [info("/a")], retried=["corrupt"])
    for unit in store.units(run):
        store.directory.create(unit.part_name, part_bytes(rows_of(store, unit, {"/a": "corrupt"}), store.schema))
    store.finish_run(run, run_record(run))
    codes = frozenset({"corrupt"})
    assert asked(store, "/a", codes=codes, own_runs=frozenset({run}))[0] == []
    assert asked(store, "/a", codes=codes)[0] == ["/a"]


def test_an_object_of_a_list_without_versions_that_is_missing_is_asked_again(store: LabelStore) -> None:
    label(store, [info("s3://b/a", None)], {"s3://b/a": "not_found"})
    assert asked(store, "s3://b/a", etag=None)[0] == ["s3://b/a"]


def test_codes_without_a_limit_cost_no_request(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    label(store, [info("/a")], {"/a": "corrupt"})
    monkeypatch.setattr(type(store), "run_record", lambda *_: pytest.fail("a record was read"))
    monkeypatch.setattr(type(store), "plan_record", lambda *_: pytest.fail("a record was read"))
    assert asked(store, "/a", limits=LIMITS)[0] == []

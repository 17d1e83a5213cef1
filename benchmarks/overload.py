"""The service in overload: three times what it can do, from clients of whom many go away or send what is no picture."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.bodies import SIZES, bad_kinds, draw_jpegs, image_kinds
from benchmarks.common import emit, isolated_environment, print_table
from benchmarks.http_load import CONNECTION_ERROR, GOOD, TIMEOUT, ClosedLoop, Load, LoadResult, OpenLoop, measure
from benchmarks.in_process import keep_conversion
from benchmarks.servers import CpuWatch, MemoryWatch, our_server, pids_of
from benchmarks.serving_common import BENCHMARK, NUM_PICTURES, WARM_UP_S, stderr_console, tell_checks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.http_load import Kind
    from benchmarks.servers import Server

_DOCUMENTED = (200, 400, 401, 413, 415, 422, 503, 504)
# The service's limit, as shipped.
_MAX_REQUEST_BYTES = 32 * 2**20
# Longer than the service's own deadline: what takes longer hangs.
_TIMEOUT_S = 45.0
_MEMORY_WINDOW_S = 60.0


def overload(model: Path, minutes: float, capacity_s: float, baseline_s: float) -> bool:
    """Three times what the service can do; says whether it kept what it promises."""
    good = draw_jpegs(SIZES["110k"], NUM_PICTURES)
    seconds = 60 * minutes
    with isolated_environment() as environment, ExitStack() as stack:
        keep_conversion(model, environment)
        server = stack.enter_context(our_server(model, environment))
        alone = _usual(server, image_kinds(good))
        emit(BENCHMARK, "usual answer before", 1000 * alone, "ms")
        closed = Load(server.port, image_kinds(good), ClosedLoop(16), capacity_s, warm_up_s=WARM_UP_S)
        capacity = measure(closed).good_rate()
        emit(BENCHMARK, "capacity, 16 clients", capacity, "answers/s")
        baseline_load = Load(server.port, image_kinds(good), OpenLoop(capacity), baseline_s, timeout_s=_TIMEOUT_S)
        with CpuWatch(server.session) as cpu:
            baseline = measure(baseline_load)
        _emit_phase("at 1x", baseline, capacity, cpu)
        kinds = [
            *image_kinds(good, weight=0.9),
            *bad_kinds(good[0], max_request_bytes=_MAX_REQUEST_BYTES, weight=0.1),
        ]
        pids = pids_of(server.session, "replica")
        load = Load(server.port, kinds, OpenLoop(3 * capacity), seconds, abort_share=0.3, timeout_s=_TIMEOUT_S)
        with MemoryWatch(server.session) as watch, CpuWatch(server.session) as cpu:
            result = measure(load)
        _emit_phase("at 3x", result, 3 * capacity, cpu)
        at_once = measure(Load(server.port, image_kinds(good), ClosedLoop(1), 0.001)).latency(100)
        emit(BENCHMARK, "first answer after", 1000 * at_once, "ms")
        after = _usual(server, image_kinds(good))
        emit(BENCHMARK, "usual answer after", 1000 * after, "ms")
        is_same_replica = pids_of(server.session, "replica") == pids
    rows = _kinds_and_results(result)
    print_table(("kind", "results"), rows, title="what became of the requests", console=stderr_console())
    columns = ("process", "first minute", "last minute", "last/first")
    print_table(columns, _memory_rows(watch, result), title="memory, MB", console=stderr_console())
    counts = result.counts()
    changes = {key: last / first for key, (first, last) in _memory(watch, result).items()}
    for (title, name), change in changes.items():
        emit(BENCHMARK, "memory, last minute to first", change, "ratio", process=title, measure=name)
    ratio = result.good_rate() / baseline.good_rate()
    checks = {
        "nothing but pictures was labelled": result.counts("good").get(GOOD) == counts.get(GOOD),
        "every status is documented": not result.unknown_statuses(_DOCUMENTED),
        "no request hung": not counts.get(TIMEOUT),
        "good requests lost no connection": not result.counts("good").get(CONNECTION_ERROR),
        "the first answer after came within twice the usual time": at_once <= 2 * alone,
        "answers after come within twice the usual time": after <= 2 * alone,
        "the replica is the same": is_same_replica,
        "memory stays within a tenth": all(change <= 1.1 for change in changes.values()),
    }
    emit(BENCHMARK, "goodput, 3x to 1x", ratio, "ratio")
    return tell_checks(checks, title=f"goodput at 3x is {ratio:.2f} of that at 1x")


def _usual(server: Server, kinds: Sequence[Kind]) -> float:
    """Median time of an answer to one client, seconds."""
    return measure(Load(server.port, kinds, ClosedLoop(1), 3.0, warm_up_s=0.5)).latency(50)


def _emit_phase(name: str, result: LoadResult, offered: float, cpu: CpuWatch) -> None:
    emit(
        BENCHMARK,
        f"goodput {name}",
        result.good_rate(),
        "answers/s",
        offered=round(offered, 1),
        counts=result.counts(),
        p50_ms=round(1000 * result.latency(50), 1),
        p99_ms=round(1000 * result.latency(99), 1),
        max_ms=round(1000 * result.latency(100), 1),
        worst_second=min(result.good_per_second()),
        client_cpu=round(result.cpu_share, 3),
        cores={name: round(cores, 3) for name, cores in cpu.cores.items()},
        client_lag_ms=round(1000 * result.max_lag_s, 1),
    )


def _kinds_and_results(result: LoadResult) -> list[list[str]]:
    kinds = sorted({outcome.kind for outcome in result.outcomes})
    for kind in kinds:
        emit(
            BENCHMARK,
            "answers in overload",
            sum(result.counts(kind).values()),
            "requests",
            kind=kind,
            counts=result.counts(kind),
        )
    return [[kind, ", ".join(f"{name}: {count}" for name, count in result.counts(kind).items())] for kind in kinds]


def _memory_rows(watch: MemoryWatch, result: LoadResult) -> list[list[str]]:
    """Megabytes of the first and the last minute, and the last relative to the first."""
    return [
        [f"{title}, {name.upper()}", *(f"{value / 1e6:.1f}" for value in means), f"{means[1] / means[0]:.3f}"]
        for (title, name), means in _memory(watch, result).items()
    ]


def _memory(watch: MemoryWatch, result: LoadResult) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean bytes in the first and in the last minute, by process and measure."""
    window = min(_MEMORY_WINDOW_S, result.seconds / 3)
    end = result.start + result.seconds
    return {
        (title, name): (
            watch.mean(title, name, result.start, result.start + window),
            watch.mean(title, name, end - window, end),
        )
        for title in watch.titles()
        for name in ("rss", "uss")
    }

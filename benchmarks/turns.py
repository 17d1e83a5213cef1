"""The service of this checkout and that of another one, up at once and asked in turns.

Seconds later the same machine may give a tenth more or less, and a server takes half a minute to start. Two that stand
idle by turns meet the same machine, so a difference of a few percent shows.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.bodies import SIZES, draw_jpegs, image_kinds
from benchmarks.common import emit, isolated_environment, print_table
from benchmarks.http_load import ClosedLoop, Load, measure
from benchmarks.in_process import keep_conversion
from benchmarks.servers import our_server
from benchmarks.serving_common import BENCHMARK, NUM_PICTURES, stderr_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.http_load import Kind
    from benchmarks.servers import Server

_WARM_UP_S = 1.0


def in_turns(
    model: Path, before: Path, sizes: Sequence[str], clients: Sequence[int], seconds: float, num_turns: int
) -> None:
    """Print requests/s of both, and the median of the ratios of neighbouring measurements with its quartiles."""
    folder, rows = before.resolve(), []
    with isolated_environment() as environment:
        keep_conversion(model, environment)
        with (
            our_server(model.resolve(), environment) as ours,
            our_server(model.resolve(), {**environment, "PYTHONPATH": str(folder)}, folder=folder) as theirs,
        ):
            for size in sizes:
                jpegs = draw_jpegs(SIZES[size], NUM_PICTURES)
                for server in (ours, theirs):
                    _rate(server, image_kinds(jpegs, path=server.path), max(clients), seconds)
                for number in clients:
                    pairs = [
                        _pair(ours, theirs, jpegs, number, seconds, is_ours_first=turn % 2 == 0)
                        for turn in range(num_turns)
                    ]
                    rows.append(_told(pairs, size, number))
    columns = ("body", "requests/s", "before", "ratio (quartiles)")
    print_table(columns, rows, title=f"in {num_turns} turns of {seconds:g} s", console=stderr_console())


def _pair(
    ours: Server, theirs: Server, jpegs: list[bytes], clients: int, seconds: float, *, is_ours_first: bool
) -> tuple[float, float]:
    rates = {}
    for server in (ours, theirs) if is_ours_first else (theirs, ours):
        rates[server] = _rate(server, image_kinds(jpegs, path=server.path), clients, seconds)
    return rates[ours], rates[theirs]


def _rate(server: Server, kinds: Sequence[Kind], clients: int, seconds: float) -> float:
    return measure(Load(server.port, kinds, ClosedLoop(clients), seconds, warm_up_s=_WARM_UP_S)).good_rate()


def _told(pairs: Sequence[tuple[float, float]], size: str, clients: int) -> list[str]:
    ratios = [ours / theirs for ours, theirs in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    mine, others = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    emit(
        BENCHMARK,
        "ours to before, in turns",
        middle,
        "ratio",
        size=size,
        clients=clients,
        quartiles=[round(low, 3), round(high, 3)],
        turns=len(pairs),
    )
    return [f"{size}, {clients} clients", f"{mine:.1f}", f"{others:.1f}", f"{middle:.3f} ({low:.3f}-{high:.3f})"]

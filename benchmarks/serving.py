"""The service under load: beside LitServe, with many images a request, in overload, and while its model changes.

    python -m benchmarks.serving compare --model M                # ours, ours without HAProxy, LitServe
    python -m benchmarks.serving compare --model M --before DIR   # ours, that of another checkout, LitServe
    python -m benchmarks.serving turns --model M --before DIR     # ours and that of another checkout, in turns
    python -m benchmarks.serving many --model M                   # 16 images a request, beside the same work in-process
    python -m benchmarks.serving overload --model M               # three times what it can do, a third of it hopeless
    python -m benchmarks.serving rollout --model A --to B         # another model, and a broken one, under load

Client and servers share this machine's cores. But for ``turns``, never are two servers up at once.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.bodies import SIZES, draw_jpegs, form_kind, image_kinds
from benchmarks.common import emit, isolated_environment, print_table
from benchmarks.http_load import ClosedLoop, Load, measure
from benchmarks.in_process import in_process_rate, keep_conversion
from benchmarks.servers import CpuWatch, litserve_server, our_server
from benchmarks.serving_common import BENCHMARK, NUM_PICTURES, WARM_UP_S, in_ms, stderr_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.http_load import Kind
    from benchmarks.servers import Server

OURS, NO_HAPROXY, LITSERVE, BEFORE = "ours", "ours, no HAProxy", "LitServe", "before"


class Cell(NamedTuple):
    """One server with one size of picture and one number of clients."""

    rate: float
    """Requests per second."""
    p50_s: float
    p99_s: float


def _started(
    name: str, model: Path, environment: Mapping[str, str], before: Path | None
) -> AbstractContextManager[Server]:
    if name == LITSERVE:
        return litserve_server(model, environment)
    if before is not None and name == BEFORE:
        folder = before.resolve()
        return our_server(model.resolve(), {**environment, "PYTHONPATH": str(folder)}, folder=folder)
    return our_server(model, environment, is_haproxy=name != NO_HAPROXY)


def compare(
    model: Path, sizes: Sequence[str], clients: Sequence[int], seconds: float, repeat: int, before: Path | None
) -> None:
    """One server after the other for each size, in turns there and back: a drift of the machine meets all of them."""
    servers = (OURS, BEFORE if before else NO_HAPROXY, LITSERVE)
    cells: dict[tuple[str, str, int], list[Cell]] = {}
    with isolated_environment() as environment:
        keep_conversion(model, environment)
        for turn in range(repeat):
            for size in sizes:
                jpegs = draw_jpegs(SIZES[size], NUM_PICTURES)
                for name in servers if turn % 2 == 0 else servers[::-1]:
                    with _started(name, model, environment, before) as server:
                        kinds = image_kinds(jpegs, path=server.path)
                        for number in clients:
                            cell = _measure_cell(server, kinds, number, seconds, name=name, size=size, turn=turn)
                            cells.setdefault((size, name, number), []).append(cell)
    _tell_comparison(cells, servers, sizes, clients)


def _measure_cell(server: Server, kinds: Sequence[Kind], clients: int, seconds: float, **about: Any) -> Cell:
    with CpuWatch(server.session) as cpu:
        result = measure(Load(server.port, kinds, ClosedLoop(clients), seconds, warm_up_s=WARM_UP_S))
    cell = Cell(result.good_rate(), result.latency(50), result.latency(99))
    about = {"server": about.pop("name"), "clients": clients, **about}
    emit(
        BENCHMARK,
        "compare",
        cell.rate,
        "requests/s",
        **about,
        p50_ms=round(1000 * cell.p50_s, 1),
        p99_ms=round(1000 * cell.p99_s, 1),
        failed=result.num_failed(),
        client_cpu=round(result.cpu_share, 3),
        cores={name: round(cores, 3) for name, cores in cpu.cores.items()},
    )
    return cell


def _tell_comparison(
    cells: Mapping[tuple[str, str, int], Sequence[Cell]],
    servers: Sequence[str],
    sizes: Sequence[str],
    clients: Sequence[int],
) -> None:
    rows = []
    others = [name for name in (BEFORE, LITSERVE) if name in servers]
    for size in sizes:
        for number in clients:
            row = [f"{size}, {number} clients"]
            for name in servers:
                rate, p50, p99 = (statistics.median(values) for values in zip(*cells[size, name, number], strict=True))
                row.append(f"{rate:.1f} ({in_ms(p50)}, {in_ms(p99)})")
            for name in others:
                # Of cells that were measured one after the other.
                ratio = statistics.median(
                    ours.rate / theirs.rate if theirs.rate else float("inf")
                    for ours, theirs in zip(cells[size, OURS, number], cells[size, name, number], strict=True)
                )
                emit(BENCHMARK, f"ours to {name}", ratio, "ratio", size=size, clients=number)
                row.append(f"{ratio:.2f}")
            rows.append(row)
    title = "one image a request: requests/s (p50, p99 in ms)"
    columns = ("body", *servers, *(f"ours/{name}" for name in others))
    print_table(columns, rows, title=title, console=stderr_console())


def many(model: Path, clients: Sequence[int], seconds: float, num_images: int) -> None:
    """Forms of several pictures, beside the bare work on the same cores before and after."""
    jpegs = draw_jpegs(SIZES["110k"], num_images)
    rates = {}
    with isolated_environment() as environment:
        keep_conversion(model, environment)
        before = in_process_rate(model, jpegs, seconds, environment)
        emit(BENCHMARK, "in-process, before", before, "images/s")
        with our_server(model, environment) as server:
            for number in clients:
                load = Load(server.port, [form_kind(jpegs)], ClosedLoop(number), seconds, warm_up_s=WARM_UP_S)
                result = measure(load)
                rates[number] = result.good_rate() * num_images
                about = {"clients": number, "images_per_request": num_images, "failed": result.num_failed()}
                emit(BENCHMARK, "many", rates[number], "images/s", **about, client_cpu=round(result.cpu_share, 3))
        after = in_process_rate(model, jpegs, seconds, environment)
        emit(BENCHMARK, "in-process, after", after, "images/s")
    limit = (before + after) / 2
    rows = [["in-process, before and after", f"{before:.1f}, {after:.1f}", ""]]
    for number, rate in rates.items():
        emit(BENCHMARK, "many to in-process", rate / limit, "ratio", clients=number)
        rows.append([f"{number} clients", f"{rate:.1f}", f"{rate / limit:.2f}"])
    title = f"{num_images} images of 110 kB a request"
    print_table(("what", "images/s", "of in-process"), rows, title=title, console=stderr_console())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    options = {name: commands.add_parser(name) for name in ("compare", "turns", "many", "overload", "rollout")}
    for of_command in options.values():
        of_command.add_argument("--model", type=Path, required=True, help="model folder")
    for name, clients, seconds in (("compare", "1,8,32", 10), ("turns", "1,8,32", 3), ("many", "1,2,4", 10)):
        options[name].add_argument("--clients", default=clients, help="[default: %(default)s]")
        options[name].add_argument(
            "--seconds", type=float, default=seconds, help="of each measurement [default: %(default)s]"
        )
    for name in ("compare", "turns"):
        options[name].add_argument("--sizes", default=",".join(SIZES), help="[default: %(default)s]")
    options["turns"].add_argument("--before", type=Path, metavar="DIR", required=True, help="the other checkout")
    options["turns"].add_argument("--turns", type=int, default=10, help="of each cell [default: 10]")
    options["compare"].add_argument("--repeat", type=int, default=1, help="medians are told [default: 1]")
    options["compare"].add_argument(
        "--before", type=Path, metavar="DIR", help="checkout whose service is measured, too"
    )
    options["many"].add_argument("--images", type=int, default=16, help="of each request [default: 16]")
    options["overload"].add_argument("--minutes", type=float, default=10, help="of three times the load [default: 10]")
    options["overload"].add_argument("--capacity-s", type=float, default=30, help="[default: 30]")
    options["overload"].add_argument("--baseline-s", type=float, default=60, help="at capacity [default: 60]")
    options["rollout"].add_argument("--to", type=Path, required=True, help="folder of another model")
    options["rollout"].add_argument("--broken", type=Path, help="[default: the first, with some bytes flipped]")
    args = parser.parse_args()
    is_kept = True
    if args.command == "compare":
        compare(args.model, args.sizes.split(","), _numbers(args.clients), args.seconds, args.repeat, args.before)
    elif args.command == "turns":
        from benchmarks.turns import in_turns

        in_turns(
            args.model, args.before, args.sizes.split(","), _numbers(args.clients), args.seconds, max(2, args.turns)
        )
    elif args.command == "many":
        many(args.model, _numbers(args.clients), args.seconds, args.images)
    elif args.command == "overload":
        from benchmarks.overload import overload

        is_kept = overload(args.model, args.minutes, args.capacity_s, args.baseline_s)
    else:
        from benchmarks.rollout import rollout

        is_kept = rollout(args.model, args.to, args.broken)
    sys.exit(0 if is_kept else 1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    # So that servers are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

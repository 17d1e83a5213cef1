"""What a bystander notices while another caller attacks: each of the attacks alone, then all of them mixed.

    python -m benchmarks.hostile                                    # 20 s of each attack, ten minutes of all mixed
    python -m benchmarks.hostile --only TIFF --only 'slow headers'  # attacks with these words in their names
    python -m benchmarks.hostile --source CHECKOUT > before.jsonl   # the service of another version
    python -m benchmarks.hostile --before before.jsonl              # both side by side

The service runs as ``imgcls serve`` starts it, with keys. The attacker has a key too, and an address of its own; who
only holds connections has none. The bystander sends a good JPEG of 10 kB every 0.2 s on a connection that it keeps, and
as many on fresh ones. A service that does not answer quickly again within ``--recovery-s`` is started anew.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.bodies import CLASSIFY, SIZES, draw_jpegs
from benchmarks.common import emit, imgcls, isolated_environment, print_table
from benchmarks.hostile_attacks import MIX, attacking, make_attacks
from benchmarks.hostile_outcome import Outcome, checks_of, columns, describe, row_of
from benchmarks.hostile_watch import QUICK_S, TreeWatch, bystanding, replicas_of, summarise, well_after
from benchmarks.in_process import keep_conversion
from benchmarks.servers import CpuWatch, Server, our_server
from benchmarks.serving_common import stderr_console, tell_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.hostile_attacks import Attack
    from benchmarks.hostile_watch import Answers

BENCHMARK = "hostile"
_ROOT = Path(__file__).parent.parent
_MODEL = "PP-LCNet_x1_0"
_KEY, _ATTACKERS_KEY = "bystander-0123456789", "attacker-0123456789"
_LEAD_S = 2.0
"""For which the bystander asks before it is measured, to have its connection."""
_NUM_QUICK = 5
"""So many quick answers in a row: the service is well again."""
_SETTLED_CORES = 0.3
_MAX_SETTLE_S = 120.0
_NUM_WARM_UP = 50
_TABLE_CHARS = 180


def measure_all(
    attacks: Sequence[Attack],
    service: Callable[[], AbstractContextManager[Server]],
    *,
    rate: float,
    seconds: float,
    mix_seconds: float,
    idle_s: float,
    recovery_s: float,
) -> list[Outcome]:
    """One attack after the other, on one service for as long as it gets well again after each."""
    [jpeg] = draw_jpegs(SIZES["10k"], 1)
    outcomes = []
    server: Server | None = None
    with ExitStack() as stack:
        for attack in attacks:
            if server is None:
                server = stack.enter_context(service())
                idle = _measure_idle(server, jpeg, idle_s)
            of_attack_s = mix_seconds if attack.name == MIX else seconds
            outcome = _measure(server, attack, jpeg, idle, rate=rate, seconds=of_attack_s, recovery_s=recovery_s)
            outcomes.append(outcome)
            emit(BENCHMARK, "attack", 1000 * outcome.answers.p99_s, "ms", **describe(outcome))
            if not outcome.is_well:
                stack.close()
                server = None
    return outcomes


def _measure_idle(server: Server, jpeg: bytes, seconds: float) -> Answers:
    for _ in range(_NUM_WARM_UP):
        _ask(server.port, jpeg)
    with bystanding(server, jpeg, _KEY) as bystander:
        time.sleep(_LEAD_S)
        start = time.monotonic()
        time.sleep(seconds)
        return summarise(bystander.stop(), start, start + seconds)


def _measure(
    server: Server,
    attack: Attack,
    jpeg: bytes,
    idle: Answers,
    *,
    rate: float,
    seconds: float,
    recovery_s: float,
) -> Outcome:
    replicas = replicas_of(server.session)
    with ExitStack() as stack:
        watch = stack.enter_context(TreeWatch(server.session))
        bystander = stack.enter_context(bystanding(server, jpeg, _KEY))
        time.sleep(_LEAD_S)
        with attacking(attack, server.port, rate=rate, seconds=seconds) as attacker:
            attacker.wait()
            is_well = _wait_until_well(server.port, jpeg, recovery_s)
            over = time.monotonic()
            requests = bystander.stop()
            attacked = attacker.attacked()
        is_settled = _wait_until_settled(server)
    return Outcome(
        attack=attack.name,
        answers=summarise(requests, attacked.start, max(attacked.end, over)),
        idle=idle,
        recovery_s=well_after(requests, attacked.end) if is_well else None,
        is_well=is_well and is_settled,
        num_replicas_lost=len(replicas - replicas_of(server.session)) if server.session else None,
        memory=(watch.samples[0], watch.most(), watch.samples[-1]) if server.session else None,
        attackers_counts=attacked.counts,
        attackers_examples=attacked.examples,
    )


def _wait_until_well(port: int, jpeg: bytes, most_s: float) -> bool:
    """Ask until answers come quickly; says whether they did within the time."""
    end = time.monotonic() + most_s
    num_quick = 0
    while num_quick < _NUM_QUICK and (began := time.monotonic()) < end:
        is_quick = _ask(port, jpeg) == 200 and time.monotonic() - began < QUICK_S
        num_quick = num_quick + 1 if is_quick else 0
        time.sleep(0.05)
    return num_quick == _NUM_QUICK


def _wait_until_settled(server: Server) -> bool:
    """Until nothing is left of the attack to work on, which the next one would meet."""
    end = time.monotonic() + _MAX_SETTLE_S
    while time.monotonic() < end:
        with CpuWatch(server.session) as cpu:
            time.sleep(1.0)
        if sum(cores for name, cores in cpu.cores.items() if name not in ("client", "others")) < _SETTLED_CORES:
            return True
    return False


def _ask(port: int, jpeg: bytes) -> int | None:
    """The status of one answer; None if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * QUICK_S)
    try:
        connection.request("POST", CLASSIFY, jpeg, {"Content-Type": "image/jpeg", "X-API-Key": _KEY})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


# --- the service ------------------------------------------------------------------------------------------------------


@contextmanager
def _our_services(source: Path, model: Path | None, settings: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name of the model, and how to start a service of this version."""
    with isolated_environment() as environment:
        environment |= {"PYTHONPATH": str(source.resolve()), "IMGCLS_API_KEYS": f"{_KEY},{_ATTACKERS_KEY}"}
        if model is None:
            model = Path(environment["TMPDIR"], "model")
            command = imgcls("models", "new", _MODEL, "--random", "--output", model)
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        keep_conversion(model, environment)
        name = json.loads((model / "model.json").read_text(encoding="utf-8"))["name"]
        yield name, lambda: our_server(model, environment, settings=settings)


@contextmanager
def _running_service(url: str) -> Iterator[tuple[str, Any]]:
    """One that runs on this machine already, with both keys; its processes are not looked at."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
        sys.exit(f"--server {url}: must be http://127.0.0.1:PORT")
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
    connection.request("GET", "/v1/model", headers={"X-API-Key": _KEY})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"--server {url}: {response.status}; start it with IMGCLS_API_KEYS={_KEY},{_ATTACKERS_KEY}")
    name = json.load(response)["name"]
    yield name, lambda: nullcontext(Server(parts.port or 0, CLASSIFY, 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help=f"model folder [default: {_MODEL} with random weights]")
    parser.add_argument("--source", type=Path, default=_ROOT, help="checkout whose service is attacked [default: this]")
    parser.add_argument("--server", metavar="URL", help="a service that runs on this machine, instead")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the service's configuration"
    )
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="attacks with it in their name")
    parser.add_argument("--rate", type=float, default=5, help="the attacker's requests per second [default: 5]")
    parser.add_argument("--seconds", type=float, default=20, help="of each attack [default: 20]")
    parser.add_argument("--mix-seconds", type=float, default=600, help="of all of them mixed; 0: not [default: 600]")
    parser.add_argument("--idle-s", type=float, default=20, help="before the first attack [default: 20]")
    parser.add_argument("--recovery-s", type=float, default=120, help="then it is started anew [default: 120]")
    parser.add_argument("--memory-mb", type=float, help="that a replica may take at most, with the processes it starts")
    parser.add_argument("--bodies", type=Path, help="folder that keeps what is sent [default: a temporary one]")
    parser.add_argument(
        "--before", type=Path, metavar="FILE", help="what another run printed, to stand beside this one"
    )
    args = parser.parse_args()
    before = {}
    if args.before:
        lines = map(json.loads, args.before.read_text(encoding="utf-8").splitlines())
        before = {line["attack"]: line for line in lines if line["figure"] == "attack"}
    with ExitStack() as stack:
        settings = [part for setting in args.set for part in ("--set", setting)]
        services = _running_service(args.server) if args.server else _our_services(args.source, args.model, settings)
        name, service = stack.enter_context(services)
        bodies = args.bodies or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imgcls-hostile-")))
        bodies.mkdir(parents=True, exist_ok=True)
        attacks = make_attacks(args.only, bodies, model=name, key=_ATTACKERS_KEY)
        outcomes = measure_all(
            [attack for attack in attacks if attack.name != MIX or args.mix_seconds],
            service,
            rate=args.rate,
            seconds=args.seconds,
            mix_seconds=args.mix_seconds,
            idle_s=args.idle_s,
            recovery_s=args.recovery_s,
        )
    rows = [row_of(describe(outcome), before.get(outcome.attack)) for outcome in outcomes]
    title = "a bystander's answers under attack" + (" (before)" if before else "")
    console = stderr_console()
    console.width = max(console.width, _TABLE_CHARS)
    print_table(columns(), rows, title=title, console=console)
    checks = checks_of(outcomes, args.memory_mb and 1e6 * args.memory_mb)
    is_kept = tell_checks(checks, title="what was promised", benchmark=BENCHMARK)
    sys.exit(0 if is_kept else 1)


if __name__ == "__main__":
    # So that servers are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

"""The attacks: requests at a steady rate, connections that are held, or both."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.hostile_bodies import hostile_bodies, make_kinds
from benchmarks.hostile_connections import CONNECTION_ATTACKS, ConnectionAttack, Target, holding
from benchmarks.http_load import Load, OpenLoop, loading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.http_load import Kind, Loading

MIX = "mix"
# On Linux all of 127.0.0.0/8 is this machine: what is bounded by the caller's address can tell attacker and bystander
# apart.
_ADDRESS = "127.0.0.66"
_NICENESS = 10
_TIMEOUT_S = 30.0
# Until the attacker's process has started.
_START_S = 1.5
_TURN_S = 20.0
"""Of one kind of connections, where there are several."""


class Attack(NamedTuple):
    """What is done to the service at once."""

    name: str
    kinds: Sequence[Kind] = ()
    connections: Sequence[ConnectionAttack] = ()
    """In turn."""


class Attacked(NamedTuple):
    """What was done; moments of the monotonic clock."""

    start: float
    end: float
    counts: dict[str, int]
    """What became of the attacker's requests and connections."""
    examples: dict[str, str]
    """Of each status but 200, how one body begins."""


def make_attacks(only: Sequence[str], bodies: Path, *, model: str, key: str) -> list[Attack]:
    """Each alone, and last all of them in one.

    Args:
        only: words; attacks with one of them in their name are made. All, if there are none.
        bodies: folder where they are kept.
        model: name of the model that answers.
        key: of the attacker.

    Raises:
        SystemExit: a word is in no name.
    """
    requests = hostile_bodies(model)
    held = {connections.name: connections for connections in CONNECTION_ATTACKS}
    names = [*dict.fromkeys(request.attack for request in requests), *held, MIX]
    chosen = choose(names, only)
    kinds = make_kinds([request for request in requests if request.attack in chosen or MIX in chosen], bodies, key)
    mix = Attack(MIX, [kind for of_attack in kinds.values() for kind in of_attack], CONNECTION_ATTACKS)
    return [
        mix if name == MIX else Attack(name, connections=[held[name]]) if name in held else Attack(name, kinds[name])
        for name in chosen
    ]


def choose(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Those with one of the words in them, in capitals or not; all if there are no words.

    Raises:
        SystemExit: a word is in none.
    """
    for word in only:
        if not any(word.lower() in name.lower() for name in names):
            sys.exit(f"--only {word}: no such attack; there are: {'; '.join(names)}")
    return [name for name in names if not only or any(word.lower() in name.lower() for word in only)]


class Attacker:
    """One attack on its way."""

    def __init__(self, attack: Attack, port: int, seconds: float, load: Loading | None) -> None:
        self._connections = attack.connections
        self._target = Target("127.0.0.1", port, _ADDRESS)
        self._load = load
        self._start = time.monotonic() + _START_S
        self._end = self._start + seconds
        self._counts: Counter[str] = Counter()

    def wait(self) -> None:
        """Until the attack is over; what was sent may still be worked on."""
        turn = 0
        while self._connections and (left_s := self._end - time.monotonic()) > 0:
            attack = self._connections[turn % len(self._connections)]
            with holding(attack, self._target, left_s if len(self._connections) == 1 else min(left_s, _TURN_S)) as held:
                self._counts.update(held.wait().counts)
            turn += 1
        time.sleep(max(0.0, self._end - time.monotonic()))

    def attacked(self) -> Attacked:
        """What was done, once every answer has come or is given up."""
        if self._load is None:
            return Attacked(self._start, self._end, dict(self._counts), {})
        result = self._load.wait()
        counts = result.counts() | self._counts
        return Attacked(result.start, result.start + result.seconds, counts, result.examples)


@contextmanager
def attacking(attack: Attack, port: int, *, rate: float, seconds: float) -> Iterator[Attacker]:
    """Attack from processes of their own, which end with the context."""
    if not attack.kinds:
        yield Attacker(attack, port, seconds, None)
        return
    load = Load(
        port,
        attack.kinds,
        OpenLoop(rate, is_even=True),
        seconds,
        timeout_s=_TIMEOUT_S,
        source=_ADDRESS,
        niceness=_NICENESS,
    )
    with loading(load) as loaded:
        yield Attacker(attack, port, seconds, loaded)

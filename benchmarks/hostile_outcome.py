"""What an attack did, told as a line, as a row of a table, and as promises that were kept or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.http_load import GOOD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.hostile_watch import Answers, Used

MAX_RATIO = 5.0
"""Of a bystander's p99 to its idle one."""
MAX_P99_S = 1.0
_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "not 200": lambda line: _wrong(line["counts"]),
    "p50, ms": lambda line: f"{line['p50_ms']:.0f}",
    "p99, ms": lambda line: f"{line['p99_ms']:.0f}",
    "max, ms": lambda line: f"{line['max_ms']:.0f}",
    "p99/idle": lambda line: f"{line['ratio']:.1f}",
    "silence, s": lambda line: f"{line['silence_s']:.1f}",
    "well after, s": lambda line: "never" if line["recovery_s"] is None else f"{line['recovery_s']:.1f}",
    "replicas lost": lambda line: "?" if line["replicas_lost"] is None else str(line["replicas_lost"]),
    "all, MB": lambda line: _memory(line, "all"),
    "replica, MB": lambda line: _memory(line, "replica"),
}


@dataclass(frozen=True)
class Outcome:
    """What an attack did."""

    attack: str
    answers: Answers
    """From its beginning until the service was well again, or was given up."""
    idle: Answers
    recovery_s: float | None
    """From the attack's end until all answers were good and quick again; None if that took too long."""
    is_well: bool
    """Nothing was left of the attack to work on."""
    num_replicas_lost: int | None
    """That had answered before; None where the service's processes were not looked at."""
    memory: tuple[Used, Used, Used] | None
    """Before, at most, and when it was well again."""
    attackers_counts: Mapping[str, int]
    attackers_examples: Mapping[str, str]
    """Of each status but 200, how one body begins."""

    @property
    def ratio(self) -> float:
        """Of the bystander's p99 to its idle one."""
        return self.answers.p99_s / self.idle.p99_s


def describe(outcome: Outcome) -> dict[str, Any]:
    """Everything about an attack, as its line of JSON has it."""
    answers, idle = outcome.answers, outcome.idle
    before, most, after = outcome.memory or (None, None, None)
    return {
        "attack": outcome.attack,
        "counts": dict(answers.counts),
        "p50_ms": round(1000 * answers.p50_s, 1),
        "p99_ms": round(1000 * answers.p99_s, 1),
        "max_ms": round(1000 * answers.max_s, 1),
        "idle_p50_ms": round(1000 * idle.p50_s, 1),
        "idle_p99_ms": round(1000 * idle.p99_s, 1),
        "ratio": round(outcome.ratio, 2),
        "silence_s": round(answers.silence_s, 2),
        "recovery_s": None if outcome.recovery_s is None else round(outcome.recovery_s, 1),
        "is_well": outcome.is_well,
        "replicas_lost": outcome.num_replicas_lost,
        "memory_mb": [_in_mb(before), _in_mb(most), _in_mb(after)],
        "attacker": dict(outcome.attackers_counts),
        "examples": dict(outcome.attackers_examples),
    }


def columns() -> list[str]:
    """Of the table."""
    return ["attack", *_COLUMNS]


def row_of(line: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[str]:
    """An attack's row; in brackets what another run had found."""
    cells = [cell(line) for cell in _COLUMNS.values()]
    if before is not None:
        cells = [f"{now} ({cell(before)})" for now, cell in zip(cells, _COLUMNS.values(), strict=True)]
    return [str(line["attack"]), *cells]


def checks_of(outcomes: Sequence[Outcome], max_bytes: float | None) -> dict[str, bool]:
    """What was promised, and whether it was kept in all attacks; what could not be seen is not told."""
    checks = {
        "the bystander got nothing but 200": all(o.answers.counts and not o.answers.num_wrong for o in outcomes),
        f"its p99 is at most {MAX_RATIO:g} times the idle one": all(o.ratio <= MAX_RATIO for o in outcomes),
        f"its p99 is never above {MAX_P99_S:g} s": all(o.answers.p99_s <= MAX_P99_S for o in outcomes),
        "the service got well again by itself": all(o.is_well for o in outcomes),
    }
    lost = [o.num_replicas_lost for o in outcomes if o.num_replicas_lost is not None]
    if lost:
        checks["no replica was restarted"] = not any(lost)
    peaks = [most.replica for o in outcomes if o.memory is not None for most in o.memory]
    if peaks and max_bytes is not None:
        checks[f"no replica took more than {max_bytes / 1e6:,.0f} MB"] = max(peaks) <= max_bytes
    return checks


def _in_mb(used: Used | None) -> dict[str, float] | None:
    return None if used is None else {name: round(size / 1e6, 1) for name, size in used._asdict().items()}


def _memory(line: Mapping[str, Any], of: str) -> str:
    """At most, and what was left."""
    _, most, after = line["memory_mb"]
    return "?" if most is None else f"{most[of]:,.0f}, {after[of]:,.0f}"


def _wrong(counts: Mapping[str, int]) -> str:
    wrong = {result: count for result, count in counts.items() if result != GOOD}
    return ", ".join(f"{count} x {result}" for result, count in wrong.items()) or "0"

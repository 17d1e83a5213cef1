"""What the benchmarks of the service share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common import emit, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

BENCHMARK = "serving"
NUM_PICTURES = 8
"""Different ones of each size."""
WARM_UP_S = 2.0


def stderr_console() -> Console:
    """For people: stdout belongs to the figures."""
    return Console(stderr=True, highlight=False)


def in_ms(seconds: float) -> str:
    """For a table."""
    return f"{1000 * seconds:.1f}"


def tell_checks(checks: Mapping[str, bool], *, title: str, benchmark: str = BENCHMARK) -> bool:
    """Tell which promises were kept; returns whether all were."""
    for name, is_kept in checks.items():
        emit(benchmark, name, float(is_kept), "bool")
    rows = [[name, "yes" if is_kept else "NO"] for name, is_kept in checks.items()]
    print_table(("promise", "kept"), rows, title=title, console=stderr_console())
    return all(checks.values())

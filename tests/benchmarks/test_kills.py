"""One kill of the benchmark that counts what deaths cost; it makes many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("on", ["local", "ray"])
def test_a_worker_that_dies_costs_at_most_two_units_done_again(on: str) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "-n", "8000", "--kills", "1", "--stores", "local"]
    done = subprocess.run(
        [*command, "--on", on, "--victims", "worker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [kill] = [json.loads(line) for line in done.stdout.splitlines()]
    assert kill["units_again"] <= 2
    assert (kill["rows_lost"], kill["rows_doubled"], kill["rows_mixed_up"], kill["problems"]) == (0, 0, 0, 0)
    assert 0 < kill["units_at_kill"] < kill["num_units"]

"""Kill the driver in the middle of a job, run the same command once more, and check every input.

Each time a new store: ``kill -9`` at a random moment while parts are being written, one rerun, ``imgcls store verify``,
and a count of this script's own: every input has one row, and no durable part was written again. What Ray leaves
running must end by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.common import (
    emit,
    imgcls,
    isolated_environment,
    keep_conversion,
    linked_images,
    list_images,
    print_table,
    read_parts,
    wait_for,
)
from benchmarks.processes import watched_job

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_JOB_S = 3600
# Ray's workers end within seconds of their driver, its agents after a minute; what runs on is told, and killed.
_MAX_LEFT_OVER_S = 90


class Kill(NamedTuple):
    """One killed job and what became of it."""

    killed_at_s: float
    """Seconds after the command's start."""
    rows_at_kill: int
    """Durable when the driver was dead."""
    workers_gone_s: float
    """How long workers ran on after the driver's death."""
    rows_later: int
    """Durable when they were gone: a worker finishes what it has in hand."""
    ray_gone_s: float
    """How long anything of Ray ran on; looked for again only after the rerun, so this is an upper bound."""
    forced: list[str]
    """Titles of the processes that had to be killed."""
    rows_by_rerun: int
    parts_rewritten: int
    """Durable before the rerun, and another file after it."""
    inputs_answered_once: int
    rerun_exit_code: int
    verify_exit_code: int

    def problems(self, num_images: int) -> list[str]:
        """What is not as promised, in words."""
        checks = {
            f"ran on for {self.ray_gone_s:.0f} s after the driver: {'; '.join(self.forced)}": not self.forced,
            f"{self.parts_rewritten} durable parts were written again": self.parts_rewritten == 0,
            f"the rerun labelled {self.rows_by_rerun:,} images, {num_images - self.rows_later:,} were missing": (
                self.rows_by_rerun == num_images - self.rows_later
            ),
            f"{self.inputs_answered_once:,} of {num_images:,} inputs have one row": (
                self.inputs_answered_once == num_images
            ),
            f"the rerun ended with exit code {self.rerun_exit_code}": self.rerun_exit_code == 0,
            f"verify ended with exit code {self.verify_exit_code}": self.verify_exit_code == 0,
        }
        return [problem for problem, holds in checks.items() if not holds]


def durable_rows(store: Path) -> int:
    return sum(part.num_rows for part in read_parts(store))


def part_files(store: Path) -> dict[str, tuple[int, int]]:
    """Name of every part, and what tells its file from another one of that name."""
    statuses = {path.name: path.stat() for path in (store / "predictions").glob("[0-9]*.parquet")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in statuses.items()}


def answered_once(store: Path, folder: Path) -> int:
    """How many files of the folder have exactly one row."""
    rows: dict[str, int] = {}
    for part in read_parts(store):
        for uri in pq.read_table(store / "predictions" / part.name, columns=["uri"]).column("uri").to_pylist():
            rows[uri] = rows.get(uri, 0) + 1
    return sum(rows.get(entry.path) == 1 for entry in os.scandir(folder.resolve()))


def kill_once(folder: Path, num_images: int, model: Path, store: Path, rng: random.Random) -> Kill:
    """One job, one kill, one rerun."""
    command = imgcls("predict", folder, "--model", model, "--output", store)
    with isolated_environment() as environment:
        keep_conversion(model, next(folder.iterdir()), environment)
        # By progress and then by time, so that the moment falls anywhere between two commits, on any machine.
        target, delay_s = rng.uniform(0.02, 0.85) * num_images, rng.uniform(0, 0.7)
        start = time.monotonic()
        with watched_job(command, environment, interval_s=0.25) as (job, watch):
            wait_for(_MAX_JOB_S, lambda: job.poll() is not None or durable_rows(store) >= target)
            time.sleep(delay_s)
            if job.poll() is not None:
                sys.exit(f"imgcls predict ended with exit code {job.returncode} before it was killed; give more images")
            watch.look()
            job.kill()
            job.wait()
            killed_at = time.monotonic()
            rows_at_kill = durable_rows(store)
            wait_for(_MAX_LEFT_OVER_S, lambda: not watch.is_working())
            workers_gone = time.monotonic()
            before, rows_later = part_files(store), durable_rows(store)
            # At once, as people do; Ray's agents may still be there.
            rerun = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
            verify = subprocess.run(imgcls("store", "verify", store), stdout=sys.stderr, check=False)
            wait_for(killed_at + _MAX_LEFT_OVER_S - time.monotonic(), lambda: not watch.left_over())
            ray_gone = time.monotonic()
            forced = watch.kill_left_over()
    after = part_files(store)
    return Kill(
        killed_at_s=round(killed_at - start, 2),
        rows_at_kill=rows_at_kill,
        workers_gone_s=round(workers_gone - killed_at, 2),
        rows_later=rows_later,
        ray_gone_s=round(ray_gone - killed_at, 2),
        forced=forced,
        rows_by_rerun=sum(part.num_rows for part in read_parts(store) if part.name not in before),
        parts_rewritten=sum(after.get(name) != file for name, file in before.items()),
        inputs_answered_once=answered_once(store, folder),
        rerun_exit_code=rerun.returncode,
        verify_exit_code=verify.returncode,
    )


def tell(kills: Sequence[Kill], num_images: int) -> None:
    columns = ("kill at", "rows", "workers gone", "rows", "missing", "by rerun", "rewritten", "once", "exit codes")
    rows = [
        (
            f"{kill.killed_at_s:.1f} s",
            f"{kill.rows_at_kill:,}",
            f"+{kill.workers_gone_s:.1f} s",
            f"{kill.rows_later:,}",
            f"{num_images - kill.rows_later:,}",
            f"{kill.rows_by_rerun:,}",
            f"{kill.parts_rewritten}",
            f"{kill.inputs_answered_once:,}",
            f"{kill.rerun_exit_code}, {kill.verify_exit_code}",
        )
        for kill in kills
    ]
    title = f"kill -9 of the driver, {num_images:,} images; exit codes of the rerun and of verify"
    print_table(columns, rows, title=title, console=Console(stderr=True, width=100))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("-n", "--count", type=int, default=5000, help="images per job [default: 5000]")
    parser.add_argument("--kills", type=int, default=5, help="[default: 5]")
    parser.add_argument("--seed", type=int, help="of the moments [default: other ones each time]")
    parser.add_argument("--work", type=Path, help="where links and stores are made for a while [default: the system's]")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    rng = random.Random(seed)
    kills = []
    with (
        linked_images(list_images(args.images), args.count, under=args.work) as folder,
        tempfile.TemporaryDirectory(prefix="imgcls-kills-", dir=args.work) as temporary,
    ):
        for number in range(args.kills):
            kill = kill_once(folder, args.count, args.model, Path(temporary, f"store-{number}"), rng)
            kills.append(kill)
            about = {"images": args.count, "seed": seed, **kill._asdict()}
            emit("kills", "problems", len(kill.problems(args.count)), "count", **about)
    tell(kills, args.count)
    problems = [f"kill {n}: {text}" for n, kill in enumerate(kills, start=1) for text in kill.problems(args.count)]
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()

"""Kill something in the middle of a job, run the same command once more if the job ended, and check every input.

What is killed, at random moments: the driver; one actor; the whole of Ray; one node of a cluster of two; or everything
that the driver has started is stopped (SIGSTOP) before the driver is killed, as on a machine that stands still, and
continued when the rerun is over, so that workers write late if they can.
The store is a folder or lies on a real S3 server. After each, ``imgcls store verify`` counts rows lost and doubled;
every row is compared with that of an undisturbed job; and the kernel's count of opened inputs tells which units were
done again.

An evaluation and a check outlive the death of an actor and of a node too (``--jobs``): their result is compared with
an undisturbed one's, row by row. They keep nothing of what they did, so the other victims have nothing to show there.

Images and network are small, because the moments are what matters: the job of 20,000 inputs takes half a minute.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from benchmarks.common import emit, imgcls, isolated_environment, keep_conversion, print_table, wait_for
from benchmarks.opens import OpenCounter
from benchmarks.processes import watched_job
from imgcls_ray.datasets.inspecting import ROWS_PER_BLOCK
from imgcls_ray.evaluate.classifying import rows_per_block
from imgcls_ray.storage import open_directory
from imgcls_ray.store.answers import newest_answers
from imgcls_ray.store.label_store import is_store, open_store
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.verify import verify_store
from tests.conftest import SMALL_CLASSES, make_small_model
from tests.jobs.cluster import OwnCluster
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.processes import ProcessWatch
    from imgcls_ray.store.label_store import LabelStore

Job = Literal["predict", "evaluate", "check"]
Victim = Literal["driver", "actor", "ray", "node", "frozen"]
Place = Literal["local", "s3"]
_OUTLIVED: tuple[Victim, ...] = ("actor", "node")
_NUM_ACTORS = 2
_UNITS_IN_HAND = 2
_UNIT_SIZE = 256
_MAX_JOB_S = 600
# Ray's workers end within seconds of their driver, its agents after a minute; what runs on is killed.
_MAX_LEFT_OVER_S = 30
# Files are read in groups of so many; the few that a report shows are read again for that.
_MIN_READ_AGAIN = 8


class Kill(NamedTuple):
    """One disturbed job and what became of it."""

    job: Job
    victim: Victim
    place: Place
    units_at_kill: int
    num_units: int
    exit_code: int
    """Of the disturbed command: 0 where it outlived the death."""
    rerun_exit_code: int | None
    rows_lost: int
    rows_doubled: int
    rows_mixed_up: int
    """Rows that differ from those of an undisturbed job."""
    problems: int
    """Of ``imgcls store verify``."""
    units_again: int
    """Units of which an input was opened more than once."""

    @property
    def most_units_again(self) -> int:
        """As promised: two units in hand of each actor that died."""
        return _UNITS_IN_HAND * (1 if self.victim in _OUTLIVED else _NUM_ACTORS)

    @property
    def is_as_promised(self) -> bool:
        return (
            (self.exit_code == 0 if self.victim in _OUTLIVED else self.rerun_exit_code == 0)
            and not (self.rows_lost or self.rows_doubled or self.rows_mixed_up or self.problems)
            and self.units_again <= self.most_units_again
        )


Row = tuple[Any, ...]


@dataclass
class Bench:
    """What all jobs have in common."""

    data: Path
    """A labelled dataset, with its pictures in ``images``."""
    model: Path
    environment: dict[str, str]
    expected: dict[Job, dict[str, Row]]
    """Row of every input in an undisturbed job."""
    rng: random.Random
    cluster: OwnCluster | None = None
    """For the nodes to be killed; started with the first."""

    @property
    def images(self) -> Path:
        return self.data / "images"

    def command(self, job: Job, output: str) -> list[str]:
        if job == "predict":
            words: tuple[str | Path, ...] = (self.images, "--model", self.model, "-s", f"unit_size={_UNIT_SIZE}")
        elif job == "evaluate":
            words = (self.data, "--model", self.model, "-s", "num_mistakes=0")
        else:
            # So each picture is a finding, and one that was lost or looked at twice shows; and none is read again to be
            # compared with its likes.
            words = (self.data, "-s", "tiny_below=100", "-s", "max_findings=10000000", "-s", "near_duplicate_bits=0")
        return imgcls(job, *words, "--output", output, "--num-workers", str(_NUM_ACTORS))


def draw_small_images(folder: Path, count: int) -> None:
    """Distinct pictures of about a kilobyte."""
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((80, 64), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=80)
        (folder / f"{i:06d}.jpg").write_bytes(buffer.getvalue())


def list_images(data: Path) -> None:
    """Make a dataset of pictures: a hundredth to train with, the others to evaluate on."""
    lines = [f"images/{path.name} {i % 7}\n" for i, path in enumerate(sorted((data / "images").iterdir()))]
    num_train = len(lines) // 100
    (data / "train.txt").write_text("".join(lines[:num_train]))
    (data / "val.txt").write_text("".join(lines[num_train:]))
    (data / "label.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(SMALL_CLASSES)))


def rows_of(store: LabelStore) -> dict[str, Row]:
    """Newest row of every input: label and scores."""
    return {
        uri: (label, tuple(scores or ()))
        for table in latest_rows(store)
        for uri, label, scores in zip(
            *(table.column(name).to_pylist() for name in ("uri", "label", "scores")), strict=True
        )
    }


def read_rows(job: Job, output: str) -> list[tuple[str, Row]]:
    """What a job found out about each input, in its own order."""
    if job == "predict":
        return list(rows_of(open_store(open_directory(output))).items())
    if job == "evaluate":
        rows = pq.read_table(Path(output, "evaluate", "predictions.parquet")).to_pylist()
        return [(row["uri"], (row["predicted"], tuple(row["scores"] or ()))) for row in rows]
    rows = pq.read_table(Path(output, "check_dataset", "findings.parquet")).to_pylist()
    return [(row["uri"], (row["line"], row["detail"])) for row in rows if row["code"] == "tiny"]


class Progress(Protocol):
    """Looks at what a job has done so far."""

    def num_done(self) -> int: ...

    def units(self) -> list[list[str]]:
        """Names of the files of each unit or block; none as long as they are not known."""


class StoreProgress:
    """Of a job that fills a store."""

    def __init__(self, uri: str) -> None:
        self._directory = open_directory(uri)
        self._units: list[list[str]] = []

    def num_done(self) -> int:
        return sum(1 for _ in self._directory.entries("predictions", starts_with="0001-")) if self.units() else 0

    def units(self) -> list[list[str]]:
        if not self._units and is_store(self._directory):
            store = open_store(self._directory)
            if store.planned_runs() == [1]:
                uris = (store.read_unit(unit).column("uri").to_pylist() for unit in store.units(1))
                self._units = [[os.path.basename(uri) for uri in of_unit] for of_unit in uris]
        return self._units


class ReadProgress:
    """Of a job that keeps nothing before its end: by what it has read."""

    def __init__(self, job: Job, bench: Bench, opens: OpenCounter) -> None:
        self._opens = opens
        lists = ["train.txt", "val.txt"] if job == "check" else ["val.txt"]
        lines = [line for name in lists for line in (bench.data / name).read_text().splitlines()]
        names = [os.path.basename(line.split()[0]) for line in lines]
        shape = {"num_workers": _NUM_ACTORS, "batch_size": 32, "crop_size": 64}
        size = ROWS_PER_BLOCK if job == "check" else rows_per_block(len(names), **shape)
        self._blocks = [names[start : start + size] for start in range(0, len(names), size)]

    def num_done(self) -> int:
        return sum(all(self._opens.counts[name] for name in block) for block in self._blocks)

    def units(self) -> list[list[str]]:
        return self._blocks


def kill_once(bench: Bench, job: Job, victim: Victim, place: Place, uri: str) -> Kill:
    """One job, one kill, one rerun where the job ended."""
    environment, kill_node = bench.environment, None
    if victim == "node":
        bench.cluster = bench.cluster or OwnCluster()
        node = bench.cluster.add_node()
        kill_node = bench.cluster.kill_node
        environment = {**environment, "RAY_ADDRESS": bench.cluster.address}
    # By progress and then by time, so that the moment falls anywhere between two commits, on any machine.
    share, delay_s = bench.rng.uniform(0.02, 0.8), bench.rng.uniform(0, 0.5)
    rerun_exit_code = None
    command = bench.command(job, uri)
    with (
        OpenCounter(bench.images) as opens,
        watched_job(command, environment, interval_s=0.5) as (process, watch),
    ):
        progress: Progress = StoreProgress(uri) if job == "predict" else ReadProgress(job, bench, opens)

        def is_at_share() -> bool:
            return bool(progress.num_done() >= share * len(progress.units()) > 0)

        wait_for(_MAX_JOB_S, lambda: process.poll() is not None or is_at_share(), every_s=0.1)
        time.sleep(delay_s)
        if process.poll() is not None:
            sys.exit(f"imgcls {job} ended with exit code {process.returncode} before the kill; give more images")
        watch.look()
        units_at_kill = progress.num_done()
        frozen: list[psutil.Process] = []
        if kill_node is not None:
            kill_node(node)
        elif victim == "actor":
            bench.rng.choice(_workers(watch)).kill()
        elif victim == "ray":
            _signal(_ray_processes(watch), signal.SIGKILL)
        else:
            if victim == "frozen":
                frozen = _ray_processes(watch)
                _signal(frozen, signal.SIGSTOP)
            process.kill()
        exit_code = process.wait(_MAX_JOB_S)
        if exit_code:
            if not frozen:
                wait_for(_MAX_LEFT_OVER_S, lambda: not watch.is_working())
            rerun = subprocess.run(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
            rerun_exit_code = rerun.returncode
        if frozen:
            _signal(frozen, signal.SIGCONT)
            wait_for(_MAX_LEFT_OVER_S, lambda: not watch.is_working())
    found, expected = read_rows(job, uri), bench.expected[job]
    rows = dict(found)
    num_missing, num_doubled, problems = len(expected.keys() - rows.keys()), len(found) - len(rows), 0
    if job == "predict":
        store = open_store(open_directory(uri))
        verified = verify_store(store)
        num_missing += verified.num_missing
        num_doubled += verified.num_doubled + sum(1 for _ in newest_answers(store)) - len(rows)
        problems = verified.num_problems
    # Units of a store are read for nothing else; of a dataset's blocks some pictures are, for the report.
    few = 1 if job == "predict" else _MIN_READ_AGAIN
    return Kill(
        job=job,
        victim=victim,
        place=place,
        units_at_kill=units_at_kill,
        num_units=len(progress.units()),
        exit_code=exit_code,
        rerun_exit_code=rerun_exit_code,
        rows_lost=num_missing,
        rows_doubled=num_doubled,
        rows_mixed_up=sum(expected.get(name) != row for name, row in rows.items()),
        problems=problems,
        units_again=sum(sum(opens.counts[name] > 1 for name in unit) >= few for unit in progress.units()),
    )


def _workers(watch: ProcessWatch) -> list[psutil.Process]:
    return [watched.process for watched in watch.of_kind("worker") if watched.process in watch.left_over()]


def _ray_processes(watch: ProcessWatch) -> list[psutil.Process]:
    """What the driver has started: its workers, and the rest of its Ray."""
    return [watched.process for watched in watch.of_kind("worker") + watch.of_kind("other")]


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def tell(kills: Sequence[Kill]) -> None:
    columns = (
        *("job", "killed", "store", "kills", "at unit", "exit codes", "reruns", "lost", "doubled", "mixed up"),
        *("units again", "promised"),
    )
    rows = []
    for job, victim, place in itertools.product(get_args(Job), get_args(Victim), get_args(Place)):
        some = [kill for kill in kills if (kill.job, kill.victim, kill.place) == (job, victim, place)]
        if not some:
            continue
        rows.append(
            (
                job,
                victim,
                place,
                f"{len(some)}",
                f"{min(k.units_at_kill for k in some)}-{max(k.units_at_kill for k in some)} of {some[0].num_units}",
                ", ".join(sorted({str(k.exit_code) for k in some})),
                ", ".join(sorted({str(k.rerun_exit_code) for k in some if k.rerun_exit_code is not None})) or "-",
                f"{sum(k.rows_lost for k in some)}",
                f"{sum(k.rows_doubled for k in some)}",
                f"{sum(k.rows_mixed_up for k in some)}",
                f"{max(k.units_again for k in some)}",
                f"{sum(k.is_as_promised for k in some)} of {len(some)}",
            )
        )
    print_table(columns, rows, title="kills", console=Console(stderr=True, width=130))


@contextmanager
def _place(place: Place, temporary: str) -> Iterator[str]:
    """A folder or bucket for stores; how to reach the bucket is in the environment of this process."""
    if place == "local":
        yield temporary
        return
    with s3_server(Path(temporary, "s3")) as server:
        os.environ |= {
            "AWS_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        server.client().create_bucket(Bucket="kills")
        yield "s3://kills"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", "--count", type=int, default=20_000, help="images per job [default: 20000]")
    parser.add_argument("--kills", type=int, default=10, help="of each victim and store [default: 10]")
    parser.add_argument("--jobs", nargs="+", choices=get_args(Job), default=["predict"], help="[default: predict]")
    parser.add_argument("--victims", nargs="+", choices=get_args(Victim), default=get_args(Victim))
    parser.add_argument("--stores", nargs="+", choices=get_args(Place), default=get_args(Place))
    parser.add_argument("--seed", type=int, help="of the moments [default: other ones each time]")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    kills: list[Kill] = []
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ik-", ignore_cleanup_errors=True))
        # Before the environment of the jobs is made: it is a copy of this process's.
        places = {place: stack.enter_context(_place(place, temporary)) for place in args.stores}
        environment = stack.enter_context(isolated_environment())
        environment["RAY_AUTH_MODE"] = os.environ["RAY_AUTH_MODE"] = "disabled"
        data, model = Path(temporary, "data"), Path(temporary, "model")
        data.mkdir()
        draw_small_images(data / "images", args.count)
        list_images(data)
        make_small_model(model, seed=0)
        bench = Bench(data, model, environment, {}, random.Random(seed))
        keep_conversion(model, next(bench.images.iterdir()), environment)
        for job, victim, place in itertools.product(args.jobs, args.victims, places):
            if job != "predict" and (victim not in _OUTLIVED or place != "local"):
                continue
            if job not in bench.expected:
                undisturbed = f"{temporary}/undisturbed-{job}"
                command = bench.command(job, undisturbed)
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                bench.expected[job] = dict(read_rows(job, undisturbed))
            for number in range(args.kills):
                kill = kill_once(bench, job, victim, place, f"{places[place]}/{job}-{victim}-{number}")
                kills.append(kill)
                about = {**kill._asdict(), "images": args.count, "seed": seed}
                emit("kills", "as_promised", kill.is_as_promised, "bool", **about)
        if bench.cluster is not None:
            bench.cluster.shutdown()
    tell(kills)
    sys.exit(0 if all(kill.is_as_promised for kill in kills) else 1)


if __name__ == "__main__":
    # Here, because Ray's processes of the cluster must not be taken for those of a job.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

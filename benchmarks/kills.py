"""Kill something in the middle of a job, run the same command once more if the job ended, and check every input.

What is killed, at random moments: the driver; one worker; everything that the driver has started, such as the whole of
its Ray; both; one node of a cluster of two; or everything that the driver has started is stopped (SIGSTOP) before the
driver is killed, as on a machine that stands still, and continued when the rerun is over, so that workers write late if
they can. Workers are processes of this machine, or actors on Ray.
The store is a folder or lies on a real S3 server. After each, ``imgcls store verify`` counts rows lost and doubled;
every row is compared with that of an undisturbed job; and the kernel's count of opened inputs tells which units were
done again.

An evaluation and a check outlive the death of a worker and of a node too (``--jobs``): their result is compared with
an undisturbed one's, row by row. They keep nothing of what they did, so the other victims have nothing to show there.

Images and network are small, because the moments are what matters: the job of 20,000 inputs takes half a minute.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from benchmarks.common import emit, isolated_environment, keep_conversion, print_table
from benchmarks.kills_jobs import Bench, Job, On, draw_small_images, list_images, read_rows
from benchmarks.kills_once import Kill, Place, Victim, is_outlived, kill_once
from tests.conftest import make_small_model
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def tell(kills: Sequence[Kill]) -> None:
    columns = (
        *("job", "on", "killed", "store", "kills", "at unit", "exit codes", "reruns", "lost", "doubled", "mixed up"),
        *("units again", "promised"),
    )
    rows = []
    every = (get_args(Job), get_args(On), get_args(Victim), get_args(Place))
    for job, on, victim, place in itertools.product(*every):
        some = [kill for kill in kills if (kill.job, kill.on, kill.victim, kill.place) == (job, on, victim, place)]
        if not some:
            continue
        rows.append(
            (
                job,
                on,
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
    parser.add_argument("--on", nargs="+", choices=get_args(On), default=get_args(On), help="[default: both]")
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
        for job, on, victim, place in itertools.product(args.jobs, args.on, args.victims, places):
            if (on, victim) == ("local", "node"):
                continue
            if job != "predict" and (not is_outlived(on, victim) or place != "local"):
                continue
            if job not in bench.expected:
                undisturbed = f"{temporary}/undisturbed-{job}"
                command = bench.command(job, undisturbed, on)
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                bench.expected[job] = dict(read_rows(job, undisturbed))
            for number in range(args.kills):
                kill = kill_once(bench, job, on, victim, place, f"{places[place]}/{job}-{on}-{victim}-{number}")
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

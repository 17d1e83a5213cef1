"""What does each network of the zoo take in memory, and how is it laid out on a node of many cores?

    python -m benchmarks.zoo_memory                # all networks, random weights; an hour on two cores
    python -m benchmarks.zoo_memory NAME ...       # these
    python -m benchmarks.zoo_memory --run NAME ... # also run a batch, and compare what is taken then

Each network is loaded in a process of its own, as a worker loads it. ``--keep`` names a folder for model folders and
converted networks, which the next run reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common import emit, print_table
from imgcls_ray.models.engines.memory import NetworkMemory
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.workers.sizing import LOCAL_BYTES, Room, WorkerMemory, choose_cores, num_fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.engines.engine import Precision

_NODE_CORES, _NODE_GIB = 16, 32.0
# What the system, the command and files being read need of a node's memory.
_SYSTEM_BYTES = 2 * 2**30
_GB = 1e9


def _measure(name: str, place: Path, batch_size: int, precision: Precision, *, run: bool) -> None:
    """In a process of its own: print what the network takes."""
    import numpy as np

    from imgcls_ray.models.engines.load import load_engine, prepare_engine
    from imgcls_ray.models.engines.memory import measure_memory
    from imgcls_ray.models.folder import open_model_folder
    from imgcls_ray.models.new import new_model_folder

    path = place / name
    # Conversion needs more than the network: a process of its own gives that back.
    if (pid := os.fork()) == 0:
        folder = open_model_folder(path) if path.exists() else new_model_folder(name, path, random_seed=0)
        prepare_engine(folder, "auto", "cpu", embedding=False)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{name}: was not converted")
    folder = open_model_folder(path)
    memory = measure_memory(folder, engine="auto", precision=precision, batch_size=batch_size, embedding=False)
    if memory is None:
        sys.exit("this system does not tell a process its memory")
    figures = {**memory._asdict(), "weights": folder.num_bytes, "size": folder.spec.preprocess.crop_size}
    if run:
        before = _anonymous_bytes()
        network = load_engine(folder, precision=precision, batch_size=batch_size, num_threads=1)
        size = folder.spec.preprocess.crop_size
        network(np.zeros((batch_size, size, size, 3), np.uint8))
        figures["taken"] = _anonymous_bytes() - before
    print(json.dumps(figures))


def _anonymous_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def _ask(name: str, place: Path, batch_size: int, precision: Precision, *, run: bool) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.zoo_memory", name, "--keep", str(place), "--one"]
    command += ["--batch-size", str(batch_size), "--precision", precision, *(["--run"] if run else [])]
    environment = {**os.environ, "IMGCLS_CACHE": f"{place}/cache"}
    told = subprocess.check_output(command, env=environment, text=True)
    figures: dict[str, int] = json.loads(told.splitlines()[-1])
    return figures


def _row(name: str, figures: dict[str, int], room: Room) -> tuple[str, ...]:
    memory = WorkerMemory(NetworkMemory(figures["once"], figures["per_core"]), LOCAL_BYTES)
    # The file of the network is mapped by all workers, and in memory once.
    room = room._replace(num_bytes=room.num_bytes - figures["weights"])
    cores = choose_cores([room], memory)
    num_workers = num_fitting([room], memory, cores)
    one, total = memory.of(1), num_workers * memory.of(cores)
    about = {"model": name, "cores_per_worker": cores, "workers": num_workers}
    emit("zoo_memory", "total", total / _GB, "GB", of_one_core=one, **about, **figures)
    return (
        name,
        str(figures["size"]),
        f"{figures['weights'] / _GB:.2f}",
        f"{one / _GB:.2f}",
        f"{room.num_cores * one / _GB:.1f}",
        f"{num_workers} x {cores}",
        f"{total / _GB:.1f}",
    )


def measure(names: Sequence[str], place: Path, batch_size: int, precision: Precision, room: Room, *, run: bool) -> None:
    rows = []
    for name in names:
        try:
            rows.append(_row(name, _ask(name, place, batch_size, precision, run=run), room))
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}", file=sys.stderr)
    print_table(
        ("network", "pixels", "weights", "1 worker of 1 core", f"{room.num_cores} of these", "workers", "all"),
        rows,
        title=f"GB, {precision}, batches of {batch_size}, {room.num_cores} cores, {room.num_bytes / _GB:.1f} GB",
        console=Console(stderr=True, width=110),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo_memory", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks [default: all of the zoo, largest first]")
    parser.add_argument("--cores", type=int, default=_NODE_CORES, help=f"of the node [default: {_NODE_CORES}]")
    parser.add_argument("--gib", type=float, default=_NODE_GIB, help=f"memory of the node [default: {_NODE_GIB:g}]")
    parser.add_argument("--batch-size", type=int, default=32, help="[default: 32]")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="[default: auto]")
    parser.add_argument("--keep", type=Path, help="folder for model folders and conversions [default: a temporary one]")
    parser.add_argument("--run", action="store_true", help="also run a batch: up to half a minute each")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.names) - set(ZOO):
        sys.exit(f"{', '.join(sorted(unknown))}: not in the zoo; `imgcls models` lists it")
    if args.one:
        _measure(args.names[0], args.keep, args.batch_size, args.precision, run=args.run)
        return
    names = args.names or sorted(ZOO, key=lambda name: -(ZOO[name].num_parameters or 0))
    room = Room(args.cores, int(args.gib * 2**30) - _SYSTEM_BYTES)
    with tempfile.TemporaryDirectory(prefix="imgcls-zoo-") as temporary:
        measure(names, args.keep or Path(temporary), args.batch_size, args.precision, room, run=args.run)


if __name__ == "__main__":
    main()

"""Workers of one core beside one worker that shares its network among all cores: images/s, in turns.

    python -m benchmarks.cores IMAGES PP-LCNet_x1_0:4000 ResNet50:1600 ConvNeXt_large_224:256

``imgcls predict`` on this machine, with random weights: as many workers as cores, and one worker of all of them. Each
network labels as many images as stand behind its name, which are links to those of the folder. Two jobs that follow one
another make a pair, and pairs begin with either in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common import (
    available_cores,
    emit,
    imgcls,
    isolated_environment,
    keep_conversion,
    linked_images,
    list_images,
    print_table,
    read_once,
    read_parts,
    steady_rate,
)
from imgcls_ray.models.new import new_model_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT_SIZE = 32
"""Of a worker, for each of its cores. A batch: so that all have something to do until the end."""


def _rate(model: Path, images: Path, cores_per_worker: int, environment: Mapping[str, str]) -> float:
    num_workers = available_cores() // cores_per_worker
    with tempfile.TemporaryDirectory(prefix="imgcls-cores-") as place:
        command = imgcls("predict", images, "--model", model, "--output", f"{place}/store", "--on", "local")
        options = {
            "num_workers": num_workers,
            "cores_per_worker": cores_per_worker,
            "unit_size": _UNIT_SIZE * cores_per_worker,
        }
        command += [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        return steady_rate(read_parts(Path(place, "store")))


def measure(name: str, count: int, images: list[Path], num_pairs: int) -> tuple[str, ...]:
    """One row of the table."""
    with (
        isolated_environment() as environment,
        tempfile.TemporaryDirectory(prefix="imgcls-cores-") as place,
        linked_images(images, count) as links,
    ):
        model = Path(place, "model")
        new_model_folder(name, model, random_seed=0)
        keep_conversion(model, images[0], environment)
        pairs = []
        for pair in range(num_pairs):
            order = (1, available_cores()) if pair % 2 == 0 else (available_cores(), 1)
            rates = {cores: _rate(model, links, cores, environment) for cores in order}
            pairs.append((rates[1], rates[available_cores()]))
    ratios = [shared / alone for alone, shared in pairs]
    alone, shared = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    about = {"model": name, "images": count, "cores": available_cores(), "ratios": [round(one, 3) for one in ratios]}
    emit("cores", "shared to alone", statistics.median(ratios), "ratio", alone=alone, shared=shared, **about)
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    return (name, str(count), f"{alone:.1f}", f"{shared:.1f}", spread)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of JPEG files")
    parser.add_argument("networks", nargs="+", metavar="NAME:COUNT", help="network of the zoo, and images to label")
    parser.add_argument("--pairs", type=int, default=4, help="of jobs, for each network [default: 4]")
    arguments = parser.parse_args()
    if available_cores() < 2:
        sys.exit("this process may use one core only; nothing can be shared")
    images = list_images(arguments.images)
    read_once(images)
    rows = []
    for network in arguments.networks:
        name, _, count = network.partition(":")
        rows.append(measure(name, int(count), images, arguments.pairs))
    cores = available_cores()
    columns = ("network", "images", f"{cores} workers of 1 core", f"1 worker of {cores} cores", "ratio (range)")
    print_table(columns, rows, title="images/s", console=Console(stderr=True, width=110))


if __name__ == "__main__":
    main()

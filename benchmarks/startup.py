"""How long a person waits: ``imgcls --help``, one image, and some hundred images until the first and the last row.

With ``--before`` another checkout does the same in turns, and the ratios of neighbouring runs are printed: machines
drift. Cold is a machine that has never seen the model.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.common import emit, imgcls, isolated_environment, keep_conversion, linked_images, list_images

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOK_EVERY_S = 0.01


class Tree(NamedTuple):
    """A version of the code, with an environment of its own."""

    name: str
    environment: dict[str, str]


def seconds_of(command: Sequence[str], environment: dict[str, str]) -> float:
    """From the start of a command to its exit."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def seconds_of_job(images: Path, model: Path, tree: Tree, *, is_cold: bool) -> tuple[float, float]:
    """From the start of a job to its first durable row, and to its exit."""
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        store = Path(folder) / "store"
        if is_cold:
            shutil.rmtree(tree.environment["IMGCLS_CACHE"], ignore_errors=True)
        start = time.perf_counter()
        job = subprocess.Popen(
            imgcls("predict", images, "--model", model, "--output", store),
            env=tree.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        first = None
        while job.poll() is None:
            if first is None and any(store.glob("predictions/[0-9]*.parquet")):
                first = time.perf_counter() - start
            time.sleep(_LOOK_EVERY_S)
        end = time.perf_counter() - start
        if job.returncode:
            raise subprocess.CalledProcessError(job.returncode, job.args)
        return first or end, end


def compare(figure: str, trees: Sequence[Tree], measure: Callable[[Tree], tuple[float, ...]], repeat: int) -> None:
    """Measure every tree in turns; print medians, and the median ratio of neighbours to the last tree."""
    rounds = [[measure(tree) for tree in trees] for _ in range(repeat)]
    names = ("",) if len(rounds[0][0]) == 1 else (" first row", " exit")
    for number, name in enumerate(names):
        for place, tree in enumerate(trees):
            seconds = statistics.median(turn[place][number] for turn in rounds)
            emit("startup", f"{figure}{name}", seconds, "s", tree=tree.name, runs=repeat)
        if len(trees) > 1:
            ratio = statistics.median(turn[0][number] / turn[-1][number] for turn in rounds)
            emit("startup", f"{figure}{name} ratio", ratio, "x", runs=repeat)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files; the first one is labelled")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--number", type=int, default=200, help="images of the job [default: 200]")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another version of the code, to compare with")
    parser.add_argument("--repeat", type=int, default=5, help="[default: 5]")
    args = parser.parse_args()
    images = list_images(args.images)
    one = imgcls("predict", images[0], "--model", args.model)
    with (
        isolated_environment() as ours,
        isolated_environment() as before,
        linked_images(images, args.number) as folder,
    ):
        trees = [Tree("ours", ours)]
        if args.before is not None:
            trees.append(Tree("before", {**before, "PYTHONPATH": str(args.before.resolve())}))
        for tree in trees:
            keep_conversion(args.model, images[0], tree.environment)
        compare("help", trees, lambda tree: (seconds_of(imgcls("--help"), tree.environment),), args.repeat)
        compare("one image", trees, lambda tree: (seconds_of(one, tree.environment),), args.repeat)
        for kind, is_cold in (("warm", False), ("cold", True)):
            compare(
                f"{args.number} images, {kind}",
                trees,
                lambda tree, is_cold=is_cold: seconds_of_job(folder, args.model, tree, is_cold=is_cold),  # type: ignore[misc]
                args.repeat,
            )


if __name__ == "__main__":
    main()

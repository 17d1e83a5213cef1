"""How long a person waits: ``imgcls --help`` and ``imgcls predict one.jpg``.

Medians after one warm-up run, which reads the libraries into the page cache and keeps the converted network.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.common import emit, imgcls, isolated_environment, list_images


def median_seconds(command: list[str], environment: dict[str, str], *, repeat: int) -> float:
    """Median of ``repeat`` runs, after one that does not count."""
    seconds = []
    for _ in range(1 + repeat):
        start = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files; the first one is labelled")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--repeat", type=int, default=5, help="[default: 5]")
    args = parser.parse_args()
    one = imgcls("predict", list_images(args.images)[0], "--model", args.model)
    with isolated_environment() as environment:
        for figure, command in (("help", imgcls("--help")), ("predict_one", one)):
            seconds = median_seconds(command, environment, repeat=args.repeat)
            emit("startup", figure, seconds, "s", runs=args.repeat)


if __name__ == "__main__":
    main()

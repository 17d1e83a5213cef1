"""``imgcls train`` beside a plain torch loop: accuracy and rate of the same recipe, and of two workers.

    python -m benchmarks.training DATASET                # three seeds each: the plain loop, one worker, two workers

PP-LCNet_x1_0 from random weights at 96 pixels. DATASET has PaddleX's train.txt, val.txt and label.txt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.common import emit, imgcls, print_table

SIZE = 96
RECIPE = {"batch_size": 16, "learning_rate": 0.05, "crop_scale": 0.5, "ema_decay": 0.998}
"""What docs/train.md recommends for some thousands of images."""


class Run(NamedTuple):
    """One training."""

    best: float
    """Val top-1 of the best epoch."""
    images_per_s: float
    """Median over the epochs after the first: those of training, without evaluation."""


def run_plain(data: Path, epochs: int, seed: int) -> Run:
    command = [sys.executable, "-m", "benchmarks.plain_training", str(data), "--epochs", str(epochs)]
    recipe = [word for key, value in RECIPE.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    options = ["--size", str(SIZE), "--seed", str(seed)]
    done = subprocess.run([*command, *recipe, *options], capture_output=True, text=True, check=True)
    best, rate = (json.loads(line)["value"] for line in done.stdout.splitlines())
    return Run(best, rate)


def run_ours(data: Path, epochs: int, seed: int, num_workers: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
        output = Path(folder, "run")
        settings = {**RECIPE, "seed": seed, "num_workers": num_workers}
        command = [*imgcls(), "train", "--data", data, "--model", "PP-LCNet_x1_0", "--scratch", "--image-size", SIZE]
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        subprocess.run(
            [*map(str, command), "--epochs", str(epochs), "--output", str(output), *options],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        result = json.loads((output / "train_result.json").read_text())
    rates = [row["images_per_s"] for row in result["history"][1:]]
    return Run(result["best"]["metrics"]["val.top1"], statistics.median(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip", choices=("plain", "one", "two"), action="append", default=[])
    arguments = parser.parse_args()
    console = Console(stderr=True)
    runs: dict[str, list[Run]] = {}
    # In turn, because machines drift.
    for seed in range(arguments.seeds):
        for name in ("plain", "one", "two"):
            if name in arguments.skip:
                continue
            if name == "plain":
                run = run_plain(arguments.data, arguments.epochs, seed)
            else:
                run = run_ours(arguments.data, arguments.epochs, seed, num_workers=1 if name == "one" else 2)
            runs.setdefault(name, []).append(run)
            emit("training", f"{name}: best val top-1", run.best, "share", seed=seed)
            emit("training", f"{name}: images per second, steady", run.images_per_s, "1/s", seed=seed)
    rows = [
        [
            name,
            ", ".join(f"{run.best:.2%}" for run in ran),
            f"{statistics.mean(run.best for run in ran):.2%}",
            f"{statistics.median(run.images_per_s for run in ran):.1f}",
        ]
        for name, ran in runs.items()
    ]
    print_table(("run", "best val top-1", "mean", "images/s"), rows, title="PP-LCNet_x1_0", console=console)


if __name__ == "__main__":
    main()

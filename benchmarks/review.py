"""Accuracy after reviewing images that the queue chose, beside as many random ones.

    python -m benchmarks.review DATASET

DATASET has PaddleX's train.txt, val.txt and label.txt. For each seed, a network is trained from random weights on some
of the training images, and labels the others. Of these, the queue of ``imgcls review`` and a random draw each choose
images, which get their true labels and are added to the dataset with ``imgcls review --apply``. Both datasets, and one
with the first images alone, are trained on in the same way; the figure is top-1 on val after the last epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common import emit, imgcls, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL, SIZE, EPOCHS = "PP-LCNet_x0_25", 48, 24
RECIPE = {"batch_size": 16, "learning_rate": 0.05, "crop_scale": 0.7, "device": "cpu"}


def run(*arguments: object) -> None:
    subprocess.run(imgcls(*map(str, arguments)), capture_output=True, check=True)


def train(data: Path, seed: int, output: Path) -> float:
    """Top-1 on val after the last epoch."""
    settings = [word for key, value in {**RECIPE, "seed": seed}.items() for word in ("-s", f"{key}={value}")]
    options = ["--model", MODEL, "--scratch", "--image-size", SIZE, "--epochs", EPOCHS, "--output", output]
    run("train", data, *options, *settings)
    history = json.loads((output / "train_result.json").read_text())["history"]
    return float(history[-1]["val.top1"])


def write_dataset(folder: Path, data: Path, paths: Sequence[str], labels: Mapping[str, int]) -> Path:
    """A dataset of some of the training images, with all images of val."""
    folder.mkdir()
    (folder / "label.txt").write_bytes((data / "label.txt").read_bytes())
    val = [line.rsplit(maxsplit=1) for line in (data / "val.txt").read_text().splitlines()]
    (folder / "val.txt").write_text("".join(f"{data / path} {label}\n" for path, label in val))
    (folder / "train.txt").write_text("".join(f"{path} {labels[path]}\n" for path in paths))
    return folder


def review(folder: Path, dataset: Path, chosen: Sequence[str], labels: Mapping[str, int], names: Sequence[str]) -> None:
    """Answer for some images what they are, and add the answers to a dataset."""
    answers = folder / f"{dataset.name}_answers.csv"
    with answers.open("w", newline="") as file:
        csv.writer(file).writerows([["uri", "label"], *([path, names[labels[path]]] for path in chosen)])
    run("review", "--apply", answers, "--dataset", dataset)


def one_seed(data: Path, seed: int, num_first: int, budget: int) -> dict[str, float]:
    lines = [line.rsplit(maxsplit=1) for line in (data / "train.txt").read_text().splitlines()]
    labels = {str(data / path): int(label) for path, label in lines}
    names = [line.split(maxsplit=1)[1] for line in (data / "label.txt").read_text().splitlines()]
    paths = sorted(labels)
    random.Random(seed).shuffle(paths)
    first, others = paths[:num_first], paths[num_first:]
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as place:
        folder = Path(place)
        datasets = {name: write_dataset(folder / name, data, first, labels) for name in ("first", "queue", "random")}
        found = {"first": train(datasets["first"], seed, folder / "run")}
        (folder / "others.txt").write_text("".join(f"{path}\n" for path in others))
        model = folder / "run" / "best_model"
        run("predict", folder / "others.txt", "--model", model, "--output", folder / "labels", "--embedding")
        run(
            "review",
            folder / "labels",
            "--budget",
            budget,
            "--dataset",
            datasets["queue"],
            "--output",
            folder / "queue",
        )
        with (folder / "queue" / "queue.csv").open(newline="") as file:
            chosen = {"queue": [row["uri"] for row in csv.DictReader(file)], "random": others[:budget]}
        for name, uris in chosen.items():
            review(folder, datasets[name], uris, labels, names)
            found[name] = train(datasets[name], seed, folder / f"run_{name}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--first", type=int, default=300, help="images that are trained on before")
    parser.add_argument("--budget", type=int, default=200, help="images that are reviewed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    data = options.dataset.resolve()
    found = []
    for seed in options.seeds:
        found.append(one_seed(data, seed, options.first, options.budget))
        for name, value in found[-1].items():
            emit("review", f"{name}: val top-1", value, "share", seed=seed)
    rows = [
        [name, ", ".join(f"{one[name]:.1%}" for one in found), f"{statistics.mean(one[name] for one in found):.2%}"]
        for name in found[0]
    ]
    title = f"{options.first} images, then {options.budget} reviewed"
    print_table(("trained on", "val top-1 of each seed", "mean"), rows, title=title, console=Console(stderr=True))


if __name__ == "__main__":
    main()

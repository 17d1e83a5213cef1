"""``imgcls train`` beside a plain torch loop: accuracy and rate of the same recipe, and of two workers.

    python -m benchmarks.training accuracy DATASET       # three seeds each: the plain loop, one worker, two workers
    python -m benchmarks.training rate DATASET           # images per second of short runs, in turn
    python -m benchmarks.training kills DATASET          # a worker and then the command killed, beside a quiet run
    python -m benchmarks.training start DATASET          # seconds from the command to the first step, and at its end
    python -m benchmarks.training labels DATASET MODEL   # evaluate, bulk labelling and the Python API, image by image

PP-LCNet_x1_0 from random weights at 96 pixels. DATASET has PaddleX's train.txt, val.txt and label.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.common import emit, imgcls, print_table
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.train.task import TITLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIZE = 96
RECIPE = {"batch_size": 16, "learning_rate": 0.05, "crop_scale": 0.7}
"""What docs/train.md recommends for some thousands of images."""


class Run(NamedTuple):
    """One training."""

    best: float
    """Val top-1 of the best epoch."""
    images_per_s: float
    """Median over the epochs after the first: those of training, without evaluation."""


def on(cores: Sequence[int]) -> list[str]:
    """What makes a command see these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def run_plain(data: Path, epochs: int, seed: int, cores: Sequence[int]) -> Run:
    command = [*on(cores), sys.executable, "-m", "benchmarks.plain_training", str(data), "--epochs", str(epochs)]
    recipe = [word for key, value in RECIPE.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    options = ["--size", str(SIZE), "--seed", str(seed)]
    done = subprocess.run([*command, *recipe, *options], capture_output=True, text=True, check=True)
    best, rate = (json.loads(line)["value"] for line in done.stdout.splitlines())
    return Run(best, rate)


def train_command(data: Path, epochs: int, output: Path, settings: Mapping[str, object]) -> list[str]:
    # On CPUs also where there is a GPU: as what it is compared with.
    command = [*imgcls(), "train", data, "--model", "PP-LCNet_x1_0", "--scratch", "--image-size", SIZE]
    command += ["-s", "device=cpu"]
    options = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    return [*map(str, command), "--epochs", str(epochs), "--output", str(output), *options]


def run_ours(data: Path, epochs: int, seed: int, num_workers: int, cores: Sequence[int]) -> Run:
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
        output = Path(folder, "run")
        settings = {**RECIPE, "seed": seed, "num_workers": num_workers}
        command = [*on(cores), *train_command(data, epochs, output, settings)]
        subprocess.run(command, capture_output=True, check=True)
        result = json.loads((output / "train_result.json").read_text())
    rates = [row["images_per_s"] for row in result["history"][1:]]
    return Run(result["best"]["metrics"]["val.top1"], statistics.median(rates))


def accuracy(data: Path, epochs: int, seeds: int) -> None:
    """The plain loop and one worker side by side, on half of the cores each; then two workers with the same batches."""
    cores = sorted(os.sched_getaffinity(0))
    halves = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    runs: dict[str, list[Run]] = {"plain": [], "one worker": [], "two workers": []}
    with ThreadPoolExecutor(2) as executor:
        for seed in range(seeds):
            plain = executor.submit(run_plain, data, epochs, seed, halves[0])
            one = executor.submit(run_ours, data, epochs, seed, 1, halves[1])
            for name, run in (("plain", plain.result()), ("one worker", one.result())):
                runs[name].append(run)
                emit("training", f"{name}: best val top-1", run.best, "share", seed=seed)
    for seed in range(seeds):
        runs["two workers"].append(run_ours(data, epochs, seed, 2, cores))
        emit("training", "two workers: best val top-1", runs["two workers"][-1].best, "share", seed=seed)
    rows = [
        [name, ", ".join(f"{run.best:.2%}" for run in ran), f"{statistics.mean(run.best for run in ran):.2%}"]
        for name, ran in runs.items()
    ]
    print_table(("run", "best val top-1", "mean"), rows, title=f"{epochs} epochs", console=Console(stderr=True))


def rate(data: Path, epochs: int, pairs: int) -> None:
    """Short runs in turn, because machines drift: pairs of them are compared."""
    cores = sorted(os.sched_getaffinity(0))
    ratios = []
    for seed in range(pairs):
        plain, ours = run_plain(data, epochs, seed, cores), run_ours(data, epochs, seed, 1, cores)
        ratios.append(ours.images_per_s / plain.images_per_s)
        emit("training", "plain: images per second, steady", plain.images_per_s, "1/s")
        emit("training", "ours: images per second, steady", ours.images_per_s, "1/s")
    emit("training", "ours beside plain, median of pairs", statistics.median(ratios), "", pairs=len(ratios))


def kills(data: Path, epochs: int) -> None:
    """Kill the worker after epoch 2, the command after epoch 4, run it again: is it the run that it would have been?"""
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
        outputs = {name: Path(folder, name) for name in ("quiet", "killed")}
        commands = {
            name: [*train_command(data, epochs, output, {**RECIPE, "save_seconds": 0})]
            for name, output in outputs.items()
        }
        subprocess.run(commands["quiet"], capture_output=True, check=True)
        with subprocess.Popen(commands["killed"], stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
            assert command.stderr is not None
            for line in command.stderr:
                if " epoch 2: " in line:
                    os.kill(_worker_pid(session=command.pid), signal.SIGKILL)
                if " epoch 4: " in line:
                    command.kill()
                    break
        subprocess.run(commands["killed"], capture_output=True, check=True)
        results = {name: json.loads((path / "train_result.json").read_text()) for name, path in outputs.items()}
        states = {name: (path / "latest" / "model.safetensors").read_bytes() for name, path in outputs.items()}
        log = (outputs["killed"] / "train.log").read_text()
    rows = [
        [str(quiet["epoch"]), *(f"{row[key]:.4f}" for key in ("train.loss", "val.top1") for row in (quiet, killed))]
        for quiet, killed in zip(results["quiet"]["history"], results["killed"]["history"], strict=True)
    ]
    columns = ("epoch", "train loss", "of the killed run", "val top-1", "of the killed run")
    print_table(columns, rows, title="never killed, and killed twice", console=Console(stderr=True))
    emit("training", "times that workers began", log.count(" steps each; "), "")
    emit("training", "weights are the same", float(states["quiet"] == states["killed"]), "")
    emit("training", "best epoch is the same", float(results["quiet"]["best"] == results["killed"]["best"]), "")


def _worker_pid(*, session: int) -> int:
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            is_worker = entry.name.isdigit() and (entry / "comm").read_text().strip() == TITLE
            if is_worker and os.getsid(int(entry.name)) == session:
                return int(entry.name)
    raise RuntimeError("no process of a training worker")


def start(data: Path, runs: int) -> None:
    """From the command to the first step, and from the last step to the command's end, of one epoch."""
    seconds: dict[str, list[float]] = {"command to first step": [], "last step to end": []}
    for seed in range(runs):
        with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
            settings = {**RECIPE, "seed": seed, "log_interval": 1}
            begin = time.time()
            subprocess.run([*train_command(data, 1, Path(folder), settings)], capture_output=True, check=True)
            end = time.time()
            lines = Path(folder, "train.log").read_text().splitlines()
        steps = [_time_of(line) for line in lines if " DEBUG epoch 1, step " in line]
        seconds["command to first step"].append(steps[0] - begin)
        seconds["last step to end"].append(end - steps[-1])
    for figure, values in seconds.items():
        emit("training", f"{figure}, median", statistics.median(values), "s", runs=runs)


def _time_of(line: str) -> float:
    """Seconds since the epoch of a line of ``train.log``."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def labels(data: Path, model: Path) -> None:
    """Label every val image on each path, and count again what the evaluation counted."""
    from imgcls_ray import create_model

    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder:
        evaluation, store, listed = Path(folder, "evaluation"), Path(folder, "store"), Path(folder, "val.csv")
        command = [*imgcls(), "evaluate", data, "--model", model, "--output", evaluation]
        subprocess.run([*map(str, command), "-s", "calibrate=false"], capture_output=True, check=True)
        metrics = json.loads((evaluation / "evaluate_result.json").read_text())["metrics"]
        rows = pq.read_table(evaluation / "evaluate" / "predictions.parquet").to_pylist()
        with (evaluation / "evaluate" / "confusion.csv").open(newline="") as file:
            confusion = [[int(cell) for cell in line[1:]] for line in list(csv.reader(file))[1:]]
        listed.write_text("uri\n" + "".join(f"{row['uri']}\n" for row in rows))
        subprocess.run([*imgcls(), "predict", listed, "-m", model, "-o", store], capture_output=True, check=True)
        newest = latest_rows(open_store(open_directory(str(store))))
        bulk = {row["uri"]: row["label"] for table in newest for row in table.to_pylist()}
    alone = [result.label for result in create_model(model).predict([row["uri"] for row in rows])]
    predicted = [row["predicted"] for row in rows]
    top1 = top5 = 0
    counted = np.zeros((len(confusion), len(confusion)), dtype=int)
    for row in rows:
        top1 += row["label"] == row["predicted"]
        top5 += row["label"] in row["labels"]
        counted[row["label_id"], row["predicted_id"]] += 1
    emit("training", "images", len(rows), "")
    emit("training", "same label in bulk", np.mean([bulk[r["uri"]] == r["predicted"] for r in rows]), "share")
    emit(
        "training", "same label from Python", np.mean([a == b for a, b in zip(alone, predicted, strict=True)]), "share"
    )
    exact = metrics["val.top1"] == top1 / len(rows) and metrics["val.top5"] == top5 / len(rows)
    emit("training", "top-1 and top-5 are those of a plain loop", float(exact), "")
    emit("training", "confusion is that of a plain loop", float(counted.tolist() == confusion), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "rate", "kills", "start", "labels"))
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL")
    parser.add_argument("--epochs", type=int, help="default: 24; 4 of rate, 6 of kills")
    parser.add_argument("--seeds", type=int, default=3, help="or pairs, of rate, or runs, of start")
    arguments = parser.parse_args()
    if arguments.what == "accuracy":
        accuracy(arguments.data, arguments.epochs or 24, arguments.seeds)
    elif arguments.what == "rate":
        rate(arguments.data, arguments.epochs or 4, arguments.seeds)
    elif arguments.what == "kills":
        kills(arguments.data, arguments.epochs or 6)
    elif arguments.what == "start":
        start(arguments.data, arguments.seeds)
    elif arguments.model is None:
        parser.error("labels needs a MODEL")
    else:
        labels(arguments.data, arguments.model)


if __name__ == "__main__":
    main()

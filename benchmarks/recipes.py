"""Compare the defaults of training on few images with the best of a search of recipes.

    python -m benchmarks.recipes FOLDER --signs SIGN_DIGITS

SIGN_DIGITS is a dataset of ten classes with PaddleX's lists. FOLDER gets the datasets that are made of it, the
pretrained model folders, and ``results.jsonl``, a line for each run. What is there already is not done again, so the
command can be stopped at any time, and ``--seconds`` stops it by itself. It prints a table of what there is.

- ``signs-300``, ``signs-all``, ``demo``: PP-LCNet_x0_25 at 64 pixels from random weights, on 300 and on all training
  images of SIGN_DIGITS, and on 600 pictures that ``imgcls demo`` draws.
- ``lcnet-full``, ``lcnet-probe``, ``vit-full``, ``vit-probe``: PP-LCNet_x1_0 and a tiny ViT, trained on the first five
  classes with the defaults, then trained on the other five.
- ``rates-*``: fine-tuning by AdamW with other learning rates than the default.

A search is 16 recipes drawn at random from ``SPACE``. Its best recipe and the default are then run with all seeds. All
of them see ``--images`` images, or as many as the default does if that is not given. Every run is one process on one
core, with the loop of ``imgcls train``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE: dict[str, list[Any]] = {
    "learning_rate": [0.25, 0.5, 1, 2, 4],  # times the default's
    "batch_size": [8, 16, 32],
    "crop_scale": [0.2, 0.4, 0.7, 0.9],
    "ema_decay": [0.0, 0.999],
    "rand_augment": [0, 5],
    "mixup": [0.0, 0.2],
    "weight_decay": [3e-5, 5e-4],
}
NUM_RECIPES = 16
RATES = (0.1, 0.3, 1, 3, 10)
"""Times the default's, of fine-tuning with AdamW."""
NUM_OF_FEW = 300
DEMO_PER_CLASS = 100
IMAGE_SIZE = 64
LCNET, VIT, MOBILE = "PP-LCNet_x1_0", "timm:vit_tiny_patch16_224", "MobileNetV4_conv_small"
_EVALUATIONS = 2
_KEPT: dict[str, np.ndarray] = {}
"""Decoded pictures by URI."""


class Case(NamedTuple):
    """A dataset, and what is trained on it."""

    name: str
    data: str
    model: str
    values: dict[str, Any]
    is_searched: bool = True


class Job(NamedTuple):
    """One run."""

    case: Case
    recipe: str
    """``default``, ``search-NUMBER`` or ``rate-FACTOR``."""
    seed: int
    changes: dict[str, Any]
    """Values that are not the default's; the learning rate times the default's."""

    @property
    def key(self) -> str:
        return f"{self.case.name}/{self.recipe}/{self.seed}"


def cases(folder: Path) -> list[Case]:
    """All of them, in the order in which they run."""
    scratch = {"pretrained": False, "image_size": IMAGE_SIZE}
    few = [Case(name, name, "PP-LCNet_x0_25", scratch) for name in ("signs-300", "signs-all", "demo")]
    tuned = [
        Case(f"{short}-{way}", "signs-last", str(folder / f"{short}-first"), {"freeze": freeze})
        for short in ("lcnet", "vit")
        for way, freeze in (("full", "nothing"), ("probe", "backbone"))
    ]
    rates = [
        Case(f"rates-{short}", "signs-last", str(folder / f"{short}-first"), {"optimizer": "adamw"}, is_searched=False)
        for short in ("vit", "mobile")
    ]
    return [*few, *tuned, *rates]


def pretraining(folder: Path) -> list[Case]:
    """What makes the model folders that others start from."""
    networks = {"lcnet": LCNET, "vit": VIT, "mobile": MOBILE}
    values = {"pretrained": False, "image_size": IMAGE_SIZE}
    return [Case(f"{short}-first", "signs-first", name, values) for short, name in networks.items()]


def jobs_of(case: Case, seeds: int, results: dict[str, dict[str, Any]]) -> Iterator[Job]:
    """The runs of a case that are not done, as far as they can be known yet."""
    yield from (Job(case, "default", seed, {}) for seed in range(seeds))
    if not case.is_searched:
        yield from (Job(case, f"rate-{factor:g}", 0, {"learning_rate": factor}) for factor in RATES if factor != 1)
        return
    recipes = search_space()
    yield from (Job(case, f"search-{number}", 0, recipe) for number, recipe in enumerate(recipes))
    best = max(range(NUM_RECIPES), key=lambda number: results[f"{case.name}/search-{number}/0"]["top1"])
    yield from (Job(case, f"search-{best}", seed, recipes[best]) for seed in range(1, seeds))


def search_space() -> list[dict[str, Any]]:
    """The recipes of a search: the same ones in every case."""
    everything = list(product(*SPACE.values()))
    chosen = random.Random(0).sample(everything, NUM_RECIPES)
    return [dict(zip(SPACE, values, strict=True)) for values in chosen]


def make_signs(folder: Path, signs: Path) -> None:
    """Write the datasets that are parts of SIGN_DIGITS."""
    lines = {split: (signs / f"{split}.txt").read_text().splitlines() for split in ("train", "val")}
    names = dict(line.split(maxsplit=1) for line in (signs / "label.txt").read_text().splitlines())
    few = {**lines, "train": random.Random(0).sample(lines["train"], NUM_OF_FEW)}
    _write_lists(folder / "signs-300", signs, few, names)
    _write_lists(folder / "signs-all", signs, lines, names)
    for name, wanted in (("signs-first", sorted(names)[:5]), ("signs-last", sorted(names)[5:])):
        kept = {split: [line for line in of if line.rpartition(" ")[2] in wanted] for split, of in lines.items()}
        _write_lists(folder / name, signs, kept, {label: names[label] for label in wanted})


def draw_demo(folder: Path) -> None:
    """Write the dataset of drawn pictures."""
    from imgcls_ray.datasets.split import split_dataset
    from imgcls_ray.demo.draw import draw_dataset

    draw_dataset(folder / "drawn", images_per_class=2 * DEMO_PER_CLASS, to_label_per_class=8)
    split_dataset(str(folder / "drawn" / "train"), train_percent=50, val_percent=50)
    (folder / "drawn" / "train").rename(folder / "demo")


def _write_lists(folder: Path, signs: Path, lines: dict[str, list[str]], names: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {label: number for number, label in enumerate(sorted(names))}
    for split, of in lines.items():
        pairs = (line.rpartition(" ") for line in of)
        text = "".join(f"{signs.resolve() / path} {numbers[label]}\n" for path, _, label in pairs)
        (folder / f"{split}.txt").write_text(text)
    (folder / "label.txt").write_text("".join(f"{numbers[label]} {name}\n" for label, name in names.items()))


def run(job: Job, folder: Path, num_seen: int | None) -> dict[str, Any]:
    """Train in this process; what is told of it in ``results.jsonl``."""
    import torch

    from imgcls_ray.config import TrainConfig, make_config
    from imgcls_ray.storage import DEFAULT_STORAGE
    from imgcls_ray.train.begin import continued, new_state
    from imgcls_ray.train.entries import read_entries

    output = folder / "runs" / job.key
    values = {"data": str(folder / job.case.data), "model": job.case.model, "output": str(output), **job.case.values}
    entries = read_entries(values["data"], delimiter=None, storage=DEFAULT_STORAGE)

    def settled(changes: dict[str, Any]) -> Any:
        config = make_config(TrainConfig, {**values, "seed": job.seed, "cpus_per_worker": 1, **changes})
        state = new_state(config, entries)
        return state, *continued(config, entries, state)

    torch.set_num_threads(1)
    changes = dict(job.changes)
    _, _, recipe = settled({key: value for key, value in changes.items() if key != "learning_rate"})
    if num_seen is not None:
        changes["epochs"] = max(round(num_seen / len(entries.tables["train"])), 1)
    if "learning_rate" in changes:
        changes["learning_rate"] *= recipe.learning_rate
    epochs = changes.get("epochs", recipe.epochs)
    state, config, recipe = settled({**changes, "eval_interval": max(epochs // _EVALUATIONS, 1)})
    begin = time.process_time()
    history = _train(config, entries, state, recipe, output)
    evaluated = [row["val.top1"] for row in history if "val.top1" in row]
    return {
        "top1": max(evaluated),
        "last_top1": evaluated[-1],
        "cpu_s": round(time.process_time() - begin, 1),
        "images": len(entries.tables["train"]),
        "epochs": recipe.epochs,
        "batch_size": state.identity.batch_size,
        "learning_rate": recipe.learning_rate,
    }


def _train(config: Any, entries: Any, state: Any, recipe: Any, output: Path) -> list[dict[str, float]]:
    import torch

    from imgcls_ray.storage import open_directory
    from imgcls_ray.train import loop
    from imgcls_ray.train.entries import write_splits
    from imgcls_ray.train.loading import Images
    from imgcls_ray.train.state import load_state, save_state
    from imgcls_ray.train.task import STATE_NAME, make_task
    from imgcls_ray.train.worker import run_worker

    class KeptImages(Images):
        """Keeps decoded pictures: most of them are seen dozens of times."""

        def _fetched(self, rows: Any) -> Iterator[Any]:
            uris = rows["uri"].to_pylist()
            if any(uri not in _KEPT for uri in uris):
                _KEPT.update(zip(uris, map(self._decode["train"], super()._fetched(rows)), strict=True))  # type: ignore[arg-type]
            return iter([_KEPT[uri] for uri in uris])

        def _decoder(self, min_side: int | None) -> Any:
            decode = super()._decoder(min_side)
            return lambda data: data if isinstance(data, np.ndarray) else decode(data)

    # One core: images are loaded where they are learnt from.
    vars(loop)["load_batches"] = lambda task, batches, **_: map(KeptImages(task).__getitem__, batches)
    directory = open_directory(str(output))
    output.mkdir(parents=True, exist_ok=True)
    save_state(state, directory, STATE_NAME)
    task = make_task(config, state, recipe, cpus_per_worker=1)
    files = write_splits(entries.tables, output)
    outcome = run_worker(task, files, _Silence(), rank=0, world_size=1, device=torch.device("cpu"))
    if outcome.kind != "done":
        return [{"val.top1": 0.0}]
    done = load_state(directory, STATE_NAME)
    assert done is not None
    return done.history


class _Silence:
    def post(self, message: bytes) -> None:
        pass

    def is_stopped(self) -> bool:
        return False


def read_results(file: Path) -> dict[str, dict[str, Any]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def work(folder: Path, wanted: list[str], seeds: int, num_seen: int | None, deadline: float) -> None:
    """Do runs that are not done until the deadline."""
    file = folder / "results.jsonl"
    everything = [*pretraining(folder), *cases(folder)]
    for case in (case for case in everything if not wanted or case.name in wanted):
        is_first = case in pretraining(folder)
        results = read_results(file)
        todo = iter([Job(case, "default", 0, {})]) if is_first else jobs_of(case, seeds, results)
        if case.data == "demo" and not (folder / "demo").is_dir():
            draw_demo(folder)
        for job in todo:
            if job.key in results:
                continue
            if time.monotonic() > deadline:
                return
            row = {"key": job.key, **run(job, folder, num_seen), **({"changes": job.changes} if job.changes else {})}
            if is_first:
                (folder / "runs" / job.key / "best_model").rename(folder / case.name)
            shutil.rmtree(folder / "runs" / job.key)
            results[job.key] = row
            with file.open("a") as lines:
                print(json.dumps(row), file=lines)
            print(json.dumps(row), flush=True)


def tell(folder: Path) -> None:
    """Print the table of what there is."""
    results = read_results(folder / "results.jsonl")
    for case in [*pretraining(folder), *cases(folder)]:
        rows: dict[str, list[float]] = {}
        for key, row in results.items():
            if key.startswith(f"{case.name}/"):
                rows.setdefault(key.split("/")[1], []).append(100 * row["top1"])
        if not rows:
            continue
        searched = {name: tops for name, tops in rows.items() if name.startswith("search-")}
        best = max(searched, key=lambda name: (len(searched[name]), searched[name][0]), default=None)
        shown = ["default", best] if best else sorted(rows)
        told = (
            f"{name} {statistics.mean(rows[name]):.2f} ({', '.join(f'{top:.2f}' for top in rows[name])})"
            for name in shown
            if name in rows
        )
        print(f"{case.name}: {'; '.join(told)}; {len(searched)} recipes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--signs", type=Path, metavar="SIGN_DIGITS", help="for the first time")
    parser.add_argument("--case", action="append", default=[], help="this one alone; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="seen by each run, times; default: as many as the defaults have")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so many")
    arguments = parser.parse_args()
    if arguments.signs is not None:
        make_signs(arguments.folder, arguments.signs)
    work(arguments.folder, arguments.case, arguments.seeds, arguments.images, time.monotonic() + arguments.seconds)
    tell(arguments.folder)


if __name__ == "__main__":
    main()

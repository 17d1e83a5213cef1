"""``imgcls demo``: the main job from end to end on pictures that it draws itself. Needs no network."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from imgcls_ray.commands import predict as predict_command
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.threads import let_threads_sleep
from imgcls_ray.config import DemoConfig, make_config, read_values
from imgcls_ray.demo.draw import draw_dataset
from imgcls_ray.demo.fit import IMAGE_SIZE, NUM_EPOCHS, NUM_IMAGES_PER_CLASS, fit_demo_model
from imgcls_ray.errors import UsageError
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.models.zoo import find_model
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import check_address
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from imgcls_ray.config import Plain, Values
    from imgcls_ray.demo.draw import DemoDataset

_MODEL_NAME = "PP-LCNet_x0_5"
_TO_LABEL_PER_CLASS = 32
_NUM_SAMPLES = 12
_NUM_SHOWN = 8


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Draw, train, label, show the result.

    Raises:
        UsageError: the folder exists.
    """
    config = make_config(DemoConfig, read_values(DemoConfig, config_file, overrides, flags))
    check_address(config.output)
    output = Path(config.output)
    if output.exists():
        raise UsageError(f"{output}: already exists; remove it, or give another --output")
    console = StdoutConsole(highlight=False, soft_wrap=True)
    console.print(f"[bold]1. draw[/bold] a data set of shapes in {output / 'data'}")
    dataset = draw_dataset(
        output / "data", images_per_class=NUM_IMAGES_PER_CLASS, to_label_per_class=_TO_LABEL_PER_CLASS, size=IMAGE_SIZE
    )
    console.print(
        f"   {len(dataset.class_names)} classes, {NUM_IMAGES_PER_CLASS} images each to train on, "
        f"{len(dataset.labels)} new ones to label, and {len(dataset.broken)} broken files among these"
    )
    console.print(f"[bold]2. train[/bold] {_MODEL_NAME} from random weights")
    model = _train(dataset, output / "model", console)

    console.print("[bold]3. label[/bold] the new images with the bulk job")
    store = output / "labels"
    asked: dict[str, Plain] = {"input": str(dataset.to_label), "model": str(model), "output": str(store)}
    asked["save_images"] = _NUM_SAMPLES
    program = _program()
    command = f"{program} predict {dataset.to_label} --model {model} --output {store}"
    console.print(f"   {command} --save-images {_NUM_SAMPLES}")
    predict_command.run(None, [], asked)
    console.print("[bold]4. look[/bold]")
    _show(dataset, store, console)
    console.print(
        f"   nothing is left to label, as the same command tells: {command}\n"
        f"   check that every input has exactly one row: {program} store verify {store}"
    )


def _program() -> str:
    """How this program is called at this prompt: `make demo` runs one that is not on the PATH."""
    called = sys.argv[0]
    if os.path.basename(called) != "imgcls" or os.path.realpath(shutil.which("imgcls") or "") == os.path.realpath(
        called
    ):
        return "imgcls"
    return called


def _train(dataset: DemoDataset, path: Path, console: Console) -> Path:
    let_threads_sleep()
    import torch

    start = time.monotonic()
    preprocess = Preprocess(resize_size=IMAGE_SIZE, crop_size=IMAGE_SIZE)
    files = sorted(dataset.train.glob("*/*.jpg"))
    pixels = np.stack([preprocess_image(decode_image(file.read_bytes()), preprocess) for file in files])
    labels = np.array([dataset.class_names.index(file.parent.name) for file in files], dtype=np.int64)
    zoo_model = find_model(_MODEL_NAME)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(zoo_model.architecture, num_classes=len(dataset.class_names))

    def tell(epoch: int, accuracy: float) -> None:
        if epoch % 3 == 0:
            console.print(f"   epoch {epoch} of {NUM_EPOCHS}: {accuracy:.1%} of the training images are correct")

    fit_demo_model(network, pixels, labels, mean=preprocess.mean, std=preprocess.std, on_epoch=tell)
    folder = save_model_folder(
        path,
        network,
        name=_MODEL_NAME,
        architecture=zoo_model.architecture,
        class_names=dataset.class_names,
        preprocess=preprocess,
    )
    add_bundle(str(path), folder)
    console.print(f"   {path}, after {time.monotonic() - start:.0f} s")
    return path


def _show(dataset: DemoDataset, store: Path, console: Console) -> None:
    rows = [row for table in latest_rows(open_store(open_directory(str(store)))) for row in table.to_pylist()]
    by_name = {row["uri"].rpartition("/")[2]: row for row in rows}
    num_right = sum(by_name[name]["label"] == label for name, label in dataset.labels.items())
    num_caught = sum(by_name[name]["error"] == code for name, code in dataset.broken.items())
    table = Table("file", "label", "score", "error")
    shown = [*list(dataset.labels)[:: max(1, len(dataset.labels) // _NUM_SHOWN)], *dataset.broken]
    for name in shown:
        row = by_name[name]
        table.add_row(name, row["label"], f"{row['score']:.3f}" if row["score"] is not None else "", row["error"])
    console.print(table)
    console.print(
        f"   {num_right} of {len(dataset.labels)} labels are correct, "
        f"{num_caught} of {len(dataset.broken)} broken files have the expected error code"
    )

"""What do 8 bits cost and bring on this processor: accuracy, size, and images/s beside the original?

    python -m benchmarks.int8 --images DATASET runs/a/best_model ResNet50 ...

A model folder is exported as ``imgcls export --int8`` does, with its limits on what may be lost and none on the speed.
A name of the zoo gets random weights at the network's own size: speed and size are those of trained weights, and
there is nothing to be lost. Without names: the smallest network of each family. An export of a network of 100 million
weights takes a minute, one with accuracy control several.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common import emit, print_table
from imgcls_ray.config import ExportConfig, make_config
from imgcls_ray.errors import JobFailedError
from imgcls_ray.export.job import export
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.zoo import ZOO

if TYPE_CHECKING:
    from imgcls_ray.export.job import ExportReport

_NUM_IMAGES = 16
"""That a network with random weights is calibrated on and compared on."""


def _export(model: str, images: str, place: Path) -> tuple[int, ExportReport]:
    """The size of the model's pictures, and the report.

    Raises:
        JobFailedError: 8 bits lose too much.
    """
    values = {"format": "openvino", "int8": True, "images": images, "min_speedup": 0, "output": str(place / "int8")}
    if model in ZOO:
        model = str(_draw_model(model, place))
        values |= {"min_agreement": 0, "num_images": _NUM_IMAGES, "num_calibration_images": _NUM_IMAGES}
    report = export(make_config(ExportConfig, {**values, "model": model}), Console(quiet=True))
    spec = json.loads((place / "int8" / "model.json").read_text())
    return spec["preprocess"]["crop_size"], report


def _draw_model(name: str, place: Path) -> Path:
    """Random weights; unlike fresh ones they have biases, as all that were trained. NNCF takes others for these."""
    import torch

    new = new_model_folder(name, place / "new", random_seed=0)
    network, spec = new.load_network(), new.spec
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    saved = save_model_folder(
        place / "model",
        network,
        name=name,
        architecture=spec.architecture,
        class_names=spec.class_names,
        preprocess=spec.preprocess,
    )
    return saved.path


def measure(model: str, images: str) -> tuple[str, ...]:
    """One row of the table."""
    name = model if model in ZOO else Path(model).resolve().parent.name
    try:
        with tempfile.TemporaryDirectory(prefix="imgcls-int8-") as place:
            size, report = _export(model, images, Path(place))
    except JobFailedError as refusal:
        print(f"{name}: {refusal}", file=sys.stderr)
        return (name, "refused", *[""] * 7)
    speed, accuracy = report["speed"], report["accuracy"]
    assert speed is not None
    about = {"model": name, "size": size, "speed": speed, "size_bytes": report["size_bytes"], "accuracy": accuracy}
    emit("int8", "ratio", speed["ratio"], "", **about, accuracy_control=report["accuracy_control"])
    before, after = (report["size_bytes"][when] / 2**20 for when in ("before", "after"))
    change = (f"{accuracy['before']:.2%}", f"{accuracy['after']:.2%}") if accuracy else ("", "")
    interval = " to ".join(f"{100 * end:.2f}" for end in accuracy["drop_interval"]) if accuracy else ""
    rates = (f"{speed['before']:.0f}", f"{speed['after']:.0f}", f"{speed['ratio']:.2f}")
    return (name, str(size), f"{before:.1f} -> {after:.1f}", *rates, *change, interval)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model folders, and names of the zoo")
    parser.add_argument("--images", required=True, help="dataset to calibrate and to compare on")
    arguments = parser.parse_args()
    smallest = {model.family: model.name for model in reversed(list(ZOO.values()))}
    rows = [measure(model, arguments.images) for model in arguments.models or smallest.values()]
    columns = ("network", "pixels", "MiB", "images/s", "8 bits", "ratio", "accuracy", "8 bits", "points lost")
    title = "8 bits beside the original: images/s of one thread, accuracy with its 95 % confidence interval"
    print_table(columns, rows, title=title, console=Console(stderr=True, width=140))


if __name__ == "__main__":
    main()

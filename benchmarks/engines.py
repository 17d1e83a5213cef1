"""Do the engines agree? OpenVINO beside torch, and bf16 beside float32.

    python -m benchmarks.engines agree IMAGES             # a network of every family, float32, random weights
    python -m benchmarks.engines agree IMAGES NAME ...    # these
    python -m benchmarks.engines bf16 DATASET             # PP-LCNet_x1_0, trained on DATASET first (some minutes)

IMAGES is a folder of JPEGs; DATASET has PaddleX's train.txt, val.txt and label.txt. A network with random weights says
nearly the same of everything, so the difference is also given relative to how far logits of different images lie apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from benchmarks.common import emit, print_table
from imgcls_ray.demo.fit import fit_demo_model
from imgcls_ray.errors import ImageError
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.classifier import ImageClassifier
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.engines.load import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder

MAX_DIFFERENCE = 1e-3
MIN_AGREEMENT = 0.995
NUM_EPOCHS = 40
# The demo's is for a smaller network: this one loses what it knew at 0.02.
MAX_LEARNING_RATE = 0.004
# The photographs of hands that this was measured with are 100 pixels wide, and tell the digits at 64.
SIZE = 64


def logits_of(folder: ModelFolder, engine: EngineName, precision: Precision, encoded: Sequence[bytes]) -> np.ndarray:
    """float32 (N, num_classes), through the classifier that every path uses."""
    classifier = ImageClassifier.load(folder, engine=engine, precision=precision, batch_size=8, top_k=1, logits=True)
    rows = []
    for prediction in classifier.classify_encoded(encoded):
        if isinstance(prediction, ImageError) or prediction.logits is None:
            raise RuntimeError(f"an image was not labelled: {prediction}")
        rows.append(prediction.logits)
    return np.stack(rows)


def agree(images: Path, names: Sequence[str]) -> bool:
    encoded = [path.read_bytes() for path in sorted(images.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            model = new_model_folder(name, Path(folder, "model"), random_seed=0)
            torch_logits = logits_of(model, "torch", "fp32", encoded)
            openvino_logits = logits_of(model, "openvino", "fp32", encoded)
        worst = np.abs(openvino_logits - torch_logits).max()
        relative = float(worst / np.abs(torch_logits).max())
        of_spread = float(worst / np.ptp(torch_logits, axis=0).max())
        emit(
            "engines",
            "openvino_beside_torch",
            relative,
            "relative",
            model=name,
            of_spread=of_spread,
            images=len(encoded),
        )
        rows.append((ZOO[name].family, name, f"{relative:.1e}", f"{of_spread:.1e}"))
    print_table(
        ("family", "network", "of the largest logit", "of the spread between images"),
        rows,
        title=f"OpenVINO beside torch, float32, {len(encoded)} images: largest difference of a logit",
        console=Console(stderr=True),
    )
    return all(float(row[2]) <= MAX_DIFFERENCE for row in rows)


def bf16(dataset: Path) -> bool:
    name = "PP-LCNet_x1_0"
    names = [line.split(maxsplit=1)[1].strip() for line in (dataset / "label.txt").read_text().splitlines()]
    train, val = _read_list(dataset, "train.txt"), _read_list(dataset, "val.txt")
    model, preprocess = ZOO[name], Preprocess(resize_size=SIZE, crop_size=SIZE)
    network = build_network(model.architecture, num_classes=len(names))
    start = time.monotonic()
    fit_demo_model(
        network,
        np.stack([_pixels(path, preprocess) for path, _ in train]),
        np.array([label for _, label in train], dtype=np.int64),
        mean=preprocess.mean,
        std=preprocess.std,
        epochs=NUM_EPOCHS,
        max_learning_rate=MAX_LEARNING_RATE,
        on_epoch=lambda epoch, accuracy: print(f"epoch {epoch}: {accuracy:.3f} of train right", file=sys.stderr),
    )
    seconds = time.monotonic() - start
    encoded = [path.read_bytes() for path, _ in (*val, *train)]
    labels = np.array([label for _, label in (*val, *train)])
    with tempfile.TemporaryDirectory() as folder:
        saved = save_model_folder(
            Path(folder, "model"),
            network,
            name=name,
            architecture=model.architecture,
            class_names=names,
            preprocess=preprocess,
        )
        found = {
            precision: logits_of(saved, "openvino", precision, encoded).argmax(1) for precision in ("fp32", "bf16")
        }
    is_val = np.arange(len(labels)) < len(val)
    for precision, best in found.items():
        accuracy = float((best == labels)[is_val].mean())
        emit("engines", f"val_top1_{precision}", accuracy, "share", model=name, images=len(val), train_s=round(seconds))
    same = found["fp32"] == found["bf16"]
    emit("engines", "bf16_top1_as_fp32", float(same.mean()), "share", model=name, images=len(labels))
    emit("engines", "bf16_top1_as_fp32_val", float(same[is_val].mean()), "share", model=name, images=len(val))
    return bool(same.mean() >= MIN_AGREEMENT)


def _read_list(dataset: Path, name: str) -> list[tuple[Path, int]]:
    pairs = [line.rsplit(maxsplit=1) for line in (dataset / name).read_text().splitlines() if line.strip()]
    return [(dataset / path, int(label)) for path, label in pairs]


def _pixels(path: Path, preprocess: Preprocess) -> np.ndarray:
    return preprocess_image(decode_image(path.read_bytes()), preprocess)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("agree", "bf16"))
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.figure == "bf16":
        sys.exit(not bf16(arguments.data))
    smallest = {model.family: model.name for model in reversed(list(ZOO.values()))}
    sys.exit(not agree(arguments.data, arguments.names or sorted(smallest.values())))


if __name__ == "__main__":
    main()

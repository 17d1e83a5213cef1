"""PaddleClas' weights in our networks: do they give PaddleClas' logits?

    python -m venv paddle && paddle/bin/pip install paddlepaddle paddleclas
    python -m benchmarks.paddle_parity --paddle-python paddle/bin/python            # a network of every family
    python -m benchmarks.paddle_parity --paddle-python paddle/bin/python --all      # all 80
    python -m benchmarks.paddle_parity --paddle-python paddle/bin/python ResNet18   # these

For each name PaddleClas' own network gets drawn weights, saves them as ``.pdparams``, and runs on drawn images; we read
the file as ``--weights`` does, and our network runs on the same images in float32 on the CPU. ``--golden FILE`` leaves
PaddleClas' logits of a network of every family for the tests, which draw the same weights without Paddle.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.common import emit, print_table
from benchmarks.paddle_side import draw_pixels
from imgcls_ray.models.weights import load_weights
from imgcls_ray.models.zoo import ZOO

SIDE = Path(__file__).with_name("paddle_side.py")
MAX_DIFFERENCE = 1e-4
GOLDEN_CLASSES = 8


class PaddleRun(NamedTuple):
    """What PaddleClas' network did."""

    logits: np.ndarray
    shapes: dict[str, list[int]]
    """Of its tensors, by Paddle's names."""


def run_paddle(name: str, size: int, num_classes: int, folder: Path, paddle_python: str) -> PaddleRun:
    """Run PaddleClas' network of a name and leave its ``weights.pdparams`` in a folder."""
    command = [paddle_python, str(SIDE), name, str(size), str(num_classes), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return PaddleRun(np.load(folder / "logits.npy"), json.loads((folder / "shapes.json").read_text()))


def difference(name: str, paddle_python: str) -> float:
    """max |our logit - Paddle's| / max |Paddle's logit|."""
    import torch

    size = ZOO[name].preprocess.crop_size
    with tempfile.TemporaryDirectory() as folder:
        paddle = run_paddle(name, size, 1000, Path(folder), paddle_python)
        loaded = load_weights(ZOO[name], Path(folder, "weights.pdparams"))
    with torch.inference_mode():
        logits = loaded.network(torch.from_numpy(draw_pixels(size, seed=1))).numpy()
    return float(np.abs(logits - paddle.logits).max() / np.abs(paddle.logits).max())


def golden(name: str, paddle_python: str) -> dict[str, Any]:
    """PaddleClas' logits at the smallest size that the network takes, and the shapes to draw its weights by."""
    fixed = ZOO[name].family in ("CLIP", "SwinTransformer")
    size = ZOO[name].preprocess.crop_size if fixed else 64
    with tempfile.TemporaryDirectory() as folder:
        run = run_paddle(name, size, GOLDEN_CLASSES, Path(folder), paddle_python)
    return {"size": size, "logits": run.logits.round(6).tolist(), "shapes": run.shapes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the zoo")
    parser.add_argument("--paddle-python", required=True, help="a Python with paddlepaddle and paddleclas")
    parser.add_argument("--all", action="store_true", help="every network of the zoo")
    parser.add_argument("--golden", type=Path, help="write PaddleClas' logits for the tests, and compare nothing")
    arguments = parser.parse_args()
    # The table of the zoo is sorted by size within a family, so this keeps the smallest.
    smallest = {model.family: model.name for model in reversed(list(ZOO.values()))}
    names = arguments.names or (list(ZOO) if arguments.all else sorted(smallest.values()))
    if arguments.golden:
        lines = [f"{json.dumps(name)}: {json.dumps(golden(name, arguments.paddle_python))}" for name in names]
        arguments.golden.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    rows = []
    for name in names:
        found = difference(name, arguments.paddle_python)
        emit("paddle_parity", "logits", found, "relative", model=name)
        rows.append((ZOO[name].family, name, f"{found:.1e}", "yes" if found <= MAX_DIFFERENCE else "NO"))
    print_table(
        ("family", "network", "max |difference| / max |logit|", f"<= {MAX_DIFFERENCE:g}"),
        rows,
        title="PaddleClas' weights: our logits beside PaddleClas'",
        console=Console(stderr=True),
    )
    sys.exit(any(row[-1] == "NO" for row in rows))


if __name__ == "__main__":
    main()

"""Rival: Daft, as its users write image classification.

``download`` -> ``decode_image`` -> ``resize`` -> a UDF with an eager timm model -> ``write_parquet``. The whole job is
timed, the load of the model included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import daft
import numpy as np
from daft import col

from benchmarks.common import emit, list_images, read_once


class Classify:
    def __init__(self, model_name: str) -> None:
        import timm
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        self.model = timm.create_model(model_name, pretrained=False).eval()
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def __call__(self, images: Any) -> Any:
        import torch

        stacked = np.stack([np.asarray(image) for image in images.to_pylist()])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return self.model((pixels - self.mean) / self.std).argmax(-1).numpy()


def run(paths: list[str], model_name: str) -> float:
    """Label the files; returns the seconds it took."""
    udf = daft.udf(return_dtype=daft.DataType.int64(), batch_size=32, num_cpus=1, concurrency=1)
    classify = udf(Classify).with_init_args(model_name)
    frame = daft.from_pydict({"path": paths})
    frame = frame.with_column("image", col("path").download().decode_image(mode="RGB").resize(224, 224))
    frame = frame.with_column("label", classify(col("image"))).select("path", "label")
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        frame.write_parquet(output)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival_daft", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", default="lcnet_100", help="timm's name [default: lcnet_100]")
    args = parser.parse_args()
    images = list_images(args.images)
    read_once(images)
    seconds = run([str(path) for path in images], args.model)
    emit("daft", "whole_job_rate", len(images) / seconds, "images/s", model=args.model, images=len(images))


if __name__ == "__main__":
    main()

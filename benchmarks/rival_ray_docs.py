"""Rival: image classification as Ray's documentation shows it.

``read_images`` -> transforms per row -> one actor with an eager timm model -> ``write_parquet``. The whole job is
timed, the start of the actor included, that of Ray not.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.common import emit, isolated_environment, list_images, read_once


class Classifier:
    def __init__(self, model_name: str) -> None:
        import timm

        self.model = timm.create_model(model_name, pretrained=False).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            top = self.model(torch.as_tensor(batch["image"])).softmax(-1).topk(5)
        return {"path": batch["path"], "label": top.indices.numpy(), "score": top.values.numpy()}


def preprocess(row: dict[str, Any]) -> dict[str, Any]:
    from torchvision import transforms as T  # noqa: N812 - as everybody writes it

    transform = T.Compose(
        [
            T.ToTensor(),
            T.Resize(256, antialias=True),
            T.CenterCrop(224),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return {"path": row["path"], "image": transform(row["image"])}


def run(folder: Path, model_name: str) -> tuple[int, float]:
    """Label the folder; returns the number of rows written and the seconds it took."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        dataset = ray.data.read_images(str(folder), include_paths=True, mode="RGB").map(preprocess)
        dataset = dataset.map_batches(
            Classifier, fn_constructor_args=(model_name,), batch_size=32, compute=ray.data.ActorPoolStrategy(size=1)
        )
        dataset.write_parquet(output)
        seconds = time.perf_counter() - start
        return ray.data.read_parquet(output).count(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival_ray_docs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", default="lcnet_100", help="timm's name [default: lcnet_100]")
    args = parser.parse_args()
    read_once(list_images(args.images))
    with isolated_environment() as environment:
        ray.init(logging_level=logging.ERROR, _temp_dir=environment["RAY_TMPDIR"])
        num_images, seconds = run(args.images, args.model)
        ray.shutdown()
    emit("ray_docs", "whole_job_rate", num_images / seconds, "images/s", model=args.model, images=num_images)


if __name__ == "__main__":
    main()

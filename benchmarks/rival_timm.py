"""Rival: what one writes without an engine.

timm's own transform, a ``DataLoader``, an eager model. The steady rate is given, from the end of the first batch on,
and nothing is written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import available_cores, emit, list_images, read_once

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH_SIZE = 32


class Images(Dataset[torch.Tensor]):
    def __init__(self, paths: Sequence[Path], transform: Any) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        pixels: torch.Tensor = self.transform(Image.open(self.paths[i]).convert("RGB"))
        return pixels


def run(paths: Sequence[Path], model_name: str, num_workers: int) -> float:
    """Label the files; returns images per second after the first batch."""
    model = timm.create_model(model_name, pretrained=False).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    done, start = 0, time.perf_counter()
    with torch.inference_mode():
        for batch in DataLoader(Images(paths, transform), batch_size=_BATCH_SIZE, num_workers=num_workers):
            model(batch).softmax(-1).topk(5)
            if done == 0:
                start = time.perf_counter()
            done += len(batch)
    return (done - _BATCH_SIZE) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival_timm", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of more than 32 JPEG files")
    parser.add_argument("--model", default="lcnet_100", help="timm's name [default: lcnet_100]")
    parser.add_argument(
        "--num-workers", type=int, default=available_cores() // 2, help="of the DataLoader [default: half of the cores]"
    )
    args = parser.parse_args()
    images = list_images(args.images)
    if len(images) <= _BATCH_SIZE:
        parser.error(f"{args.images}: more than {_BATCH_SIZE} images are needed")
    read_once(images)
    rate = run(images, args.model, args.num_workers)
    emit("timm", "steady_rate", rate, "images/s", model=args.model, images=len(images), num_workers=args.num_workers)


if __name__ == "__main__":
    main()

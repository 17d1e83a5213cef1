"""The practical limit of labelling on this machine's CPUs: nothing but each image's own work.

One bare process per core reads, decodes, resizes, runs the network and picks five classes; no Ray, no output, no
errors. Interpolation, sizes and network come from the model folder, so that it does the same work per image as
``imgcls predict``, through plain calls of simplejpeg and torchvision.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import available_cores, emit, list_images, read_once

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    import numpy as np

    from imgcls_ray.models.folder import ModelFolder

_BATCH_SIZE = 32
_TOP_K = 5
# Importing torch and compiling the network, in as many processes as there are cores.
_MAX_START_S = 120

_start_together: Barrier


def convert_network(folder: ModelFolder, output: Path) -> None:
    """Write the folder's network as OpenVINO IR: uint8 (32, H, W, 3) in, softmax scores out."""
    import openvino as ov
    import torch

    preprocess = folder.spec.preprocess
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))

    class FromUint8(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network((pixels.permute(0, 3, 1, 2).float() - mean) / std)
            return logits.softmax(-1)

    shape = [_BATCH_SIZE, preprocess.crop_size, preprocess.crop_size, 3]
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO's converter traces with a part of torch that announces its end.
        warnings.simplefilter("ignore", FutureWarning)
        converted = ov.convert_model(
            FromUint8(folder.load_network()).eval(),
            example_input=torch.zeros(shape, dtype=torch.uint8),
            input=[(shape, ov.Type.u8)],
        )
    ov.save_model(converted, output, compress_to_fp16=False)


def native_precision() -> str:
    """``bf16`` where the processor computes it, else ``f32``: OpenVINO's names."""
    import openvino as ov

    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def label_for(seconds: float, images: list[str], network: str, precision: str, preprocess: dict[str, Any]) -> float:
    """Label the images round and round on one core; returns images per second after the warm-up."""
    import numpy as np
    import openvino as ov
    import simplejpeg
    import torch
    from torchvision.transforms.v2 import functional as F

    torch.set_num_threads(1)
    interpolation = F.InterpolationMode(preprocess["interpolation"])
    resize_size, crop_size = [preprocess["resize_size"]], [preprocess["crop_size"]] * 2
    compiled = ov.Core().compile_model(
        network,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            # Pinned, every process would sit on the same first core.
            "ENABLE_CPU_PINNING": False,
        },
    )

    def pixels(path: str) -> torch.Tensor:
        decoded = simplejpeg.decode_jpeg(Path(path).read_bytes(), colorspace="RGB")
        image = torch.from_numpy(decoded).permute(2, 0, 1)
        image = F.resize(image, resize_size, interpolation=interpolation, antialias=True)
        # The decoder's memory is (H, W, 3): stacked as such, a batch costs a plain copy instead of a transposition.
        cropped: torch.Tensor = F.center_crop(image, crop_size)
        return cropped.permute(1, 2, 0)

    def label(paths: list[str]) -> np.ndarray:
        scores: np.ndarray = compiled(torch.stack([pixels(path) for path in paths]).numpy())[0]
        return np.argpartition(-scores, _TOP_K, axis=1)[:, :_TOP_K]

    batches = [images[i : i + _BATCH_SIZE] for i in range(0, len(images) - _BATCH_SIZE + 1, _BATCH_SIZE)]
    for batch in batches[:4]:
        label(batch)
    _start_together.wait(_MAX_START_S)
    start = time.perf_counter()
    done = 0
    while (passed := time.perf_counter() - start) < seconds:
        label(batches[done % len(batches)])
        done += 1
    return done * _BATCH_SIZE / passed


def _share(barrier: Barrier) -> None:
    global _start_together
    _start_together = barrier


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files, at least 32 per process")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument(
        "--interpolation",
        choices=("bilinear", "bicubic"),
        help="instead of the model folder's; bicubic is what earlier published figures were measured with",
    )
    parser.add_argument("--processes", type=int, default=available_cores(), help="[default: one per core]")
    parser.add_argument("--seconds", type=float, default=20, help="measured time [default: 20]")
    args = parser.parse_args()

    from imgcls_ray.models.folder import open_model_folder

    images = list_images(args.images)
    if len(images) < _BATCH_SIZE * args.processes:
        parser.error(f"{args.images}: {len(images)} images; {_BATCH_SIZE} per process are needed")
    read_once(images)
    folder = open_model_folder(args.model)
    preprocess = {
        "interpolation": args.interpolation or folder.spec.preprocess.interpolation,
        "resize_size": folder.spec.preprocess.resize_size,
        "crop_size": folder.spec.preprocess.crop_size,
    }
    precision = native_precision()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="imgcls-limit-") as temporary,
        ProcessPoolExecutor(args.processes, context, _share, (context.Barrier(args.processes),)) as executor,
    ):
        network = Path(temporary, "network.xml")
        convert_network(folder, network)
        shares = [[str(path) for path in images[i :: args.processes]] for i in range(args.processes)]
        rates = executor.map(
            label_for,
            *zip(*((args.seconds, share, str(network), precision, preprocess) for share in shares), strict=True),
        )
        rate = sum(rates)
    emit(
        "limit",
        "steady_rate",
        rate,
        "images/s",
        model=folder.spec.name,
        processes=args.processes,
        precision=precision,
        **preprocess,
    )


if __name__ == "__main__":
    main()

"""What decoding at a fraction changes: pixels after resizing, labels, and the rate of ``imgcls predict``.

``agree`` composes mosaics of photographs, of 2 to 48 megapixels, as sharp as their pixels allow and as cameras take
them. It trains a small network on such pictures, and decodes each of them whole and with several margins. ``rate``
labels files of 12 megapixels with the two kinds of model folders in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.common import (
    available_cores,
    emit,
    imgcls,
    isolated_environment,
    keep_conversion,
    linked_images,
    list_images,
    read_parts,
    steady_rate,
)
from benchmarks.mosaics import NUM_CLASSES, QUALITY, compose, encode, read_photographs, shrink, soften
from imgcls_ray.demo.fit import fit_demo_model
from imgcls_ray.images.decoder import decode_scaled
from imgcls_ray.images.fast_jpeg import choose_scale
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.classifier import ImageClassifier, ModelInput
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.models.zoo import find_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.mosaics import Photographs

_BENCHMARK = "scaled_decode"
_NETWORK = "PP-LCNet_x0_25"
_PREPROCESS = Preprocess()
# Of 3416 x 2560, halves leave five times the resize size and no more: the least that this margin allows.
_PICTURES = ("1632x1224=400", "3416x2560=320", "4000x3000=250", "8000x6000=30")
_SHARPNESS = (0.0, 0.7)
"""Blur of a lens, pixels: none, and that of an ordinary camera."""
_CAMERA = (4000, 3000)
_HEIGHTS = (1224, 3000, 6000)
"""Of the pictures that the network learns from."""
_EPOCHS = 10
_LEAST_ACCURACY = 0.5
# Small parts: the rate is read from the times at which they were written.
_UNITS = ("--set", "batch_size=16", "--set", "unit_size=16")
_Z = 1.96
"""Of an interval of 95 %."""


class Mosaic(NamedTuple):
    """One picture to decode."""

    width: int
    height: int
    label: int
    seed: int
    sigma: float
    quality: int = QUALITY


class Decoding(NamedTuple):
    """One picture, decoded in one way."""

    pixels: np.ndarray
    """The network's input."""
    scale: int
    num_bytes: int
    decoding_s: float
    """CPU time."""
    resizing_s: float


@dataclass
class Comparison:
    """Pictures of one size, decoded whole and with one margin."""

    means: list[float] = field(default_factory=list)
    """Mean difference of each picture, of 255."""
    largest: int = 0
    num_same: int = 0
    """Pictures with the same top-1 label."""
    num_right: list[int] = field(default_factory=lambda: [0, 0])
    """Whole, and with the margin."""
    seconds: list[tuple[float, ...]] = field(default_factory=list)
    """CPU time of decoding and resizing, whole and with the margin."""
    num_bytes: list[int] = field(default_factory=list)
    scales: set[int] = field(default_factory=set)

    def add(self, whole: Decoding, scaled: Decoding, labels: tuple[int, int], label: int) -> None:
        difference = np.abs(whole.pixels.astype(int) - scaled.pixels)
        self.means.append(float(difference.mean()))
        self.largest = max(self.largest, int(difference.max()))
        self.num_same += labels[0] == labels[1]
        self.num_right = [count + (said == label) for count, said in zip(self.num_right, labels, strict=True)]
        self.seconds.append((whole.decoding_s, whole.resizing_s, scaled.decoding_s, scaled.resizing_s))
        self.num_bytes.append(whole.num_bytes)
        self.scales.add(scaled.scale)

    def emit(self, **about: object) -> None:
        count = len(self.means)
        low, high = wilson_interval(self.num_same, count)
        megabytes = round(statistics.fmean(self.num_bytes) / 1e6, 2)
        about |= {"pictures": count, "scales": sorted(self.scales), "megabytes": megabytes}
        emit(_BENCHMARK, "mean_difference", statistics.fmean(self.means), "of 255", **about)
        emit(_BENCHMARK, "mean_difference_of_worst_picture", max(self.means), "of 255", **about)
        emit(_BENCHMARK, "largest_difference", self.largest, "of 255", **about)
        interval = [round(low, 5), round(high, 5)]
        emit(_BENCHMARK, "top1_agreement", self.num_same / count, "share", interval_95=interval, **about)
        for name, num_right in zip(("whole", "scaled"), self.num_right, strict=True):
            emit(_BENCHMARK, f"accuracy_{name}", num_right / count, "share", **about)
        medians = (1e3 * statistics.median(column) for column in zip(*self.seconds, strict=True))
        parts = dict(zip(("whole_decoding", "whole_resizing", "decoding", "resizing"), medians, strict=True))
        ratio = (parts["whole_decoding"] + parts["whole_resizing"]) / (parts["decoding"] + parts["resizing"])
        emit(
            _BENCHMARK,
            "cpu_time_whole_to_scaled",
            ratio,
            "ratio",
            **{**about, **{k: round(v, 1) for k, v in parts.items()}},
        )


def wilson_interval(num_same: int, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share (Wilson 1927)."""
    share, spread = num_same / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return middle - half, min(1.0, middle + half)


def agree(
    photos: Path,
    pictures: Sequence[str],
    margins: Sequence[int],
    sharpness: Sequence[float],
    quality: int,
    num_train: int,
    num_processes: int,
) -> None:
    """Print differences and labels, by size and for all sizes together, of each sharpness.

    Args:
        pictures: sizes and how many of each, as ``1632x1224=800``.
        sharpness: blurs that these are composed with.
    """
    photographs = read_photographs(list_images(photos))
    with tempfile.TemporaryDirectory(prefix="imgcls-scaled-") as folder:
        classifier = _train(photographs, Path(folder, "model"), num_train)
        counts = {size: int(count) for size, _, count in (text.partition("=") for text in pictures)}
        mosaics = [
            (size, Mosaic(int(width), int(height), number % NUM_CLASSES, number, sigma, quality))
            for sigma in sharpness
            for size, count in counts.items()
            for width, _, height in [size.partition("x")]
            for number in range(count)
        ]
        comparisons: dict[tuple[str, float, int], Comparison] = defaultdict(Comparison)
        with ProcessPoolExecutor(num_processes, initializer=_one_thread) as executor:
            decoded = executor.map(_decode, [(photos, mosaic, tuple(margins)) for _, mosaic in mosaics])
            for (size, mosaic), (whole, *scaled) in zip(mosaics, decoded, strict=True):
                labels = list(_labels(classifier, [whole, *scaled]))
                for margin, decoding, said in zip(margins, scaled, labels[1:], strict=True):
                    for key in ((size, mosaic.sigma, margin), ("all", mosaic.sigma, margin), ("all", -1, margin)):
                        comparisons[key].add(whole, decoding, (labels[0], said), mosaic.label)
    for (size, sigma, margin), comparison in sorted(comparisons.items()):
        comparison.emit(size=size, blur="all" if sigma < 0 else sigma, quality=quality, margin=margin)


def _train(photographs: Photographs, path: Path, count: int) -> ImageClassifier:
    """Train on mosaics of all sizes, composed of photographs that were made smaller first."""
    import torch

    rng = np.random.default_rng(0)
    size = _PREPROCESS.resize_size
    material = [shrink(photographs, size / height) for height in _HEIGHTS]
    pixels, labels = [], np.arange(count) % NUM_CLASSES
    for number, label in enumerate(labels):
        small = material[number // NUM_CLASSES % len(material)]
        mosaic = compose(small, size * 4 // 3, size, int(label), rng)
        pixels.append(preprocess_image(mosaic, _PREPROCESS))
    architecture = find_model(_NETWORK).architecture
    torch.manual_seed(0)
    network = build_network(architecture, num_classes=NUM_CLASSES)
    accuracy = fit_demo_model(
        network, np.stack(pixels), labels, mean=_PREPROCESS.mean, std=_PREPROCESS.std, epochs=_EPOCHS
    )
    # Labels of a network that learnt nothing say nothing of those of one that did.
    if accuracy < _LEAST_ACCURACY:
        sys.exit(f"the network tells {accuracy:.0%} of its training pictures apart; give a larger --train")
    emit(_BENCHMARK, "training_accuracy", accuracy, "share", pictures=count, network=_NETWORK)
    folder = save_model_folder(
        path,
        network,
        name=_NETWORK,
        architecture=architecture,
        class_names=[f"group_{number}" for number in range(NUM_CLASSES)],
        preprocess=_PREPROCESS,
    )
    return ImageClassifier.load(folder, precision="fp32", batch_size=8, top_k=1)


def _labels(classifier: ImageClassifier, decodings: Sequence[Decoding]) -> Iterator[int]:
    inputs = [ModelInput(decoding.pixels, width=1, height=1) for decoding in decodings]
    for prediction in classifier.classify_inputs(inputs):
        yield int(prediction.class_ids[0])  # type: ignore[union-attr] # a picture that was decoded


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@cache
def _photographs(photos: Path, sigma: float) -> Photographs:
    return soften(read_photographs(list_images(photos)), sigma)


def _decode(task: tuple[Path, Mosaic, tuple[int, ...]]) -> list[Decoding]:
    """Compose one mosaic, and decode it whole and with each margin."""
    photos, mosaic, margins = task
    rng = np.random.default_rng(mosaic.seed)
    photographs = _photographs(photos, mosaic.sigma)
    data = encode(compose(photographs, mosaic.width, mosaic.height, mosaic.label, rng), mosaic.quality)
    header = read_jpeg_header(data)
    by_scale: dict[int, Decoding] = {}
    decodings = []
    for min_side in (None, *(margin * _PREPROCESS.resize_size for margin in margins)):
        scale = choose_scale(header, min_side)
        if scale not in by_scale:
            start = time.process_time()
            decoded = decode_scaled(data, min_side=min_side)
            between = time.process_time()
            pixels = np.ascontiguousarray(preprocess_image(decoded.pixels, _PREPROCESS))
            seconds = between - start, time.process_time() - between
            by_scale[scale] = Decoding(pixels, decoded.scale, len(data), *seconds)
        decodings.append(by_scale[scale])
    return decodings


def rate(photos: Path, sigma: float, quality: int, count: int, num_files: int, num_turns: int) -> None:
    """Print the steady rate of ``imgcls predict`` with both kinds of folders, and the median of the ratios."""
    import torch

    architecture = find_model(_NETWORK).architecture
    torch.manual_seed(0)
    network = build_network(architecture, num_classes=NUM_CLASSES)
    width, height = _CAMERA
    photographs = _photographs(photos, sigma)
    rates: dict[str, list[float]] = {"full": [], "scaled": []}
    with isolated_environment() as environment, tempfile.TemporaryDirectory(prefix="imgcls-scaled-") as temporary:
        images = Path(temporary, "images")
        images.mkdir()
        for number in range(num_files):
            mosaic = compose(photographs, width, height, number % NUM_CLASSES, np.random.default_rng(number))
            (images / f"{number}.jpg").write_bytes(encode(mosaic, quality))
        files = list_images(images)
        for decode in rates:
            save_model_folder(
                Path(temporary, decode),
                network,
                name=_NETWORK,
                architecture=architecture,
                class_names=[str(number) for number in range(NUM_CLASSES)],
                preprocess=replace(_PREPROCESS, decode=decode),  # type: ignore[arg-type]
            )
            keep_conversion(Path(temporary, decode), files[0], environment)
        with linked_images(files, count) as folder:
            for turn in range(num_turns):
                for decode in rates if turn % 2 == 0 else reversed(rates):
                    store = Path(temporary, f"store-{turn}-{decode}")
                    command = imgcls("predict", folder, "--model", Path(temporary, decode), "--output", store, *_UNITS)
                    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                    rates[decode].append(steady_rate(read_parts(store)))
        megabytes = statistics.fmean(path.stat().st_size for path in files) / 1e6
    about = {"images": count, "turns": num_turns, "blur": sigma, "quality": quality, "megabytes": round(megabytes, 2)}
    about["cores"] = available_cores()
    for decode, values in rates.items():
        emit(_BENCHMARK, f"steady_rate_{decode}", statistics.median(values), "images/s", **about)
    ratios = [scaled / full for full, scaled in zip(*rates.values(), strict=True)]
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    emit(_BENCHMARK, "rate_scaled_to_full", statistics.median(ratios), "ratio", extremes=spread, **about)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaled_decode", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    agree_parser = commands.add_parser("agree", help="differences of pixels and labels")
    agree_parser.add_argument("photos", type=Path, metavar="DIR", help="folder of JPEG photographs")
    agree_parser.add_argument("--pictures", nargs="+", default=_PICTURES, help=f"[default: {' '.join(_PICTURES)}]")
    agree_parser.add_argument("--margins", type=int, nargs="+", default=(1, 2, 3, 5), help="[default: 1 2 3 5]")
    agree_parser.add_argument(
        "--sharpness", type=float, nargs="+", default=_SHARPNESS, help="blurs, pixels [default: 0 0.7]"
    )
    agree_parser.add_argument("--train", type=int, default=2400, help="training pictures [default: 2400]")
    agree_parser.add_argument("--processes", type=int, default=available_cores(), help="[default: one per core]")
    rate_parser = commands.add_parser("rate", help="images per second of imgcls predict")
    rate_parser.add_argument("photos", type=Path, metavar="DIR", help="folder of JPEG photographs")
    rate_parser.add_argument("--blur", type=float, default=_SHARPNESS[-1], help="pixels [default: 0.7]")
    rate_parser.add_argument("--count", type=int, default=400, help="images of a run [default: 400]")
    rate_parser.add_argument("--files", type=int, default=40, help="distinct files of them [default: 40]")
    rate_parser.add_argument("--turns", type=int, default=5, help="[default: 5]")
    for command in (agree_parser, rate_parser):
        command.add_argument("--quality", type=int, default=QUALITY, help=f"of the files [default: {QUALITY}]")
    args = parser.parse_args()
    if args.command == "agree":
        agree(args.photos, args.pictures, args.margins, args.sharpness, args.quality, args.train, args.processes)
    else:
        rate(args.photos, args.blur, args.quality, args.count, args.files, args.turns)


if __name__ == "__main__":
    main()

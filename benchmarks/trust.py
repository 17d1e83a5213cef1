"""How far labels can be trusted: calibration, promised precision, unlike images, drift.

    python -m benchmarks.trust prepare sign_digits WORK        # trains, minutes
    python -m benchmarks.trust calibration WORK
    python -m benchmarks.trust precision WORK --target 0.98
    python -m benchmarks.trust ood WORK --others PHOTOS
    python -m benchmarks.trust drift WORK --others PHOTOS

The network learns from two fifths of the pictures, by the recipe of docs/train.md at 64 pixels; some more choose its
best epoch. On the others everything is fitted and measured, in 20 random halves.
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import binom

from benchmarks.common import emit
from imgcls_ray.errors import ImageError
from imgcls_ray.evaluate.calibration import TEMPERATURES, calibration_table, fit_temperature, reliability_at
from imgcls_ray.evaluate.thresholds import fit_thresholds
from imgcls_ray.models.calibration import ood_scores
from imgcls_ray.models.classifier import ImageClassifier, top_k_scores
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.profile import profile_of
from imgcls_ray.store.drift import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.store.drift import Drift

    _Part = Callable[[Sequence[Prediction]], np.ndarray]
    _Score = Callable[[Sequence[Prediction]], np.ndarray]

_NUM_SPLITS = 20
_RECIPE = "--scratch --image-size 64 --epochs 24 --batch-size 16 --learning-rate 0.05 --crop-scale 0.7"


def _prepare(data: Path, work: Path) -> None:
    (work / "data").mkdir(parents=True)
    (work / "data" / "images").symlink_to((data / "images").resolve())
    (work / "data" / "label.txt").write_bytes((data / "label.txt").read_bytes())
    lines = [line for split in ("train", "val") for line in (data / f"{split}.txt").read_text().splitlines()]
    random.Random(0).shuffle(lines)
    num_train, num_val = len(lines) * 2 // 5, len(lines) * 6 // 100
    splits = {"train": lines[:num_train], "val": lines[num_train:][:num_val], "test": lines[num_train + num_val :]}
    for split, chosen in splits.items():
        (work / "data" / f"{split}.txt").write_text("".join(f"{line}\n" for line in chosen))
    command = ["imgcls", "train", work / "data", "--model", "PP-LCNet_x0_5", *_RECIPE.split()]
    subprocess.run([*map(str, command), "--output", str(work / "train")], check=True)


def _lines(work: Path, split: str) -> tuple[list[Path], np.ndarray]:
    lines = [line.rpartition(" ") for line in (work / "data" / f"{split}.txt").read_text().splitlines()]
    return [work / "data" / path for path, _, _ in lines], np.array([int(label) for _, _, label in lines])


def _predictions(work: Path, encoded: Iterable[bytes]) -> list[Prediction]:
    folder = open_model_folder(work / "train" / "best_model")
    classifier = ImageClassifier.load(folder, precision="fp32", embedding=True, logits=True, num_threads=1)
    return [result for result in classifier.classify_encoded(encoded) if not isinstance(result, ImageError)]


def _of_split(work: Path, split: str) -> tuple[list[Path], np.ndarray, list[Prediction]]:
    """Pictures of a split, their classes, and what the network says of them."""
    lines = [line.rpartition(" ") for line in (work / "data" / f"{split}.txt").read_text().splitlines()]
    paths = [work / "data" / path for path, _, _ in lines]
    labels = np.array([int(label) for _, _, label in lines])
    return paths, labels, _predictions(work, (path.read_bytes() for path in paths))


def _logits(predictions: Sequence[Prediction]) -> np.ndarray:
    """float32 (N, num_classes)."""
    return np.stack([p.logits for p in predictions if p.logits is not None])


def _embedding(predictions: Sequence[Prediction]) -> np.ndarray:
    """float32 (N, num_features)."""
    return np.stack([p.embedding for p in predictions if p.embedding is not None])


def _halves(num_images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed in range(_NUM_SPLITS):
        order = np.random.default_rng(seed).permutation(num_images)
        yield order[: num_images // 2], order[num_images // 2 :]


def _calibration(work: Path) -> None:
    _, labels, predictions = _of_split(work, "test")
    logits = _logits(predictions)
    figures = defaultdict(list)
    for fitted, held_out in _halves(len(labels)):
        table = calibration_table(logits[fitted], labels[fitted], TEMPERATURES)
        temperature = fit_temperature(TEMPERATURES, table) or 1.0
        held = calibration_table(logits[held_out], labels[held_out], TEMPERATURES)
        figures["temperature"].append(temperature)
        figures["ECE before, held-out half"].append(reliability_at(1.0, TEMPERATURES, held).ece)
        figures["ECE after, held-out half"].append(reliability_at(temperature, TEMPERATURES, held).ece)
    emit("trust", "top-1", float((logits.argmax(axis=1) == labels).mean()), "share", images=len(labels))
    for figure, values in figures.items():
        emit("trust", figure, float(np.mean(values)), "mean", lowest=min(values), highest=max(values))


def _precision(work: Path, target: float) -> None:
    _, labels, predictions = _of_split(work, "test")
    ids, scores = top_k_scores(_logits(predictions), 1)
    ids, scores = ids[:, 0], scores[:, 0]
    precisions, coverages, num_below = [], [], 0
    for fitted, held_out in _halves(len(labels)):
        found = fit_thresholds(
            ids[fitted], scores[fitted], (ids == labels)[fitted], target_precision=target, split="val"
        )
        accepted = found.accepts(ids[held_out], scores[held_out])
        coverages.append(float(accepted.mean()))
        if accepted.any():
            is_correct = (ids == labels)[held_out][accepted]
            precisions.append(float(is_correct.mean()))
            num_below += bool(binom.cdf(is_correct.sum(), len(is_correct), target) < 0.05)
    about: dict[str, float] = {"target": target, "splits": _NUM_SPLITS}
    emit("trust", "coverage on the held-out half", float(np.mean(coverages)), "mean", lowest=min(coverages), **about)
    if precisions:
        held = float(np.mean([precision >= target for precision in precisions]))
        emit(
            "trust",
            "precision of what is accepted",
            float(np.mean(precisions)),
            "mean",
            lowest=min(precisions),
            **about,
        )
        about["with a threshold"] = len(precisions)
        emit("trust", "splits with the wanted precision on the held-out half", held, "share", **about)
        # A few hundred images say only so much of a precision.
        emit("trust", "splits surely below it (binomial test, 5 %)", num_below, "splits", **about)


def _blurred(picture: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) / 40))


def _noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    return Image.fromarray((pixels + rng.normal(0, 40, pixels.shape)).clip(0, 255).astype(np.uint8))


def _turned(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.rotate(float(rng.uniform(60, 300)), fillcolor=(128, 128, 128))


_CORRUPTIONS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "blur": _blurred,
    "noise": _noisy,
    "rotation": _turned,
}


def _corrupted(paths: Sequence[Path], kind: str) -> list[bytes]:
    encoded = []
    for number, path in enumerate(paths):
        picture = _CORRUPTIONS[kind](Image.open(path).convert("RGB"), np.random.default_rng(number))
        picture.save(buffer := io.BytesIO(), "JPEG", quality=92)
        encoded.append(buffer.getvalue())
    return encoded


def _ood(work: Path, others: Path) -> None:
    """How well each score tells unlike images from those of the test split."""
    from sklearn.metrics import roc_auc_score

    _, labels, fitted = _of_split(work, "train")
    paths, _, like = _of_split(work, "test")
    nearest, overall = _distance(_embedding, fitted, labels), _distance(_embedding, fitted, np.zeros_like(labels))
    scores: dict[str, _Score] = {
        "max-softmax": lambda p: -top_k_scores(_logits(p), 1)[1][:, 0],
        "max-logit": lambda p: -_logits(p).max(axis=1),
        "energy": lambda p: ood_scores(_logits(p)),
        "distance to class means of the embedding": nearest,
        "the same, less that to the mean of all": lambda p: nearest(p) - overall(p),
        "distance to class means of the logits": _distance(_logits, fitted, labels),
    }
    unlike = {"other pictures": _predictions(work, (path.read_bytes() for path in sorted(others.iterdir())))}
    unlike |= {kind: _predictions(work, _corrupted(paths, kind)) for kind in _CORRUPTIONS}
    for name, score in scores.items():
        for kind, predictions in unlike.items():
            truth = np.repeat([0, 1], [len(like), len(predictions)])
            area = roc_auc_score(truth, np.concatenate([score(like), score(predictions)]))
            emit("trust", f"AUROC: {name}", float(area), "area", unlike=kind)


def _distance(part: _Part, fitted: Sequence[Prediction], labels: np.ndarray) -> _Score:
    """Mahalanobis distance to the nearest class mean, with one covariance for all classes (Lee et al. 2018)."""
    values, (classes, places) = part(fitted), np.unique(labels, return_inverse=True)
    means = np.stack([values[labels == label].mean(axis=0) for label in classes])
    centred = values - means[places]
    covariance = centred.T @ centred / len(values)
    # As many images as features, or fewer: a part of the mean variance is added.
    covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T

    def score(predictions: Sequence[Prediction]) -> np.ndarray:
        white, centres = part(predictions) @ whiten, means @ whiten
        distances: np.ndarray = np.stack([((white - centre) ** 2).sum(axis=1) for centre in centres]).min(axis=0)
        return distances

    return score


def _drift(work: Path, others: Path, num_images: int) -> None:
    """False alarms on clean samples, and misses on spoilt ones, of images that are not in the reference."""
    paths, _, clean = _of_split(work, "test")
    kinds = {kind: _predictions(work, _corrupted(paths, kind)) for kind in _CORRUPTIONS}
    other = _predictions(work, (path.read_bytes() for path in sorted(others.iterdir())))
    cases = [("clean", clean, 0.0), *((kind, kinds[kind], share) for share in (1.0, 0.2) for kind in kinds)]
    for kind, spoilt, share in [*cases, ("other pictures", other, 0.2)]:
        found = [_drift_of(clean, spoilt, share, num_images, halves) for halves in _halves(len(clean))]
        about = {"kind": kind, "spoilt": share, "samples": _NUM_SPLITS, "images": num_images}
        divergence = float(np.median([drift.worst for drift in found]))
        emit("trust", "alarms", sum(bool(drift.real) for drift in found), "samples", divergence=divergence, **about)


def _drift_of(
    clean: Sequence[Prediction],
    spoilt: Sequence[Prediction],
    share: float,
    num_images: int,
    halves: tuple[np.ndarray, np.ndarray],
) -> Drift:
    """One half is the reference. Of the other one, a part of a sample is spoilt."""
    reference, run = halves[0], halves[1][:num_images]
    num_spoilt = int(share * num_images)
    # The same pictures as they are, or others in their place.
    sample = [spoilt[i % len(spoilt)] for i in run[:num_spoilt]] + [clean[i] for i in run[num_spoilt:]]
    drift = compare(profile_of(clean[i] for i in reference), profile_of(sample))
    assert drift is not None
    return drift


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "calibration", "precision", "ood", "drift"):
        command = commands.add_parser(name)
        if name == "prepare":
            command.add_argument("data", type=Path)
        command.add_argument("work", type=Path)
        if name == "precision":
            command.add_argument("--target", type=float, default=0.98)
        if name in ("ood", "drift"):
            command.add_argument("--others", type=Path, required=True, help="folder of pictures of other things")
        if name == "drift":
            command.add_argument("--images", type=int, default=200, help="in each sample")
    given = parser.parse_args()
    match given.command:
        case "prepare":
            _prepare(given.data, given.work)
        case "calibration":
            _calibration(given.work)
        case "precision":
            _precision(given.work, given.target)
        case "ood":
            _ood(given.work, given.others)
        case "drift":
            _drift(given.work, given.others, given.images)


if __name__ == "__main__":
    main()

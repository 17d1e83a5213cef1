"""How far labels can be trusted: calibration, promised precision, unlike images.

    python -m benchmarks.trust prepare sign_digits WORK        # trains, minutes
    python -m benchmarks.trust calibration WORK
    python -m benchmarks.trust precision WORK --target 0.98
    python -m benchmarks.trust ood WORK --others PHOTOS

The network learns from two fifths of the pictures, by the recipe of docs/train.md at 64 pixels. On the others
everything is fitted and measured, in 20 random halves.
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.common import emit
from imgcls_ray.errors import ImageError
from imgcls_ray.evaluate.calibration import TEMPERATURES, calibration_table, fit_temperature, reliability_at
from imgcls_ray.evaluate.thresholds import fit_thresholds
from imgcls_ray.models.calibration import ood_scores
from imgcls_ray.models.classifier import ImageClassifier, top_k_scores
from imgcls_ray.models.folder import open_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_NUM_SPLITS = 20
_RECIPE = "--scratch --image-size 64 --epochs 24 --batch-size 16 --learning-rate 0.05 --crop-scale 0.7"


class Answers(NamedTuple):
    """What the network says of some images."""

    logits: np.ndarray
    """float32 (N, num_classes)."""
    embedding: np.ndarray
    """float32 (N, num_features)."""


def _prepare(data: Path, work: Path) -> None:
    (work / "data").mkdir(parents=True)
    (work / "data" / "images").symlink_to((data / "images").resolve())
    (work / "data" / "label.txt").write_bytes((data / "label.txt").read_bytes())
    lines = [line for split in ("train", "val") for line in (data / f"{split}.txt").read_text().splitlines()]
    random.Random(0).shuffle(lines)
    num_train = len(lines) * 2 // 5
    for split, chosen in (("train", lines[:num_train]), ("val", lines[num_train:])):
        (work / "data" / f"{split}.txt").write_text("".join(f"{line}\n" for line in chosen))
    command = ["imgcls", "train", work / "data", "--model", "PP-LCNet_x1_0", *_RECIPE.split()]
    subprocess.run([*map(str, command), "--output", str(work / "train")], check=True)


def _lines(work: Path, split: str) -> tuple[list[Path], np.ndarray]:
    lines = [line.rpartition(" ") for line in (work / "data" / f"{split}.txt").read_text().splitlines()]
    return [work / "data" / path for path, _, _ in lines], np.array([int(label) for _, _, label in lines])


def _answers(work: Path, encoded: Sequence[bytes]) -> Answers:
    folder = open_model_folder(work / "train" / "best_model")
    classifier = ImageClassifier.load(folder, precision="fp32", embedding=True, logits=True, num_threads=1)
    logits, embedding = [], []
    for result in classifier.classify_encoded(encoded):
        if not isinstance(result, ImageError) and result.logits is not None and result.embedding is not None:
            logits.append(result.logits)
            embedding.append(result.embedding)
    return Answers(np.stack(logits), np.stack(embedding))


def _of_files(work: Path, paths: Sequence[Path]) -> Answers:
    return _answers(work, [path.read_bytes() for path in paths])


def _halves(num_images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed in range(_NUM_SPLITS):
        order = np.random.default_rng(seed).permutation(num_images)
        yield order[: num_images // 2], order[num_images // 2 :]


def _calibration(work: Path) -> None:
    paths, labels = _lines(work, "val")
    logits = _of_files(work, paths).logits
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
    paths, labels = _lines(work, "val")
    ids, scores = top_k_scores(_of_files(work, paths).logits, 1)
    ids, scores = ids[:, 0], scores[:, 0]
    precisions, coverages = [], []
    for fitted, held_out in _halves(len(labels)):
        found = fit_thresholds(
            ids[fitted], scores[fitted], (ids == labels)[fitted], target_precision=target, split="val"
        )
        accepted = found.accepts(ids[held_out], scores[held_out])
        coverages.append(float(accepted.mean()))
        if accepted.any():
            precisions.append(float((ids == labels)[held_out][accepted].mean()))
    about = {"target": target, "splits": _NUM_SPLITS}
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
        emit("trust", "splits with the wanted precision", held, "share", **about)


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
    """How well each score tells unlike images from those of val."""
    from sklearn.metrics import roc_auc_score

    train_paths, train_labels = _lines(work, "train")
    paths, _ = _lines(work, "val")
    train, like = _of_files(work, train_paths), _of_files(work, paths)
    # The means and the spread are those of val's first half: a network has pressed those of train together.
    scores: dict[str, Callable[[Answers], np.ndarray]] = {
        "max-softmax": lambda a: -top_k_scores(a.logits, 1)[1][:, 0],
        "max-logit": lambda a: -a.logits.max(axis=1),
        "energy": lambda a: ood_scores(a.logits),
        "distance to class means of the embedding": _distance(train.embedding, train_labels, lambda a: a.embedding),
        "distance to class means of the logits": _distance(train.logits, train_labels, lambda a: a.logits),
        "the same, least over classes, relative": _relative(train.embedding, train_labels),
    }
    unlike = {"other pictures": _of_files(work, sorted(others.iterdir()))}
    unlike |= {kind: _answers(work, _corrupted(paths, kind)) for kind in _CORRUPTIONS}
    for name, score in scores.items():
        for kind, answers in unlike.items():
            truth = np.repeat([0, 1], [len(like.logits), len(answers.logits)])
            area = roc_auc_score(truth, np.concatenate([score(like), score(answers)]))
            emit("trust", f"AUROC: {name}", float(area), "area", unlike=kind)


def _distance(
    values: np.ndarray, labels: np.ndarray, part: Callable[[Answers], np.ndarray]
) -> Callable[[Answers], np.ndarray]:
    """Mahalanobis distance to the nearest class mean, with one covariance for all classes (Lee et al. 2018)."""
    means = np.stack([values[labels == label].mean(axis=0) for label in np.unique(labels)])
    centred = values - means[np.searchsorted(np.unique(labels), labels)]
    covariance = centred.T @ centred / len(values)
    inverse = np.linalg.pinv(covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))

    def score(answers: Answers) -> np.ndarray:
        away = part(answers)[:, None] - means
        distances: np.ndarray = np.einsum("nkd,de,nke->nk", away, inverse, away, optimize=True).min(axis=1)
        return distances

    return score


def _relative(values: np.ndarray, labels: np.ndarray) -> Callable[[Answers], np.ndarray]:
    """The same, less the distance to the mean of everything (Ren et al. 2021)."""
    nearest = _distance(values, labels, lambda a: a.embedding)
    whole = _distance(values, np.zeros(len(values), int), lambda a: a.embedding)
    return lambda answers: nearest(answers) - whole(answers)


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare")
    prepare.add_argument("data", type=Path)
    for name in ("calibration", "precision", "ood"):
        command = prepare if name == "prepare" else commands.add_parser(name)
        command.add_argument("work", type=Path)
        if name == "precision":
            command.add_argument("--target", type=float, default=0.98)
        if name == "ood":
            command.add_argument("--others", type=Path, required=True, help="folder of pictures of other things")
    prepare.add_argument("work", type=Path)
    given = parser.parse_args()
    if given.command == "prepare":
        _prepare(given.data, given.work)
    elif given.command == "calibration":
        _calibration(given.work)
    elif given.command == "precision":
        _precision(given.work, given.target)
    else:
        _ood(given.work, given.others)


if __name__ == "__main__":
    main()

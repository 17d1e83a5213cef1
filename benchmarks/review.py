"""Accuracy after reviewing the images that the queue puts first, beside as many random ones.

    python -m benchmarks.review DATASET

DATASET has PaddleX's train.txt, val.txt and label.txt. For each seed, a small convolutional network is trained from
random weights on some of the training images, and labels the others. Of these, the order of ``imgcls review``
(confidence, out-of-distribution score, embeddings) and a random draw each choose images, which get their true labels.
The network is then trained again, from the same random weights, with the first images and those that were chosen. The
figure is top-1 on val after the last epoch. It measures the order alone: pictures are small and in memory, and no store
is written.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from benchmarks.common import emit, print_table
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from imgcls_ray.models.calibration import ood_scores
from imgcls_ray.review.ranking import rank

SIZE, EPOCHS, BATCH, LEARNING_RATE = 32, 40, 32, 0.003


class Images(NamedTuple):
    """A split in memory."""

    pixels: np.ndarray
    """float32 (N, 3, SIZE, SIZE)."""
    labels: np.ndarray

    def only(self, places: np.ndarray) -> Images:
        return Images(self.pixels[places], self.labels[places])


def load(data: Path, split: str) -> Images:
    preprocess = Preprocess(resize_size=SIZE, crop_size=SIZE)
    lines = [line.rsplit(maxsplit=1) for line in (data / f"{split}.txt").read_text().splitlines()]
    pixels = np.stack([preprocess_image(decode_image((data / path).read_bytes()), preprocess) for path, _ in lines])
    return Images(
        np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 128 - 1,
        np.array([int(label) for _, label in lines], np.int64),
    )


class Network(nn.Module):
    """Three convolutions, and a linear layer on the means of their outputs in four by four fields."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIZE // 8) ** 2, 64), nn.ReLU())
        self.head = nn.Linear(64, num_classes)


def train(images: Images, num_classes: int, seed: int) -> Network:
    torch.manual_seed(seed)
    network = Network(num_classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    num_steps = EPOCHS * (len(images.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    network.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(images.labels)).numpy()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            # Shifted by up to three pixels.
            rows, columns = torch.randint(-3, 4, (2,)).tolist()
            pixels = torch.from_numpy(np.roll(images.pixels[chosen], (rows, columns), (2, 3)))
            loss = F.cross_entropy(network.head(network.features(pixels)), torch.from_numpy(images.labels[chosen]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.eval()
    return network


def outputs(network: Network, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and logits."""
    with torch.inference_mode():
        features = network.features(torch.from_numpy(images.pixels))
        return features.numpy(), network.head(features).numpy()


def accuracy(network: Network, images: Images) -> float:
    return float((outputs(network, images)[1].argmax(axis=1) == images.labels).mean())


def queue_of(network: Network, images: Images, budget: int) -> np.ndarray:
    """Places of the images that the queue would put first."""
    embeddings, logits = outputs(network, images)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = shares.max(axis=1) / shares.sum(axis=1)
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return rank(confidence, ood_scores(logits).astype(np.float64), unit, budget).order


def one_seed(train_images: Images, val: Images, seed: int, num_first: int, budget: int) -> dict[str, float]:
    num_classes = int(train_images.labels.max()) + 1
    places = np.arange(len(train_images.labels))
    random.Random(seed).shuffle(places)  # type: ignore[arg-type]
    first, others = places[:num_first], places[num_first:]
    network = train(train_images.only(first), num_classes, seed)
    chosen = {"queue": others[queue_of(network, train_images.only(others), budget)], "random": others[:budget]}
    found = {"first": accuracy(network, val)}
    for name, more in chosen.items():
        images = train_images.only(np.concatenate([first, more]))
        found[name] = accuracy(train(images, num_classes, seed), val)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--first", type=int, default=300, help="images that are trained on before")
    parser.add_argument("--budget", type=int, default=200, help="images that are reviewed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    train_images, val = load(options.dataset, "train"), load(options.dataset, "val")
    found = []
    for seed in options.seeds:
        found.append(one_seed(train_images, val, seed, options.first, options.budget))
        for name, value in found[-1].items():
            emit("review", f"{name}: val top-1", value, "share", seed=seed)
    rows = [
        [name, ", ".join(f"{one[name]:.1%}" for one in found), f"{statistics.mean(one[name] for one in found):.2%}"]
        for name in found[0]
    ]
    title = f"{options.first} images, then {options.budget} reviewed"
    print_table(("trained on", "val top-1 of each seed", "mean"), rows, title=title, console=Console(stderr=True))


if __name__ == "__main__":
    main()

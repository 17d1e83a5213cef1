"""Train the way a torch user writes it in an afternoon: the loop that ``imgcls train`` is compared with.

    python -m benchmarks.plain_training DATASET --seed 0

One process, PIL, torchvision's transforms, a ``DataLoader``, SGD: a recipe for some thousands of images.
DATASET has PaddleX's train.txt, val.txt and label.txt. Nothing of imgcls_ray is used.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.common import emit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_DECAY, DECAY = 0.0, 3e-5
LABEL_SMOOTHING = 0.1


class ListedImages(Dataset[tuple[torch.Tensor, int]]):
    """The images of ``train.txt`` or ``val.txt``."""

    def __init__(self, data: Path, split: str, transform: Any) -> None:
        lines = (data / f"{split}.txt").read_text().splitlines()
        self._items = [(data / path, int(label)) for path, _, label in (line.rpartition(" ") for line in lines)]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        path, label = self._items[number]
        with Image.open(path) as image:
            return self._transform(image.convert("RGB")), label


def transforms(size: int, crop_scale: float) -> tuple[Any, Any]:
    """For training and for evaluation."""
    tail = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    crop = v2.RandomResizedCrop(size, scale=(crop_scale, 1.0), antialias=True)
    train = v2.Compose([crop, v2.RandomHorizontalFlip(), *tail])
    return train, v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), *tail])


def rate_at(step: int, total: int, warmup: int, highest: float) -> float:
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    return highest * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2


def groups_of(network: torch.nn.Module) -> list[dict[str, Any]]:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": NO_DECAY}]


def evaluate(network: torch.nn.Module, loader: DataLoader[Any]) -> float:
    network.eval()
    correct = total = 0
    with torch.inference_mode():
        for images, labels in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            correct += int((network(images).argmax(1) == labels).sum())
            total += len(labels)
    return correct / total


def train(
    data: Path,
    *,
    size: int,
    epochs: int,
    batch_size: int,
    highest: float,
    crop_scale: float,
    seed: int,
) -> tuple[list[float], list[float]]:
    """Top-1 on val after each epoch, and images/s of each epoch's training."""
    torch.manual_seed(seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    num_classes = len((data / "label.txt").read_text().split("\n")) - 1
    # As in the zoo: without the bias that timm adds.
    network = timm.create_model("lcnet_100", num_classes=num_classes, head_bias=False)
    network = network.to(memory_format=torch.channels_last)
    for_train, for_val = transforms(size, crop_scale)
    workers: dict[str, Any] = {"num_workers": len(os.sched_getaffinity(0)), "persistent_workers": True}
    train_loader = DataLoader(
        ListedImages(data, "train", for_train), batch_size, shuffle=True, drop_last=True, **workers
    )
    val_loader = DataLoader(ListedImages(data, "val", for_val), batch_size, **workers)
    optimizer = torch.optim.SGD(groups_of(network), lr=highest, momentum=0.9)
    steps = len(train_loader)
    top1, rates = [], []
    for epoch in range(epochs):
        network.train()
        start = time.perf_counter()
        for number, (images, labels) in enumerate(train_loader):
            rate = rate_at(epoch * steps + number, epochs * steps, round(min(5.0, epochs / 4) * steps), highest)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = images.contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(network(images), labels, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        rates.append(steps * batch_size / (time.perf_counter() - start))
        top1.append(evaluate(network, val_loader))
    return top1, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--crop-scale", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    top1, rates = train(
        arguments.data,
        size=arguments.size,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        highest=arguments.learning_rate,
        crop_scale=arguments.crop_scale,
        seed=arguments.seed,
    )
    steady = sorted(rates[1:])[len(rates[1:]) // 2] if len(rates) > 1 else rates[0]
    emit("plain_training", "best val top-1", max(top1), "share", seed=arguments.seed, last=top1[-1])
    emit("plain_training", "images per second, steady", steady, "1/s", seed=arguments.seed)


if __name__ == "__main__":
    main()

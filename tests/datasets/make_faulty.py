"""A dataset with one of each fault, and a clean one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from pathlib import Path

_NUM_PER_CLASS = 8


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture like no other: as in photographs, the finer the shapes the weaker they are, and there is some grain."""
    rng = np.random.default_rng(seed)
    total = np.full((size[1], size[0], 3), 128.0)
    for octave in range(5):
        shapes = rng.normal(0, 1, (3 * 2**octave, 4 * 2**octave, 3)).astype(np.float32)
        channels = [
            Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC) for channel in shapes.T.swapaxes(1, 2)
        ]
        total += 40 / 1.6**octave * np.stack([np.asarray(channel) for channel in channels], axis=2)
    total += rng.normal(0, 6, total.shape)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def write_clean(root: Path, classes: tuple[str, ...] = ("cat", "dog", "猫 头鹰")) -> None:
    """Three classes, eight images each to train with and three to validate with; names that are no fault."""
    (root / "images").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    seed = 0
    for label in range(len(classes)):
        for split, count in (("train", _NUM_PER_CLASS), ("val", 3)):
            for _ in range(count):
                name = f"images/a {seed}#{'图' if seed % 5 == 0 else 'x'}.jpg"
                (root / name).write_bytes(jpeg(picture(seed)))
                lists[split].append(f"{name} {label}")
                seed += 1
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("\n".join(lines))
    (root / "label.txt").write_text("".join(f"{label} {name}\r\n" for label, name in enumerate(classes)))


def write_faulty(root: Path) -> None:
    """The clean one, and one of each fault that can stand beside the others."""
    write_clean(root)
    images = root / "images"
    train: list[str] = (root / "train.txt").read_text().split("\n")
    val: list[str] = (root / "val.txt").read_text().split("\n")

    def add(name: str, content: bytes | None, label: object = 0, to: list[str] = train) -> None:
        if content is not None:
            (images / name).parent.mkdir(exist_ok=True)
            (images / name).write_bytes(content)
        to.append(f"images/{name} {label}")

    base = jpeg(picture(100))
    add("missing.jpg", None)
    add("truncated.jpg", base[: len(base) // 2])
    add("text.jpg", b"this is no picture")
    add("empty.jpg", b"")
    add("not_integer.jpg", jpeg(picture(101)), "1x")
    add("out_of_range.jpg", jpeg(picture(102)), 7)
    add("negative.jpg", jpeg(picture(103)), -1)
    train.append("images/no_label.jpg")
    train.append("images/comma.jpg,1")
    add("conflict_a.jpg", jpeg(picture(104)), 0)
    add("conflict_b.jpg", jpeg(picture(104)), 1)
    add("exact_a.jpg", jpeg(picture(105)))
    add("exact_b.jpg", jpeg(picture(105)))
    add("near_a.jpg", jpeg(picture(106)))
    add("near_b.jpg", jpeg(picture(106).resize((320, 240)), quality=60))
    add("leak_a.jpg", jpeg(picture(107)))
    add("leak_b.jpg", jpeg(picture(107)), to=val)
    add("near_leak_a.jpg", jpeg(picture(108)))
    add("near_leak_b.jpg", jpeg(picture(108), quality=50), to=val)
    add("twice.jpg", jpeg(picture(109)))
    add("twice.jpg", None)
    add("dark.jpg", jpeg(picture(110).point(lambda value: value // 32)))
    add("bright.jpg", jpeg(picture(111).point(lambda value: 250 + value // 64)))
    add("uniform.jpg", jpeg(Image.new("RGB", (160, 120), (90, 120, 60))))
    add("blurred.jpg", jpeg(picture(112, (640, 480)).filter(ImageFilter.GaussianBlur(25))))
    add("tiny.jpg", jpeg(picture(113, (24, 20))))
    add("long.jpg", jpeg(picture(114, (800, 100))))
    exif = Image.Exif()
    exif[0x0112] = 6
    add("rotated.jpg", jpeg(picture(115), exif=exif))
    add("grey.jpg", jpeg(picture(116).convert("L")))
    add("cmyk.jpg", jpeg(picture(117).convert("CMYK")))
    deep = io.BytesIO()
    Image.fromarray(np.random.default_rng(118).integers(0, 65536, (120, 160)).astype(np.uint16)).save(deep, "PNG")
    add("deep.png", deep.getvalue())
    add("Twin.jpg", jpeg(picture(119)))
    add("twin.jpg", jpeg(picture(120)))
    add(".hidden/h.jpg", jpeg(picture(121)))
    for seed in range(122, 122 + 3 * _NUM_PER_CLASS):
        add(f"many_{seed}.jpg", jpeg(picture(seed)), 1)
    (root / "train.txt").write_bytes("\n".join(train).encode() + b"\nimages/latin\xe9.jpg 0\n")
    (root / "val.txt").write_text("\r\n".join(val))
    labels = (root / "label.txt").read_text()
    (root / "label.txt").write_text(labels + "4 eel\n4 fox\n5 cat\nx 6\n6\n")

"""A labelled dataset of pictures for the small model, with class ids of its own and images that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Another order than the model's, and no class has 1 or 6.
IDS = {"dog": 0, "ant": 2, "gnu": 3, "cat": 4, "bee": 5, "eel": 7, "fox": 8}
BAD = {"cut.jpg": "truncated", "text.jpg": "unsupported_format", "empty.jpg": "empty", "gone.jpg": "not_found"}


def write_pictures(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        paths.append(folder / f"{i:03d}.jpg")
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(paths[-1], quality=92)
    return paths


def write_dataset(
    root: Path, count: int, *, ids: Mapping[str, int] = IDS, seed: int = 0, bad: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Write ``val.txt`` (and no ``train.txt``). Returns path and class name of each line."""
    names = list(ids)
    rng = np.random.default_rng(seed)
    pictures = write_pictures(root / "images", count, seed=seed)
    paths = [str(path.relative_to(root)) for path in pictures]
    content = {"cut.jpg": pictures[0].read_bytes()[:900], "text.jpg": b"no picture", "empty.jpg": b""}
    for place, name in enumerate(bad):
        if name in content:
            (root / "images" / name).write_bytes(content[name])
        paths.insert(7 * (place + 1), f"images/{name}")
    lines = [(path, names[rng.integers(len(names))]) for path in paths]
    (root / "label.txt").write_text("".join(f"{label} {name}\n" for name, label in ids.items()))
    (root / "val.txt").write_text("".join(f"{path} {ids[name]}\n" for path, name in lines))
    return lines

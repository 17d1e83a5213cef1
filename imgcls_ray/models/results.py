"""One image's result for people: print it, draw it, save it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from imgcls_ray.errors import ImageError
from imgcls_ray.words import tell_apart

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from PIL import Image

    from imgcls_ray.models.calibration import Decision

_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,4}$")  # of a file's kind, ".jpg"; not the end of "v1.25"
_UNSAFE = re.compile(r"[^\w.\- ]+")


class ErrorDict(TypedDict):
    """Why there is no prediction."""

    code: str
    message: str


class ResultDict(TypedDict):
    """A result as JSON holds it; keys as in PaddleX's prediction files."""

    input_path: str
    class_ids: list[int]
    scores: list[float]
    label_names: list[str]
    error: NotRequired[ErrorDict]


@dataclass(frozen=True)
class Result:
    """A prediction, or the typed error of one input."""

    input: str
    """Path, address, or ``image_N`` for the N-th input without a name."""
    class_ids: tuple[int, ...] = ()
    """Best first; empty on error."""
    label_names: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    """Softmax, best first."""
    probability: float | None = None
    """Calibrated probability that the best class is correct; ``None`` for a model without a temperature."""
    decision: Decision | None = None
    """``accepted`` or ``unsure``; ``None`` for a model without thresholds."""
    ood_score: float | None = None
    """The higher, the less the image is like those of the training set."""
    width: int | None = None
    """Of the upright picture, pixels."""
    height: int | None = None
    error: ImageError | None = None
    load_pixels: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)
    """Decodes the input again: uint8 (H, W, 3). Results do not hold on to pixels."""

    @property
    def label(self) -> str | None:
        """The best class, or ``None`` on error."""
        return self.label_names[0] if self.label_names else None

    @property
    def score(self) -> float | None:
        return self.scores[0] if self.scores else None

    def to_dict(self) -> ResultDict:
        """The result as JSON holds it; keys as in PaddleX's prediction files."""
        content: ResultDict = {
            "input_path": self.input,
            "class_ids": list(self.class_ids),
            "scores": [round(score, 5) for score in self.scores],
            "label_names": list(self.label_names),
        }
        if self.error is not None:
            content["error"] = {"code": self.error.code.value, "message": str(self.error)}
        return content

    def print(self, json_format: bool = False) -> None:
        """Print the input and its labels, best first, or its error; or all of it as JSON."""
        if json_format:
            print(json.dumps(self.to_dict(), indent=4, ensure_ascii=False))
            return
        print(self.input)
        if self.error is not None:
            print(f"  {self.error.code}: {self.error}")
        for name, score in zip(self.label_names, self.scores, strict=True):
            print(f"  {score:7.4f}  {name}")
        if self.decision is not None:
            print(f"  {self.decision}")

    def save_to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to a ``.json`` file, or under a name of its own into a folder. Returns the file."""
        target = self._target(path, (".json",))
        target.write_text(json.dumps(self.to_dict(), indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        return target

    def save_to_img(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture with its labels to a ``.jpg`` or ``.png`` file, or into a folder. Returns the file."""
        target = self._target(path, (".jpg", ".jpeg", ".png"))
        self.draw().save(target, quality=92)
        return target

    def draw(self) -> Image.Image:
        """The picture with its labels on it; a card with the error where there is none."""
        from imgcls_ray.images.annotate import annotate_image, error_card

        if self.error is None and self.load_pixels is not None:
            names = self.label_names
            if self.class_ids:
                names = tuple(tell_apart(dict(zip(self.class_ids, names, strict=True))).values())
            lines = [f"{name} {score:.2f}" for name, score in zip(names, self.scores, strict=True)]
            try:
                return annotate_image(self.load_pixels(), lines)
            except ImageError as error:
                return error_card(f"{self.input}\n{error.code}: {error}")
        return error_card(f"{self.input}\n{self.error.code}: {self.error}" if self.error else self.input)

    def _target(self, path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
        target = Path(path)
        if target.suffix.lower() in suffixes and not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            return target
        target.mkdir(parents=True, exist_ok=True)
        return target / f"{self._file_stem()}{suffixes[0]}"

    def _file_stem(self) -> str:
        """``photo-16aad085`` of ``a/photo.jpg``: eight digits of the path keep equal names of two folders apart."""
        base = _SUFFIX.sub("", os.path.basename(self.input.rstrip("/")).partition("?")[0])
        name = _UNSAFE.sub("_", base).strip(" .")
        digest = hashlib.sha256(self.input.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return f"{name[:80] or 'image'}-{digest}"

"""What a path holds that is given as a model folder and is none: told by what is in it, with the way out."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTS = (".safetensors", ".pdparams", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_MAX_NAMES = 10_000
_MAX_CONFIG_BYTES = 2**20


def foreign_file(path: Path) -> str:
    """What a file is that was given as a model folder, and the way out."""
    if (path.parent / "model.json").is_file():
        return f"is a file of a model folder; give the folder, {path.parent}"
    if path.suffix.lower() in _WEIGHTS:
        return f"is a file, not a model folder; {_made_of(str(path))} makes one of weights"
    if path.suffix.lower() in (".onnx", ".xml", ".engine", ".tflite", ".pdmodel", ".pdiparams"):
        return (
            "is an exported network, not a model folder; give the folder that `imgcls export` wrote, or the weights "
            f"that it was exported from: {_made_of('FILE')}"
        )
    return f"is a file, not a model folder; {_made_of('FILE')} makes one of weights"


def foreign_folder(path: Path) -> str:
    """What a folder without a ``model.json`` is, and the way out."""
    names = _names_in(path)
    if "best_model" in names and (path / "best_model" / "model.json").is_file():
        return f"is the output of a training, not a model folder; give {path / 'best_model'}"
    if "store.json" in names and "predictions" in names:
        return "is a label store, not a model folder; give the model that wrote it"
    if paddle := _first(names, ".pdparams"):
        return f"is a training output of Paddle, not a model folder; {_made_of(str(path / paddle))} makes one of it"
    if paddle := _first(names, ".pdiparams") or _first(names, ".pdmodel"):
        return (
            f"is an inference model of Paddle ({paddle}), not a model folder, and its weights cannot be read; give "
            f"those of the training: {_made_of('FILE.pdparams')}"
        )
    if "config.json" in names:
        return _hugging_face(path, names)
    if "saved_model.pb" in names:
        return f"is a SavedModel of TensorFlow, not a model folder; {_made_of('FILE')} takes weights of torch or Paddle"
    if exported := _first(names, ".onnx") or _first(names, ".xml"):
        return (
            f"holds {exported} and no model.json; give a folder that `imgcls export` wrote, or the weights that it was "
            f"exported from: {_made_of('FILE')}"
        )
    if weights := next((name for suffix in _WEIGHTS if (name := _first(names, suffix))), None):
        return (
            f"holds no model.json, so it is no model folder; {_made_of(str(path / weights))} makes one of its weights"
        )
    return f"holds no model.json, so it is no model folder; {_made_of(None)} makes one"


def _hugging_face(path: Path, names: list[str]) -> str:
    weights = _first(names, ".safetensors") or _first(names, ".bin") or "FILE"
    architecture, kind = _hugging_face_kind(path / "config.json")
    if architecture:
        return (
            "is a timm model of Hugging Face, not a model folder; "
            f"{_made_of(str(path / weights), f'timm:{architecture}')} makes one of it"
        )
    of_kind = f" (model_type {kind})" if kind else ""
    return (
        f"is a model of Hugging Face{of_kind}, not a model folder; weights of timm's networks can be taken over: "
        f"{_made_of(str(path / weights), 'timm:NAME')}"
    )


def _hugging_face_kind(path: Path) -> tuple[str, str]:
    """timm's ``architecture`` and transformers' ``model_type`` of a ``config.json``, where it names them."""
    with suppress(OSError, ValueError, RecursionError):
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
        if isinstance(config, dict):
            found = [config.get(key) for key in ("architecture", "model_type")]
            return tuple(text if isinstance(text, str) and text.isprintable() else "" for text in found)  # type: ignore[return-value]
    return "", ""


def _names_in(path: Path) -> list[str]:
    with suppress(OSError), os.scandir(path) as entries:
        return sorted(entry.name for entry, _ in zip(entries, range(_MAX_NAMES), strict=False))
    return []


def _first(names: list[str], suffix: str) -> str | None:
    return next((name for name in names if name.lower().endswith(suffix)), None)


def _made_of(weights: str | None, name: str = "NAME") -> str:
    """The command that makes a model folder."""
    return f"`imgcls models new {name}{f' --weights {weights}' if weights else ''} --output DIR`"

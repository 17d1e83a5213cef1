"""What a network says of known pictures in float32: its model folder says it, or a process of its own finds out.

Building and converting a network takes seconds of Python and most of a gigabyte: a replica that answers requests
meanwhile has neither to spare. ``python -m imgcls_ray.serve.reference`` reads its task from stdin and writes logits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imgcls_ray.errors import ImgclsError, ModelFolderError
from imgcls_ray.models.engines.converted import bundled_logits
from imgcls_ray.models.engines.load import prepare_engine, runs_converted
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.known_pictures import NUM_BUNDLED, known_pictures

if TYPE_CHECKING:
    from imgcls_ray.models.engines.load import EngineName
    from imgcls_ray.models.folder import ModelFolder


class Reference(NamedTuple):
    """What a network says of pictures in float32."""

    pictures: np.ndarray
    """uint8 (B, H, W, 3)."""
    logits: np.ndarray
    """float32 (B, num_classes)."""


def find_reference(folder: ModelFolder, *, count: int, engine: EngineName, device: str) -> Reference | None:
    """Make the engine's network ready, and say what it must say.

    The model folder may say it, with its converted network. Otherwise another process builds the network and runs it.

    Args:
        folder: the model; of an exported one nothing is known but its engine's answers.
        count: of pictures.
        engine: that will run it.
        device: where.

    Returns:
        None for an exported network.

    Raises:
        ModelFolderError: the network cannot be built, or what it says is not a finite number.
    """
    if folder.spec.exported is not None:
        return None
    if (reference := _bundled(folder, count, engine, device)) is not None:
        return reference
    told = _ask(folder, count, engine, device)
    if not told and (reference := _bundled(folder, count, engine, device)) is not None:
        return reference
    if len(told) != 4 * count * folder.spec.num_classes:
        raise ModelFolderError(f"{folder.path}: was replaced while it was loaded")
    logits = np.frombuffer(told, np.float32).reshape(count, folder.spec.num_classes)
    if not np.isfinite(logits).all():
        raise ModelFolderError(f"{folder.path}: the network's output for a picture is not a finite number")
    return Reference(known_pictures(count, folder.spec.preprocess.crop_size), logits)


def _bundled(folder: ModelFolder, count: int, engine: EngineName, device: str) -> Reference | None:
    """What the model folder says itself, if its converted network runs and was found to be right."""
    if not runs_converted(folder, engine, device) or (logits := bundled_logits(folder)) is None:
        return None
    # No batch of them is the same after a shift or a turn: rows that change places show.
    order = [i.bit_count() % NUM_BUNDLED for i in range(count)]
    return Reference(known_pictures(NUM_BUNDLED, folder.spec.preprocess.crop_size)[order], logits[order])


def _ask(folder: ModelFolder, count: int, engine: EngineName, device: str) -> bytes:
    """Let another process prepare the engine, and say what the network says.

    Returns:
        float32 (count, num_classes); nothing if the folder's converted network was found to be right.
    """
    task = {
        "path": str(folder.path),
        "takes_bundle": folder.takes_bundle,
        "count": count,
        "engine": engine,
        "device": device,
    }
    done = subprocess.run(
        [sys.executable, "-m", "imgcls_ray.serve.reference"], input=json.dumps(task).encode(), capture_output=True
    )
    if done.returncode == 2:
        raise ModelFolderError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    if done.returncode:
        raise ModelFolderError(
            f"{folder.path}: the process that reads the network ended with {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()[-400:]}"
        )
    return done.stdout


def _answer(task: dict[str, Any]) -> bytes:
    folder = replace(open_model_folder(Path(task["path"])), takes_bundle=task["takes_bundle"])
    prepare_engine(folder, task["engine"], task["device"], False)
    if _bundled(folder, task["count"], task["engine"], task["device"]) is not None:
        return b""
    import torch

    pictures = known_pictures(task["count"], folder.spec.preprocess.crop_size)
    with torch.inference_mode():
        logits: torch.Tensor = from_uint8(folder, embedding=False)(torch.from_numpy(pictures))
    return logits.float().numpy().tobytes()


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(_answer(json.load(sys.stdin)))
    except ImgclsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

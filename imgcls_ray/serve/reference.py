"""What a network says of known pictures in float32, found out in a process of its own.

Building and converting a network takes seconds of Python and most of a gigabyte: a replica that answers requests
meanwhile has neither to spare. ``python -m imgcls_ray.serve.reference`` reads its task from stdin and writes logits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls_ray.errors import ImgclsError, ModelFolderError
from imgcls_ray.models.engines.load import prepare_engine
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.folder import open_model_folder

if TYPE_CHECKING:
    from imgcls_ray.models.engines.load import EngineName
    from imgcls_ray.models.folder import ModelFolder


def reference_logits(folder: ModelFolder, *, count: int, engine: EngineName, device: str) -> np.ndarray | None:
    """Convert the network for the engine, if need be, and say what it must say.

    Args:
        folder: the model; of an exported one nothing is known but its engine's answers.
        count: of pictures.
        engine: that will run it.
        device: where.

    Returns:
        float32 (count, num_classes); None for an exported network.

    Raises:
        ModelFolderError: the network cannot be built, or what it says is not a finite number.
    """
    if folder.spec.exported is not None:
        return None
    task = {"path": str(folder.path), "count": count, "engine": engine, "device": device}
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
    logits = np.frombuffer(done.stdout, np.float32).reshape(count, folder.spec.num_classes)
    if not np.isfinite(logits).all():
        raise ModelFolderError(f"{folder.path}: the network's output for a picture is not a finite number")
    return logits


def known_pictures(count: int, size: int) -> np.ndarray:
    """Patterns in all colours, the same every time: uint8 (count, size, size, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    repeats = -(-size // 8)
    return np.ascontiguousarray(coarse.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size])


def _answer(task: dict[str, Any]) -> bytes:
    import torch

    folder = open_model_folder(Path(task["path"]))
    prepare_engine(folder, task["engine"], task["device"], False)
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

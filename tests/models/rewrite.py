"""Model folders as someone would leave them who knows the format and means no good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from imgcls_ray.models import spec as module
from imgcls_ray.models.folder import ModelFolder, open_model_folder, sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> ModelFolder:
    """Change weights; hashes and fingerprint are made to fit."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    spec = json.loads((folder / "model.json").read_text())
    spec["weights_sha256"] = sha256_file(folder / "model.safetensors")
    spec["fingerprint"] = module._fingerprint(spec)
    (folder / "model.json").write_text(json.dumps(spec))
    return open_model_folder(folder)

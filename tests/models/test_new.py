"""Weights from files: they fit or are refused, and they run no code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.models.folder import ModelFolder, open_model_folder
from imgcls_ray.models.new import new_model_folder

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


@pytest.mark.parametrize("kind", ["state_dict.pt", "checkpoint.pth", "model.safetensors"])
def test_weights_of_the_network_are_taken(small_model: ModelFolder, tmp_path: Path, kind: str) -> None:
    state = small_model.load_network().state_dict()
    path = tmp_path / kind
    if kind == "model.safetensors":
        path = small_model.path / kind
    else:
        torch.save({"state_dict": state} if kind == "checkpoint.pth" else state, path)
    new_model_folder("PP-LCNet_x0_25", tmp_path / "new", class_names=NAMES, weights=path)
    loaded = open_model_folder(tmp_path / "new").load_network().state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_random_weights_are_the_seeds(tmp_path: Path) -> None:
    first = new_model_folder("PP-LCNet_x0_25", tmp_path / "a", class_names=NAMES, random_seed=3)
    second = new_model_folder("PP-LCNet_x0_25", tmp_path / "b", class_names=NAMES, random_seed=3)
    assert first.spec.fingerprint == second.spec.fingerprint

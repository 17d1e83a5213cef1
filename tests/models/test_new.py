"""Weights from files: they fit or are refused, and they run no code."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.models.folder import ModelFolder, open_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.open import open_model

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


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_kept_model_of_a_name_that_was_damaged_is_made_again(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    made = []

    def make(model: str, path: Path) -> None:
        made.append(model)
        shutil.copytree(small_model.path, path)

    monkeypatch.setattr("imgcls_ray.models.open.new_model_folder", make)
    folder = open_model("PP-LCNet_x0_25")
    assert open_model("PP-LCNet_x0_25") == folder
    (folder.path / name).write_bytes((folder.path / name).read_bytes()[:-9])
    assert open_model("PP-LCNet_x0_25") == folder
    assert made == ["PP-LCNet_x0_25"] * 2
    assert [path.name for path in folder.path.parent.iterdir()] == ["PP-LCNet_x0_25"]
    assert folder.path.parent.stat().st_mode & 0o077 == 0

"""Weights from files: they fit or are refused, and they run no code."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.models.folder import ModelFolder, open_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.open import open_model
from imgcls_ray.models.spec import fingerprint_with

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.images.preprocess import Decode

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

    monkeypatch.setattr("imgcls_ray.models.new.new_model_folder", make)
    folder = open_model("PP-LCNet_x0_25")
    assert open_model("PP-LCNet_x0_25") == folder
    (folder.path / name).write_bytes((folder.path / name).read_bytes()[:-9])
    assert open_model("PP-LCNet_x0_25") == folder
    assert made == ["PP-LCNet_x0_25"] * 2
    assert [path.name for path in folder.path.parent.iterdir()] == ["PP-LCNet_x0_25"]
    assert folder.path.parent.stat().st_mode & 0o077 == 0


def test_a_folder_that_decodes_at_a_fraction_is_another_model_of_the_same_weights(
    small_model: ModelFolder, tmp_path: Path
) -> None:
    def remade(name: str, weights: ModelFolder, decode: Decode | None) -> ModelFolder:
        new_model_folder("PP-LCNet_x0_25", tmp_path / name, weights=weights.path, decode=decode)
        return open_model_folder(tmp_path / name)

    scaled = remade("scaled", small_model, "scaled")
    assert scaled.spec.preprocess == replace(small_model.spec.preprocess, decode="scaled")
    assert scaled.spec.fingerprint == fingerprint_with(small_model.spec, scaled.spec.preprocess)
    assert scaled.spec.fingerprint != small_model.spec.fingerprint
    assert remade("kept", scaled, None).spec.fingerprint == scaled.spec.fingerprint
    assert remade("full", scaled, "full").spec.fingerprint == small_model.spec.fingerprint

"""Weights from files: they fit or are refused, and they run no code."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.errors import WeightsError
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


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, (f"touch {tmp_path / 'owned'}",))

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"classifier.weight": Payload()}, tmp_path / "zipped.pt")
    for name in ("weights.pt", "zipped.pt"):
        with pytest.raises(WeightsError, match="is not a readable file of weights"):
            new_model_folder("PP-LCNet_x0_25", tmp_path / "new", class_names=NAMES, weights=tmp_path / name)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "new").exists()


def test_weights_of_another_class_count_are_refused(small_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"classifier\.weight has shape \(7, 1280\), .* 3 classes needs \(3, 1280\)"):
        new_model_folder(
            "PP-LCNet_x0_25",
            tmp_path / "new",
            class_names=["a", "b", "c"],
            weights=small_model.path / "model.safetensors",
        )


def test_weights_of_another_network_are_refused(small_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="of another network"):
        new_model_folder(
            "ResNet50", tmp_path / "new", class_names=NAMES, weights=small_model.path / "model.safetensors"
        )


def test_without_a_network_pretrained_weights_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    def no_network(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(WeightsError, match=r"pretrained weights could not be loaded .* --weights FILE, or --random"):
        new_model_folder("PP-LCNet_x1_0", tmp_path / "new", class_names=NAMES)


def test_pretrained_weights_that_timm_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="PP-LCNet_x2_5: timm has no weights"):
        new_model_folder("PP-LCNet_x2_5", tmp_path / "new", class_names=NAMES)


def test_random_weights_are_the_seeds(tmp_path: Path) -> None:
    first = new_model_folder("PP-LCNet_x0_25", tmp_path / "a", class_names=NAMES, random_seed=3)
    second = new_model_folder("PP-LCNet_x0_25", tmp_path / "b", class_names=NAMES, random_seed=3)
    assert first.spec.fingerprint == second.spec.fingerprint

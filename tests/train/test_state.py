"""What a run goes on from."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture
from imgcls_ray.storage import open_directory
from imgcls_ray.train.state import ModelDescription, RunIdentity, StartInfo, TrainState, load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path


MODEL = ModelDescription("n", Architecture("a", {"layers": (1, 2)}), ("one", "two"), Preprocess(40, 32))
IDENTITY = RunIdentity(
    StartInfo("n", None, is_trained=False, train_size=32, origin="random, seed 0"),
    data="0123",
    batch_size=16,
    settings={"epochs": 3, "flip": 0.5, "weights": None},
)
# The same in a file of any version: states are read for as long as a run may go on.
MODEL_VALUES = {
    "name": "n",
    "architecture": {"name": "a", "args": {"layers": (1, 2)}},
    "class_names": ["one", "two"],
    "preprocess": {
        "resize_size": 40,
        "crop_size": 32,
        "interpolation": "bilinear",
        "crop_mode": "center",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
}
IDENTITY_VALUES = {
    "about": {"name": "n", "family": None, "is_trained": False, "train_size": 32, "origin": "random, seed 0"},
    "data": "0123",
    "batch_size": 16,
    "epochs": 3,
    "flip": 0.5,
    "weights": None,
}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = open_directory(str(tmp_path))
    state = TrainState(
        MODEL,
        IDENTITY,
        {"w": torch.arange(3.0)},
        step=7,
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        history=[{"epoch": 1, "val.top1": 0.5}],
        bad={"train/3": "corrupt"},
    )
    save_state(state, directory, "latest/train_state.pt")
    back = load_state(directory, "latest/train_state.pt")
    assert back is not None
    assert torch.equal(back.network["w"], state.network["w"])
    assert torch.equal(back.optimizer["state"][0]["momentum_buffer"], torch.ones(2))  # type: ignore[index]
    for name in ("model", "identity", "step", "history", "bad", "average", "best"):
        assert getattr(back, name) == getattr(state, name)
    assert [path.name for path in (tmp_path / "latest").iterdir()] == ["train_state.pt"]


def test_a_state_file_holds_plain_values(tmp_path: Path) -> None:
    save_state(TrainState(MODEL, IDENTITY, {}), open_directory(str(tmp_path)), "train_state.pt")
    values = torch.load(tmp_path / "train_state.pt", weights_only=True)
    model = {**MODEL_VALUES, "preprocess": {**MODEL_VALUES["preprocess"], "decode": "full"}}  # type: ignore[dict-item]
    assert (values["format"], values["model"], values["identity"]) == (1, model, IDENTITY_VALUES)
    assert [*values["identity"]] == [*IDENTITY_VALUES]


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    values = {"format": 1, "model": MODEL_VALUES, "identity": IDENTITY_VALUES, "network": {}, "step": 7}
    torch.save(values, tmp_path / "train_state.pt")
    state = load_state(open_directory(str(tmp_path)), "train_state.pt")
    assert state == TrainState(MODEL, IDENTITY, {}, step=7)


@pytest.mark.parametrize(
    "damage",
    [{"model": {"name": "n"}}, {"model": None}, {"identity": {}}, {"identity": {**IDENTITY_VALUES, "about": 1}}],
    ids=str,
)
def test_a_state_that_says_less_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    values = {"format": 1, "model": MODEL_VALUES, "identity": IDENTITY_VALUES, "network": {}}
    torch.save({**values, **damage}, tmp_path / "train_state.pt")
    with pytest.raises(ModelFolderError, match="is not the state of a training run"):
        load_state(open_directory(str(tmp_path)), "train_state.pt")


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_state(open_directory(str(tmp_path)), "latest/train_state.pt") is None


class _Bomb:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (open, (str(self._path), "w"))


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    torch.save({"format": 1, "bomb": _Bomb(tmp_path / "ran")}, tmp_path / "train_state.pt")
    told = r"train_state\.pt: is not the state of a training run .* give another --output"
    with pytest.raises(ModelFolderError, match=told):
        load_state(open_directory(str(tmp_path)), "train_state.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"text", pickle.dumps({"format": 1})])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train_state.pt").write_bytes(data)
    with pytest.raises(ModelFolderError, match="is not the state of a training run"):
        load_state(open_directory(str(tmp_path)), "train_state.pt")

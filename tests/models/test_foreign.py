"""A path that is given as a model folder and is none is told by what is in it, with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ModelFolderError, UnknownModelError
from imgcls_ray.models.open import open_model

if TYPE_CHECKING:
    from pathlib import Path

TIMM_CONFIG = '{"architecture": "resnet18", "num_classes": 10}'


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"inference.pdmodel": "", "inference.pdiparams": ""}, "is an inference model of Paddle (inference.pdiparams)"),
        ({"inference.json": "", "inference.pdiparams": ""}, "is an inference model of Paddle"),
        ({"best_model.pdparams": ""}, "is a training output of Paddle"),
        ({"config.json": TIMM_CONFIG, "model.safetensors": ""}, "is a timm model of Hugging Face"),
        ({"config.json": '{"model_type": "vit"}'}, "is a model of Hugging Face (model_type vit)"),
        ({"config.json": "[" * 100_000, "pytorch_model.bin": ""}, "is a model of Hugging Face, not"),
        ({"saved_model.pb": ""}, "is a SavedModel of TensorFlow"),
        ({"model.onnx": ""}, "holds model.onnx and no model.json"),
        ({"checkpoint.pth": ""}, "holds no model.json, so it is no model folder"),
        ({"store.json": "", "predictions": "", "plans": ""}, "is a label store, not a model folder"),
        ({"a.jpg": ""}, "holds no model.json, so it is no model folder"),
        ({}, "holds no model.json, so it is no model folder"),
    ],
)
def test_a_folder_of_another_program_is_told_by_what_is_in_it(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelFolderError) as refused:
        open_model(str(tmp_path))
    assert str(refused.value).startswith(f"{tmp_path}: {told}")
    assert "label store" in told or "`imgcls models new " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_in_a_folder_are_named_in_the_command_that_takes_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TIMM_CONFIG)
    (tmp_path / "model.safetensors").touch()
    command = f"`imgcls models new timm:resnet18 --weights {tmp_path}/model.safetensors --output DIR` makes one"
    with pytest.raises(ModelFolderError) as refused:
        open_model(str(tmp_path))
    assert command in str(refused.value)


def test_the_output_of_a_training_names_its_best_model(tmp_path: Path) -> None:
    (tmp_path / "best_model").mkdir()
    (tmp_path / "best_model" / "model.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=f"is the output of a training.*; give {tmp_path}/best_model$"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("best.pdparams", "`imgcls models new NAME --weights {path} --output DIR` makes one of weights"),
        ("model.onnx", "is an exported network, not a model folder"),
        ("photo.jpg", "is a file, not a model folder"),
    ],
)
def test_a_file_is_told_with_the_way_to_a_folder(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFolderError) as refused:
        open_model(str(tmp_path / name))
    assert told.format(path=tmp_path / name) in str(refused.value)


def test_a_file_of_a_model_folder_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=f"give the folder, {tmp_path}$"):
        open_model(str(tmp_path / "model.json"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("efficientnet_b0", "did you mean timm:efficientnet_b0?"),
        ("EfficientNet-B0", "did you mean timm:efficientnet_b0?"),
        ("efficientnet_b0.ra_in1k", "did you mean timm:efficientnet_b0.ra_in1k?"),
        ("vit_base_patch16_224", "timm:vit_base_patch16_224?"),
        ("resnet50", "did you mean ResNet50, timm:resnet50?"),
        ("timm/resnet18.a1_in1k", "give timm:resnet18.a1_in1k"),
        ("dog", "`imgcls models` lists them"),
    ],
)
def test_a_name_of_timms_is_told_with_its_prefix(name: str, meant: str) -> None:
    with pytest.raises(UnknownModelError) as refused:
        open_model(name)
    assert meant in str(refused.value)

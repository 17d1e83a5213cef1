"""Weights from files of every kind: they fit, or are refused with what did not; and PaddleClas' give its logits."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.paddle_side import draw_pixels, draw_weights
from imgcls_ray.errors import ModelFolderError, WeightsError
from imgcls_ray.models.api import create_model
from imgcls_ray.models.folder import ModelFolder, open_model_folder
from imgcls_ray.models.new import find_named_model, new_model_folder
from imgcls_ray.models.paddle.conversion import paddle_architecture
from imgcls_ray.models.weights import load_weights
from imgcls_ray.models.zoo import ZOO
from tests.conftest import SMALL_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = ZOO["PP-LCNet_x0_25"]

# python -m benchmarks.paddle_parity --paddle-python PYTHON --golden tests/models/paddle_golden.json NAME ...
# with PaddlePaddle 3.3.1 and PaddleClas 2.6.0.
GOLDEN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("paddle_golden.json").read_text())


def save_pdparams(path: Path, name: str, **changed: np.ndarray) -> Path:
    """Write drawn weights as Paddle writes them."""
    shapes = GOLDEN[name]["shapes"]
    drawn = draw_weights(name, shapes, seed=0)
    arrays = {key: drawn.get(key, np.zeros(shape, np.int64)) for key, shape in shapes.items()}
    path.write_bytes(pickle.dumps({**arrays, **changed, "StructuredToParameterName@@": {}}, protocol=4))
    return path


def logits_of(network: torch.nn.Module, name: str) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = network(torch.from_numpy(draw_pixels(GOLDEN[name]["size"], seed=1))).numpy()
    return logits


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people are warned of, whatever other tests have done to logging."""
    told: list[str] = []
    monkeypatch.setattr("imgcls_ray.models.weights.logger.warning", lambda text, *args: told.append(text % args))
    return told


# PaddleClas


def test_every_family_has_paddles_logits_to_compare_with() -> None:
    assert {ZOO[name].family for name in GOLDEN} == {model.family for model in ZOO.values()}


@pytest.mark.parametrize("name", GOLDEN)
def test_paddles_weights_give_paddles_logits(name: str, tmp_path: Path) -> None:
    loaded = load_weights(ZOO[name], save_pdparams(tmp_path / "w.pdparams", name))
    expected = np.array(GOLDEN[name]["logits"])
    assert np.abs(logits_of(loaded.network, name) - expected).max() <= 1e-4 * np.abs(expected).max()
    # What a model folder will build again.
    assert loaded.architecture == paddle_architecture(ZOO[name])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("PP-LCNet_x0_25", "conv1.conv.weight"),
        ("PP-LCNet_x0_25", "blocks6.0.se.conv2.bias"),
        ("MobileNetV4_hybrid_medium", "blocks.23.key_proj.weight"),
        ("PP-HGNetV2-B0", "stem.stem2a.lab.bias"),
        ("SwinTransformer_tiny_patch4_window7_224", "layers.3.blocks.1.attn.relative_position_bias_table"),
    ],
)
def test_a_tensor_that_is_a_little_different_shows(name: str, tensor: str, tmp_path: Path) -> None:
    value = draw_weights(name, GOLDEN[name]["shapes"], seed=0)[tensor]
    loaded = load_weights(ZOO[name], save_pdparams(tmp_path / "w.pdparams", name, **{tensor: 1.5 * value + 0.1}))
    expected = np.array(GOLDEN[name]["logits"])
    assert np.abs(logits_of(loaded.network, name) - expected).max() > 1e-3 * np.abs(expected).max()


def test_a_model_folder_of_paddles_weights_is_read_back_as_it_was(tmp_path: Path) -> None:
    name = "MobileNetV3_small_x0_35"
    pdparams = save_pdparams(tmp_path / "w.pdparams", name)
    new_model_folder(name, tmp_path / "m", weights=pdparams)
    folder = open_model_folder(tmp_path / "m")
    assert folder.spec.architecture == ZOO[name].architecture
    assert folder.spec.class_names == tuple(f"class_{i}" for i in range(8))
    expected = np.array(GOLDEN[name]["logits"])
    assert np.abs(logits_of(folder.load_network(), name) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_paddles_weights_of_another_network_are_refused_with_what_did_not_fit(tmp_path: Path) -> None:
    path = save_pdparams(tmp_path / "w.pdparams", "PP-LCNet_x0_25")
    with pytest.raises(
        WeightsError, match=r"does not fit ResNet18: \d+ weights missing: conv1\.weight.*not of this netw"
    ):
        load_weights(ZOO["ResNet18"], path)
    with pytest.raises(
        WeightsError, match=r"does not fit PP-LCNet_x0_5: 1\d\d weights of another shape: blocks\.0\.0\.conv_pw"
    ):
        load_weights(ZOO["PP-LCNet_x0_5"], path)


def test_paddles_weights_are_no_weights_of_a_network_of_timms(tmp_path: Path) -> None:
    path = save_pdparams(tmp_path / "w.pdparams", "ResNet18")
    with pytest.raises(
        WeightsError, match=r"w\.pdparams: PaddleClas' weights go into networks of the zoo, not into timm:"
    ):
        load_weights(find_named_model("timm:resnet18"), path)


def test_paddles_head_of_another_class_count_is_replaced_and_said_so(tmp_path: Path, warned: list[str]) -> None:
    name = "MobileNetV3_small_x0_35"
    path = save_pdparams(tmp_path / "w.pdparams", name)
    loaded = load_weights(ZOO[name], path, num_classes=3)
    assert logits_of(loaded.network, name).shape == (2, 3)
    assert f"{path}: has a head of 8 classes; the new head of 3 classes is random" in warned[0]


def test_paddles_weights_of_a_sibling_are_refused_with_what_did_not_fit(tmp_path: Path) -> None:
    path = save_pdparams(tmp_path / "w.pdparams", "MobileNetV4_hybrid_medium")
    with pytest.raises(WeightsError, match=r"does not fit MobileNetV4_conv_small: \d+ weights missing"):
        load_weights(ZOO["MobileNetV4_conv_small"], path)


def test_two_arrays_for_one_tensor_are_refused(tmp_path: Path) -> None:
    again = {"conv_head.weight": np.zeros((1280, 256, 1, 1), np.float32)}
    path = save_pdparams(tmp_path / "w.pdparams", "PP-LCNet_x0_25", **again)
    with pytest.raises(WeightsError, match=r"conv_head\.weight and another one are both conv_head\.weight"):
        load_weights(SMALL, path)


def test_paddles_bfloat16_and_other_byte_orders_are_read(tmp_path: Path) -> None:
    name = "PP-LCNet_x0_25"
    exact = load_weights(ZOO[name], save_pdparams(tmp_path / "w.pdparams", name)).network.state_dict()
    drawn = draw_weights(name, GOLDEN[name]["shapes"], seed=0)
    halved = {key: (value.view(np.uint32) >> 16).astype(np.uint16) for key, value in drawn.items()}
    found = load_weights(ZOO[name], save_pdparams(tmp_path / "b.pdparams", name, **halved)).network.state_dict()
    assert torch.allclose(found["conv_head.weight"], exact["conv_head.weight"], rtol=1 / 128)
    turned = {key: value.astype(">f4") for key, value in drawn.items()}
    found = load_weights(ZOO[name], save_pdparams(tmp_path / "t.pdparams", name, **turned)).network.state_dict()
    assert torch.equal(found["conv_head.weight"], exact["conv_head.weight"])


@pytest.mark.parametrize("suffix", ["pdiparams", "PDMODEL", "pdopt", "pdstates", "pdema", "onnx", "tar"])
def test_other_files_beside_the_weights_are_refused_with_the_right_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"inference.{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=f"inference.{suffix}: .*; (give|unpack it and give) the"):
        load_weights(SMALL, path)


# State dicts


def zeroed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


class Settings(dict[str, object]):
    """A dict of someone's own, as Lightning and OmegaConf have them."""


WAYS_TO_SAVE: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "state dict": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "averaged weights before raw ones": lambda state: {"state_dict": zeroed(state), "state_dict_ema": state},
    "of a data-parallel module": lambda state: prefixed("module.", state),
    "of a compiled module": lambda state: prefixed("_orig_mod.", state),
    "of a compiled data-parallel module": lambda state: prefixed("module._orig_mod.", state),
    "compiled in parts": lambda state: {key.replace(".", "._orig_mod.", 1): value for key, value in state.items()},
    "of an averaged model": lambda state: {**prefixed("module.", state), "n_averaged": torch.tensor(3)},
    "Lightning": lambda state: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("model.", state),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}],
        "hyper_parameters": {"root": Path("/x"), "args": argparse.Namespace(lr=0.1), "more": Settings(lr=0.1)},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "scores": defaultdict(int, a=1)}},
    },
    "Lightning with a loss that has weights": lambda state: {
        "state_dict": {**prefixed("net.", state), "criterion.weight": torch.ones(7), "metric.total": torch.zeros(1)}
    },
    "transformers' wrapper": lambda state: prefixed("timm_model.", state),
    "two wrappers": lambda state: prefixed("module.model.", state),
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 0.5},
    "net": lambda state: {"net": state, "acc": np.float64(90.0), "rng": np.arange(3)},
    "network": lambda state: {"network": state},
    "a key of its own": lambda state: {"generator": state, "scores": {"top1": torch.tensor(0.5)}},
    "within another key": lambda state: {"checkpoint": {"model": {"state_dict": state}}},
    "an average without buffers": lambda state: {
        "ema": {key: value for key, value in zeroed(state).items() if "running" not in key},
        "state_dict": state,
    },
    "double precision": lambda state: {
        key: value.double() if value.is_floating_point() else value for key, value in state.items()
    },
    "without counted batches": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("way", WAYS_TO_SAVE)
def test_a_state_dict_is_taken_however_it_was_saved(small_model: ModelFolder, tmp_path: Path, way: str) -> None:
    state = small_model.load_network().state_dict()
    torch.save(WAYS_TO_SAVE[way](state), tmp_path / "w.pth")
    loaded = load_weights(SMALL, tmp_path / "w.pth").network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if "num_batches" not in key)


def test_the_number_of_classes_is_that_of_the_weights(small_model: ModelFolder, tmp_path: Path) -> None:
    new_model_folder("PP-LCNet_x0_25", tmp_path / "m", weights=small_model.path / "model.safetensors")
    assert open_model_folder(tmp_path / "m").spec.class_names == tuple(f"class_{i}" for i in range(7))


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, (f"touch {tmp_path / 'owned'}",))

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"classifier.weight": Payload()}, tmp_path / "zipped.pt")
    for name in ("weights.pt", "zipped.pt"):
        with pytest.raises(WeightsError, match="is not a readable file of weights"):
            load_weights(SMALL, tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("state dict", None),
        ("Lightning", "took the weights under state_dict, without the prefix model."),
        (
            "Lightning with a loss that has weights",
            "took the weights under state_dict, without the prefix net.; left out: criterion.weight, metric.total",
        ),
        ("transformers' wrapper", "took the weights, without the prefix timm_model."),
        ("averaged weights before raw ones", "took the weights under state_dict_ema"),
    ],
)
def test_what_was_taken_off_the_names_of_weights_is_told(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, told: str | None
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("imgcls_ray.models.checkpoints.logger.info", lambda text, *args: lines.append(text % args))
    torch.save(WAYS_TO_SAVE[way](small_model.load_network().state_dict()), tmp_path / "w.pth")
    load_weights(SMALL, tmp_path / "w.pth")
    assert lines == ([] if told is None else [f"{tmp_path}/w.pth: {told}"])


def test_safetensors_of_a_wrapper_are_taken(small_model: ModelFolder, tmp_path: Path) -> None:
    state = small_model.load_network().state_dict()
    save_file(prefixed("timm_model.", state), tmp_path / "w.safetensors")
    loaded = load_weights(SMALL, tmp_path / "w.safetensors").network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_what_a_checkpoint_names_beside_its_weights_runs_nothing(small_model: ModelFolder, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (eval, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    state = small_model.load_network().state_dict()
    torch.save({"state_dict": state, "hyper_parameters": Payload()}, tmp_path / "w.ckpt")
    loaded = load_weights(SMALL, tmp_path / "w.ckpt").network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    torch.save({**state, "classifier.bias": Payload()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict of plain tensors"):
        load_weights(SMALL, tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("save", "ways"),
    [
        (lambda state: {**prefixed("student.", state), **prefixed("teacher.", zeroed(state))}, "student., teacher."),
        (lambda state: {"first": state, "second": zeroed(state)}, "first., second."),
        (
            lambda state: {"student": {"state_dict": state}, "teacher": {"state_dict": zeroed(state)}},
            "student.state_dict., teacher.state_dict.",
        ),
    ],
)
def test_of_several_networks_in_a_file_none_is_guessed(
    small_model: ModelFolder, tmp_path: Path, save: Callable[[dict[str, torch.Tensor]], dict[str, Any]], ways: str
) -> None:
    torch.save(save(small_model.load_network().state_dict()), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"w.pth: holds several networks of this kind: {ways}; save the one"):
        load_weights(SMALL, tmp_path / "w.pth")


def test_a_file_without_a_state_dict_says_which_keys_it_holds(small_model: ModelFolder, tmp_path: Path) -> None:
    content = {"epoch": 3, "args": argparse.Namespace(lr=1), "names": ["a"], **{f"k{i}\x1b": 1 for i in range(500)}}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(SMALL, tmp_path / "w.pt")
    assert (
        "w.pt: holds no state dict of plain tensors; its 503 keys: epoch (int), args (pickled object), names (list), "
        "k0\ufffd (int)"
    ) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    torch.save(small_model.load_network(), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"it holds a pickled object; save model\.state_dict\(\), and give that"):
        load_weights(SMALL, tmp_path / "whole.pt")


def test_weights_of_another_network_are_told_without_their_prefix(small_model: ModelFolder, tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("model.", small_model.load_network().state_dict())}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not fit PP-LCNet_x0_5: 134 weights of another shape: blocks"):
        load_weights(ZOO["PP-LCNet_x0_5"], tmp_path / "w.pth")


def test_one_dict_under_many_keys_is_looked_at_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"loss": 1.0}
    for _ in range(4):
        content = {f"k{number}": content for number in range(1000)}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="its 1,000 keys"):
        load_weights(SMALL, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"classifier.weight": 3}, [torch.zeros(2)]])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"w\.pt: (holds no state dict of plain tensors|is not a readable file of weights)"
    ):
        load_weights(SMALL, tmp_path / "w.pt")


def test_a_head_of_another_class_count_is_replaced_and_said_so(
    small_model: ModelFolder, tmp_path: Path, warned: list[str]
) -> None:
    weights = small_model.path / "model.safetensors"
    new_model_folder("PP-LCNet_x0_25", tmp_path / "m", class_names=["a", "b", "c"], weights=weights)
    loaded = open_model_folder(tmp_path / "m").load_network().state_dict()
    before = small_model.load_network().state_dict()
    assert loaded["classifier.weight"].shape == (3, 1280)
    assert all(torch.equal(value, before[key]) for key, value in loaded.items() if not key.startswith("classifier"))
    assert "has a head of 7 classes; the new head of 3 classes is random, so train the model" in warned[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv_head.weight"), "1 weight missing: conv_head.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 weight not of this network: extra"),
        (
            lambda state: state.update({"conv_stem.weight": torch.zeros(8, 3, 5, 5)}),
            r"1 weight of another shape: conv_stem.weight \(\(8, 3, 5, 5\), needs \(8, 3, 3, 3\)\)",
        ),
        (
            lambda state: state.update({"classifier.weight": torch.zeros(7, 3)}),
            r"1 weight of another shape: classifier.weight \(\(7, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_listed(
    small_model: ModelFolder, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = dict(small_model.load_network().state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=f"w.pt: does not fit PP-LCNet_x0_25: {message}"):
        load_weights(SMALL, tmp_path / "w.pt")


def test_what_the_head_says_of_itself_takes_no_memory(small_model: ModelFolder, tmp_path: Path) -> None:
    state = dict(small_model.load_network().state_dict())
    for weight in (torch.zeros(10**13, 0), torch.zeros(1).expand(10**9, 1280), torch.zeros(0, 1280)):
        torch.save({**state, "classifier.weight": weight}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"of another shape: .*classifier|holds no state dict of plain tensors"):
            load_weights(SMALL, tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_another_type_are_refused(small_model: ModelFolder, tmp_path: Path, dtype: torch.dtype) -> None:
    state = dict(small_model.load_network().state_dict())
    state["conv_stem.weight"] = state["conv_stem.weight"].to(dtype)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"1 weight of another type: conv_stem\.weight \({dtype}"):
        load_weights(SMALL, tmp_path / "w.pth")


def test_names_from_a_file_cannot_write_to_the_terminal(small_model: ModelFolder, tmp_path: Path) -> None:
    state = {**small_model.load_network().state_dict(), "\x1b[31m\nimgcls: all well": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_weights(SMALL, tmp_path / "w.pth")
    assert str(caught.value).isprintable()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match=r"pipe\.pth: is no regular file"):
        load_weights(SMALL, tmp_path / "pipe.pth")
    for nowhere in ("", "x" * 5000, str(tmp_path / "none.pth")):
        with pytest.raises(WeightsError, match="there is no such file of weights"):
            load_weights(SMALL, nowhere)


def test_a_checkpoint_called_pth_tar_is_torchs(small_model: ModelFolder, tmp_path: Path) -> None:
    torch.save({"state_dict": small_model.load_network().state_dict()}, tmp_path / "best.pth.tar")
    load_weights(SMALL, tmp_path / "best.pth.tar")


@pytest.mark.parametrize("name", ["timm:deit_tiny_distilled_patch16_224", "timm:crossvit_9_240", "timm:repvit_m0_9"])
def test_networks_of_timms_with_other_heads_keep_their_class_count(name: str, tmp_path: Path) -> None:
    first = new_model_folder(name, tmp_path / "a", num_classes=5, random_seed=0)
    again = new_model_folder(name, tmp_path / "b", weights=first.path)
    assert again.spec.fingerprint == first.spec.fingerprint
    assert new_model_folder(name, tmp_path / "c", weights=first.path, num_classes=3).spec.num_classes == 3


def test_weights_that_are_not_finite_make_no_folder(small_model: ModelFolder, tmp_path: Path) -> None:
    state = dict(small_model.load_network().state_dict())
    state["conv_stem.weight"] = torch.full_like(state["conv_stem.weight"], torch.nan)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelFolderError, match=r"/m: conv_stem\.weight holds values that are not finite numbers"):
        new_model_folder("PP-LCNet_x0_25", tmp_path / "m", weights=tmp_path / "w.pt")
    assert not (tmp_path / "m").exists()


# Model folders


def test_a_model_folder_gives_its_weights_names_and_preprocessing(small_model: ModelFolder, tmp_path: Path) -> None:
    new = new_model_folder("PP-LCNet_x0_25", tmp_path / "m", weights=small_model.path)
    assert new.spec.class_names == SMALL_CLASSES
    assert new.spec.preprocess == small_model.spec.preprocess
    assert new.spec.fingerprint == small_model.spec.fingerprint


def test_a_model_folder_with_a_new_head_keeps_its_preprocessing(small_model: ModelFolder, tmp_path: Path) -> None:
    new = new_model_folder("PP-LCNet_x0_25", tmp_path / "m", weights=small_model.path, num_classes=3)
    assert new.spec.class_names == ("class_0", "class_1", "class_2")
    assert new.spec.preprocess == small_model.spec.preprocess


def test_a_model_folder_of_another_network_is_refused(small_model: ModelFolder) -> None:
    with pytest.raises(WeightsError, match="is a model folder of small, not of ResNet50"):
        load_weights(ZOO["ResNet50"], small_model.path)


def test_create_model_takes_weights(small_model: ModelFolder, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = [result.class_ids for result in create_model(small_model.path).predict(list(images))]
    model = create_model("PP-LCNet_x0_25", weights=small_model.path)
    assert [result.class_ids for result in model.predict(list(images))] == expected
    with pytest.raises(ValueError, match="is a model folder and has its own weights and classes"):
        create_model(small_model.path, num_classes=3)

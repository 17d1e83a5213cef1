"""Exported networks: the same labels in every format, the same strictness, and nothing that runs unasked."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imgcls_ray.errors import ModelFolderError, UsageError
from imgcls_ray.export.network import export_network
from imgcls_ray.export.quantize import quantize_network
from imgcls_ray.models import spec as spec_module
from imgcls_ray.models.api import create_model
from imgcls_ray.models.classifier import ImageClassifier, ModelInput, Prediction
from imgcls_ray.models.engines.load import load_engine, preparation_of
from imgcls_ray.models.folder import ModelFolder, new_folder, open_model_folder, sha256_file
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.spec import EXPORTED_FILES

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.spec import ExportFormat

FORMATS: tuple[ExportFormat, ...] = ("onnx", "openvino", "torch_export")
FILES = [(fmt, name) for fmt in FORMATS for name in EXPORTED_FILES[fmt]]
NUM_IMAGES = 32


@pytest.fixture(scope="module")
def exported(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[ExportFormat, ModelFolder]:
    root = tmp_path_factory.mktemp("exported")
    for fmt in FORMATS:
        with new_folder(root / fmt) as partial:
            export_network(small_model, partial, fmt)
    return {fmt: open_model_folder(root / fmt) for fmt in FORMATS}


@pytest.fixture
def copy(exported: dict[ExportFormat, ModelFolder], tmp_path: Path) -> Callable[[ExportFormat], Path]:
    return lambda fmt: shutil.copytree(exported[fmt].path, tmp_path / "copy")


def pictures(count: int = NUM_IMAGES) -> np.ndarray:
    """uint8 (count, 64, 64, 3), of shapes that the model tells apart."""
    coarse = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 3, 6, 8), dtype=np.uint8))
    fine = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic", antialias=True)
    pixels: np.ndarray = fine.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def normalised(folder: ModelFolder, pixels: np.ndarray) -> np.ndarray:
    """By hand, as the documentation says it."""
    preprocess = folder.spec.preprocess
    images: np.ndarray = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def plain_logits(folder: ModelFolder, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = folder.load_network()(torch.from_numpy(normalised(folder, pixels))).numpy()
    return logits


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a description as someone would who knows the format: hashes and fingerprint are made to fit."""
    spec = json.loads((folder / "model.json").read_text())
    for name in spec["exported"]["files"]:
        spec["exported"]["files"][name] = sha256_file(folder / name)
    change(spec)
    spec["fingerprint"] = spec_module._fingerprint(spec)
    (folder / "model.json").write_text(json.dumps(spec))


def run_file(fmt: ExportFormat, folder: Path, images: np.ndarray) -> np.ndarray:
    """Run an exported file with what is made for it, and with nothing of ours."""
    path = folder / EXPORTED_FILES[fmt][0]
    if fmt == "onnx":
        import onnxruntime

        [logits] = onnxruntime.InferenceSession(path).run(["logits"], {"images": images})
    elif fmt == "openvino":
        import openvino as ov

        logits = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"images": images})["logits"]
    else:
        program = torch.export.load(path)
        assert program.graph_signature.user_inputs == ("images",)
        logits = program.module()(torch.from_numpy(images)).detach().numpy()
    return np.asarray(logits)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_file_takes_any_number_of_normalised_images(
    small_model: ModelFolder, exported: dict[ExportFormat, ModelFolder], fmt: ExportFormat
) -> None:
    pixels = pictures()
    expected = plain_logits(small_model, pixels)
    assert len(set(expected.argmax(axis=1))) >= 4  # otherwise a mixed-up row would not show
    for count in (1, 3, NUM_IMAGES):
        logits = run_file(fmt, exported[fmt].path, normalised(small_model, pixels[:count]))
        np.testing.assert_allclose(logits, expected[:count], atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_classifier_gives_the_labels_of_the_original(
    small_model: ModelFolder, exported: dict[ExportFormat, ModelFolder], fmt: ExportFormat
) -> None:
    pixels = pictures(11)  # the last batch is a short one
    classifier = ImageClassifier.load(
        exported[fmt], precision="fp32", batch_size=4, num_threads=1, top_k=3, logits=True
    )
    results = list(classifier.classify_inputs(ModelInput(one, 64, 64) for one in pixels))
    good = [result for result in results if isinstance(result, Prediction)]
    expected = plain_logits(small_model, pixels)
    assert [int(result.class_ids[0]) for result in good] == list(expected.argmax(axis=1))
    logits = np.stack([result.logits for result in good if result.logits is not None])
    np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("fmt", FORMATS)
def test_bf16_keeps_the_labels(
    small_model: ModelFolder, exported: dict[ExportFormat, ModelFolder], fmt: ExportFormat
) -> None:
    pixels = pictures(16)
    logits = load_engine(exported[fmt], precision="bf16", batch_size=16, num_threads=1)(pixels).logits
    assert np.mean(logits.argmax(axis=1) == plain_logits(small_model, pixels).argmax(axis=1)) >= 0.9


def test_the_python_interface_takes_an_exported_folder(
    small_model: ModelFolder, exported: dict[ExportFormat, ModelFolder], draw_images: Callable[..., list[Path]]
) -> None:
    paths = draw_images(5)
    expected = [result.label for result in create_model(small_model.path, precision="fp32").predict(paths)]
    for fmt in FORMATS:
        found = [result.label for result in create_model(exported[fmt].path, precision="fp32").predict(paths)]
        assert found == expected


def test_nothing_is_converted_for_an_exported_network(exported: dict[ExportFormat, ModelFolder]) -> None:
    assert all(preparation_of(exported[fmt], "auto", "cpu", embedding=False) is None for fmt in FORMATS)


def test_onnx_is_quantized_for_every_runtime(small_model: ModelFolder, copy: Callable[[ExportFormat], Path]) -> None:
    folder, pixels = copy("onnx"), pictures()
    before = (folder / "model.onnx").stat().st_size
    quantize_network(folder / "model.onnx", list(pictures(48)[32:]), small_model.spec.preprocess, has_attention=False)
    assert (folder / "model.onnx").stat().st_size < 0.6 * before
    rewrite(folder, lambda spec: spec["exported"].update(precision="int8"))
    expected = plain_logits(small_model, pixels)
    here = load_engine(open_model_folder(folder), precision="fp32", batch_size=NUM_IMAGES, num_threads=1)(pixels).logits
    for logits in (here, run_file("onnx", folder, normalised(small_model, pixels))):
        # A random network has outliers that 8 bits cannot hold: most of its numbers are near, not all.
        assert np.median(np.abs(logits - expected)) < 0.2 * expected.std()
        assert np.abs(logits - expected).max() > 1e-3 * np.abs(expected).max()


# What the folder says of itself


def test_an_exported_network_is_another_model_and_names_the_one_it_came_from(
    small_model: ModelFolder, exported: dict[ExportFormat, ModelFolder]
) -> None:
    fingerprints = {small_model.spec.fingerprint, *(folder.spec.fingerprint for folder in exported.values())}
    assert len(fingerprints) == 4
    for folder in exported.values():
        assert folder.spec.exported is not None
        assert folder.spec.exported.source_fingerprint == small_model.spec.fingerprint
        assert folder.spec.class_names == small_model.spec.class_names
        assert folder.spec.preprocess == small_model.spec.preprocess


def test_an_ordinary_folder_says_nothing_of_exports(small_model: ModelFolder) -> None:
    assert "exported" not in (small_model.path / "model.json").read_text()


@pytest.mark.parametrize(("fmt", "name"), FILES)
def test_a_changed_file_is_refused(copy: Callable[[ExportFormat], Path], fmt: ExportFormat, name: str) -> None:
    folder = copy(fmt)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelFolderError, match=rf"{name} is not the file that model\.json describes"):
        open_model_folder(folder)


@pytest.mark.parametrize(("fmt", "name"), FILES)
def test_a_missing_file_is_named(copy: Callable[[ExportFormat], Path], fmt: ExportFormat, name: str) -> None:
    folder = copy(fmt)
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=f"has no {name}; use the folder exactly as it was written"):
        open_model_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["class_names"].reverse(), "do not belong together"),
        (lambda spec: spec.update(fingerprint="0" * 64), "do not belong together"),
        (lambda spec: spec["exported"].update(source_fingerprint="0" * 64), "do not belong together"),
        (lambda spec: spec["exported"].update(precision="int8"), "do not belong together"),
        (lambda spec: spec.pop("exported"), "do not belong together"),
        (lambda spec: spec["exported"].update(format="onnx"), r"onnx has the files model\.onnx"),
        (lambda spec: spec["exported"]["files"].update({"../../secret": "0" * 64}), "openvino has the files"),
        (lambda spec: spec["exported"]["files"].pop("model.bin"), "openvino has the files"),
        (lambda spec: spec["exported"].update(script="x"), "script"),
    ],
)
def test_an_edited_description_is_refused(
    copy: Callable[[ExportFormat], Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = copy("openvino")
    spec = json.loads((folder / "model.json").read_text())
    change(spec)
    (folder / "model.json").write_text(json.dumps(spec))
    with pytest.raises(ModelFolderError, match=message):
        open_model_folder(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["class_names"].append("hen"),
        lambda spec: spec["preprocess"].update(crop_size=72),
    ],
)
@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
def test_a_network_of_other_classes_or_sizes_is_refused(
    copy: Callable[[ExportFormat], Path], fmt: ExportFormat, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = copy(fmt)
    rewrite(folder, change)
    with pytest.raises(ModelFolderError, match=r"takes \[\?,3,64,64\] and gives \[\?,7\] \(f32\); with this preproc"):
        load_engine(open_model_folder(folder), num_threads=1)


@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
def test_a_file_that_is_no_network_is_refused(copy: Callable[[ExportFormat], Path], fmt: ExportFormat) -> None:
    folder = copy(fmt)
    (folder / EXPORTED_FILES[fmt][0]).write_bytes(b"<net>nonsense")
    rewrite(folder, lambda spec: None)
    with pytest.raises(ModelFolderError, match=r"model\.(onnx|xml): is not"):
        load_engine(open_model_folder(folder), num_threads=1)


# What an exported network cannot do


@pytest.mark.parametrize(
    ("fmt", "options", "message"),
    [
        ("onnx", {"engine": "torch"}, "exported to onnx, which runs on OpenVINO on the CPU; give engine=openvino"),
        ("openvino", {"device": "gpu"}, "exported to openvino, which runs on OpenVINO on the CPU"),
        (
            "torch_export",
            {"engine": "openvino"},
            "exported to torch_export, which OpenVINO does not run; give engine=t",
        ),
        ("onnx", {"embedding": True}, "gives logits and no embedding; leave embedding out, or give the model folder"),
        ("torch_export", {"embedding": True}, "gives logits and no embedding"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_way_out(
    exported: dict[ExportFormat, ModelFolder], fmt: ExportFormat, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_engine(exported[fmt], **options)


def test_it_is_no_source_of_weights(exported: dict[ExportFormat, ModelFolder], tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="was exported to onnx and has no weights for training or another"):
        new_model_folder("PP-LCNet_x0_25", tmp_path / "model", weights=exported["onnx"].path)


# Files from others


def test_a_pt2_is_read_only_where_it_was_exported_or_its_hash_is_named(
    exported: dict[ExportFormat, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported["torch_export"]
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "another"))
    with pytest.raises(
        ModelFolderError, match=r"was not exported on this machine.* set IMGCLS_TRUSTED_PT2=[0-9a-f]{64}"
    ):
        load_engine(folder, num_threads=1)
    assert folder.spec.exported is not None
    monkeypatch.setenv("IMGCLS_TRUSTED_PT2", f"{'0' * 64},{folder.spec.exported.files['model.pt2']}")
    load_engine(folder, num_threads=1)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_nothing_in_a_pt2_from_others_is_run(copy: Callable[[ExportFormat], Path], tmp_path: Path) -> None:
    folder, mark = copy("torch_export"), tmp_path / "it_ran"
    payload = io.BytesIO()
    torch.save(_Bomb(mark), payload)
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, payload.getvalue() if "sample_inputs" in name else content)
    rewrite(folder, lambda spec: None)
    with pytest.raises(ModelFolderError, match="torch may run what is in such a file"):
        load_engine(open_model_folder(folder), num_threads=1)
    assert not mark.exists()
    # The file is what it pretends to be: torch alone would have run it.
    with suppress(Exception):
        torch.export.load(folder / "model.pt2")
    assert mark.exists()


@pytest.mark.parametrize("where", ["graph", "subgraph", "attribute"])
def test_an_onnx_file_that_names_other_files_is_refused(copy: Callable[[ExportFormat], Path], where: str) -> None:
    import onnx

    folder = copy("onnx")
    path = folder / "model.onnx"
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    if where == "graph":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["spare"], value=tensor))
    else:
        inner = onnx.helper.make_graph([], "inner", [], [], initializer=[tensor])
        model.graph.node.append(onnx.helper.make_node("If", ["flag"], ["spare"], then_branch=inner, else_branch=inner))
    path.write_bytes(model.SerializeToString())
    rewrite(folder, lambda spec: None)
    with pytest.raises(ModelFolderError, match=r"model\.onnx: names other files for its weights"):
        load_engine(open_model_folder(folder), num_threads=1)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x7fabc", b"\x0b\x0c"])
def test_bytes_that_are_no_onnx_are_refused(copy: Callable[[ExportFormat], Path], content: bytes) -> None:
    folder = copy("onnx")
    (folder / "model.onnx").write_bytes(content)
    rewrite(folder, lambda spec: None)
    with pytest.raises(ModelFolderError, match=r"model\.onnx: is not an ONNX file"):
        load_engine(open_model_folder(folder), num_threads=1)


SLOW_FAMILIES = [
    "CLIP_vit_base_patch16_224", "ConvNeXt_tiny", "FasterNet-T0", "MobileNetV1_x0_25", "MobileNetV2_x0_25",
    "MobileNetV3_small_x0_35", "MobileNetV4_conv_small", "MobileNetV4_hybrid_medium", "PP-HGNet_tiny", "PP-HGNetV2-B0",
    "PP-LCNet_x0_25", "PP-LCNetV2_small", "ResNet18", "StarNet-S1", "SwinTransformer_tiny_patch4_window7_224",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SLOW_FAMILIES)
def test_a_network_of_every_family_exports_to_every_format(name: str, tmp_path: Path) -> None:
    original = new_model_folder(name, tmp_path / "model", num_classes=7, random_seed=0)
    size = original.spec.preprocess.crop_size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    expected = plain_logits(original, pixels)
    for fmt in FORMATS:
        with new_folder(tmp_path / fmt) as partial:
            export_network(original, partial, fmt)
        exported = open_model_folder(tmp_path / fmt)
        for count in (1, 3):
            logits = run_file(fmt, exported.path, normalised(original, pixels[:count]))
            np.testing.assert_allclose(logits, expected[:count], atol=1e-4 * np.abs(expected).max())
        logits = load_engine(exported, precision="fp32", batch_size=3, num_threads=2)(pixels).logits
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())

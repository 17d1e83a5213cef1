"""`imgcls export`: a folder that labels as before, with its report, or no folder at all."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.commands.export import run
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import ConfigError, InputError, JobFailedError, ModelFolderError, UsageError
from imgcls_ray.export import network as export_module
from imgcls_ray.export.restore import NotRestoredError
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.open import open_model
from tests.conftest import SMALL_CLASSES, make_small_model
from tests.datasets.make_faulty import write_clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from imgcls_ray.export.quantize import Control
    from imgcls_ray.models.engines.load import Precision
    from imgcls_ray.models.folder import ModelFolder
    from tests.s3.server import S3Server


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the model's classes, in another order: 24 images to train with and 9 to validate with."""
    root = tmp_path_factory.mktemp("labelled") / "set"
    write_clean(root, ("cat", "ant", "gnu"))
    return root


@pytest.fixture(scope="module")
def openvino_folder(small_model: ModelFolder, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, for the tests that only look at it."""
    output = tmp_path_factory.mktemp("made") / "exported"
    run(None, [], {"model": str(small_model.path), "format": "openvino", "output": str(output), "images": str(dataset)})
    return output


@pytest.fixture
def export(small_model: ModelFolder, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def export(**options: Any) -> dict[str, Any]:
        values = {"model": str(small_model.path), "format": "openvino", "output": str(tmp_path / "exported")}
        run(None, [], {**values, **options})
        return report_of(Path(str(options.get("output", tmp_path / "exported"))))

    return export


@pytest.fixture
def made_before(openvino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is not converted again: for tests of what is around that."""

    def put_there(_network: nn.Module, path: Path, _size: int) -> None:
        for name in ("model.xml", "model.bin"):
            shutil.copy(openvino_folder / name, path.parent / name)

    monkeypatch.setattr(export_module, "_export_openvino", put_there)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_args: object, **_options: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(export_module, "export_network", work)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "export_report.json").read_text())
    return report


def accuracy(model: Path, dataset: Path, precision: Precision = "fp32") -> float:
    """Of the val split, by the Python interface and the lists as they are written."""
    from imgcls_ray.models.api import create_model

    names = dict(line.split() for line in (dataset / "label.txt").read_text().splitlines())
    entries = [line.rpartition(" ")[::2] for line in (dataset / "val.txt").read_text().splitlines()]
    results = create_model(model, precision=precision).predict(str(dataset / path) for path, _ in entries)
    right = [result.label == names[label] for result, (_, label) in zip(results, entries, strict=True)]
    return sum(right) / len(right)


# What is there afterwards


def test_the_report_begins_with_its_flag_and_says_what_was_compared(
    openvino_folder: Path, small_model: ModelFolder, dataset: Path
) -> None:
    report = report_of(openvino_folder)
    assert next(iter(report.items())) == ("done_flag", True)
    assert (report["agreement"], report["num_images"], report["split"]) == (1.0, 9, "val")
    assert report["images"] == str(dataset)
    assert 0 <= report["max_score_difference"] < 1e-3
    assert 0 < report["max_logit_difference"] < 0.1
    assert report["source_fingerprint"] == small_model.spec.fingerprint
    assert report["fingerprint"] == open_model_folder(openvino_folder).spec.fingerprint
    assert (report["precision_before"], report["precision_after"]) == ("fp32", "fp32")
    assert [report[limit] for limit in ("min_agreement", "max_accuracy_drop", "min_speedup")] == [0.995, None, None]
    files = [openvino_folder / "model.xml", openvino_folder / "model.bin"]
    assert report["size_bytes"]["after"] == sum(file.stat().st_size for file in files)


def test_the_accuracy_is_that_of_the_dataset_by_the_names_of_its_classes(
    openvino_folder: Path, small_model: ModelFolder, dataset: Path
) -> None:
    told = report_of(openvino_folder)["accuracy"]
    expected = accuracy(small_model.path, dataset)
    after = accuracy(openvino_folder, dataset)
    assert (told["before"], told["after"], told["num_images"], told["drop"]) == (expected, after, 9, expected - after)


def test_the_folder_has_class_names_for_other_readers(openvino_folder: Path) -> None:
    lines = (openvino_folder / "label.txt").read_text().splitlines()
    assert lines == [f"{i} {name}" for i, name in enumerate(SMALL_CLASSES)]
    assert not [path for path in openvino_folder.parent.iterdir() if path != openvino_folder]


def test_bulk_labelling_takes_an_exported_folder(
    openvino_folder: Path, small_model: ModelFolder, dataset: Path, tmp_path: Path
) -> None:
    from rich.console import Console

    from imgcls_ray.predict.job import predict
    from imgcls_ray.storage import open_directory
    from imgcls_ray.store.opening import open_store

    labels = []
    for model in (small_model.path, openvino_folder):
        values = {"model": str(model), "input": str(dataset / "images"), "output": str(tmp_path / model.name)}
        config = make_config(PredictConfig, {**values, "precision": "fp32", "limit": 16})
        predict(config, Console(quiet=True))
        store = open_store(open_directory(config.output))
        assert store.identity.fingerprint == open_model_folder(model).spec.fingerprint
        [part] = (tmp_path / model.name / "predictions").glob("*.parquet")
        labels.append(store.read_part(f"predictions/{part.name}", ["uri", "label"]).to_pylist())
    assert labels[0] == labels[1]
    assert len(labels[0]) == 16


def test_bulk_labelling_refuses_what_an_exported_network_has_not(openvino_folder: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from imgcls_ray.predict.job import predict

    values = {"model": str(openvino_folder), "input": str(tmp_path), "output": str(tmp_path / "store")}
    with pytest.raises(UsageError, match="gives logits and no embedding"):
        predict(make_config(PredictConfig, {**values, "embedding": True}), Console(quiet=True))
    assert not (tmp_path / "store").exists()


# Images


def test_without_images_it_is_compared_on_drawn_ones_and_says_so(
    export: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report = export(num_images=12)
    assert (report["images"], report["num_images"], report["accuracy"]) == ("drawn", 12, None)
    assert "the comparison used generated pictures only; real images are a better test" in caplog.text
    out, err = capfd.readouterr()
    assert re.search(r"^compared on 12 generated pictures: 100\.00 % get the same label, scores differ by", out, re.M)
    # What the exporters have to say of themselves is not for people.
    assert len(out.splitlines()) == 2
    assert err == ""


@pytest.mark.usefixtures("made_before")
def test_images_that_cannot_be_read_are_counted(
    export: Callable[..., dict[str, Any]], draw_images: Callable[..., list[Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    paths = draw_images(6)
    paths[2].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:400])
    report = export(images=str(paths[0].parent))
    assert (report["num_images"], report["errors"]) == (4, {"empty": 1, "truncated": 1})
    assert "left out, because they cannot be read: 1 empty, 1 truncated" in capfd.readouterr().out


@pytest.mark.usefixtures("made_before")
def test_images_of_which_none_can_be_read_are_no_comparison(
    export: Callable[..., dict[str, Any]], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    for path in draw_images(3):
        path.write_bytes(b"")
    with pytest.raises(JobFailedError, match="none of the 3 chosen images could be compared, 3 of them empty"):
        export(images=str(tmp_path / "images" / "*.jpg"))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.usefixtures("made_before")
def test_a_dataset_of_other_classes_gives_no_accuracy_and_the_reason(
    export: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_clean(tmp_path / "set", ("cat", "unicorn"))
    report = export(images=str(tmp_path / "set"), num_images=4)
    assert (report["accuracy"], report["num_images"]) == (None, 4)
    assert "the accuracy is not measured" in caplog.text
    assert "'unicorn'" in caplog.text


# 8 bits


@pytest.mark.usefixtures("made_before")
def test_8_bits_say_what_they_cost(
    export: Callable[..., dict[str, Any]],
    small_model: ModelFolder,
    dataset: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = {"min_agreement": 0, "max_accuracy_drop": 1, "min_speedup": 0}
    report = export(int8=True, images=str(dataset), num_calibration_images=16, **options)
    out, err = capfd.readouterr()
    assert report["precision"] == "int8"
    assert report["calibration"] == {"split": "train", "num_images": 16}
    assert not report["accuracy_control"]
    assert report["accuracy"]["before"] == accuracy(small_model.path, dataset, "auto")
    assert report["accuracy"]["after"] == accuracy(tmp_path / "exported", dataset, "auto")
    assert report["size_bytes"]["after"] < 0.6 * report["size_bytes"]["before"]
    assert report["max_logit_difference"] > 1e-3
    assert re.search(r"^accuracy on 9 labelled images: \S+ % before, \S+ % after, .*95 % confidence: ", out, re.M)
    told = re.search(r"^speed on this processor: \S+ images/s with one thread \(int8\+\S+\), the original ", out, re.M)
    assert told
    assert len(out.splitlines()) == 4
    assert err == ""
    speed = report["speed"]
    assert speed["after"] == pytest.approx(speed["before"] * speed["ratio"], rel=0.5)
    assert (speed["num_threads"], speed["precision_after"]) == (1, f"int8+{speed['precision_before']}")
    # As `imgcls predict` runs both, and as their speed was measured.
    for key in ("precision_before", "precision_after"):
        assert report[key] == speed[key]
    assert [report[limit] for limit in ("min_agreement", "max_accuracy_drop", "min_speedup")] == [0, 1, 0]


@pytest.fixture(scope="module")
def own_dataset(small_model: ModelFolder, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images with the labels that the model gives: it is always right."""
    from imgcls_ray.models.api import create_model

    root = tmp_path_factory.mktemp("own") / "set"
    shutil.copytree(dataset, root)
    model = create_model(small_model.path, precision="auto")
    for name in ("train", "val"):
        paths = [line.rpartition(" ")[0] for line in (root / f"{name}.txt").read_text().splitlines()]
        labels = [result.label for result in model.predict(str(root / path) for path in paths)]
        lines = [f"{path} {SMALL_CLASSES.index(str(label))}" for path, label in zip(paths, labels, strict=True)]
        (root / f"{name}.txt").write_text("\n".join(lines))
    (root / "label.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(SMALL_CLASSES)))
    return root


@pytest.fixture(scope="module")
def confident_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The small model with a louder head: the same labels, with scores above 0.5."""
    return make_small_model(tmp_path_factory.mktemp("confident") / "small", seed=0, loudness=40 * 64)


def quantize_badly(path: Path, *_args: object, **_options: object) -> None:
    """Turn the logits of a network round: what was best is now worst."""
    import openvino as ov
    from openvino import opset13

    model = ov.Core().read_model(path.read_bytes(), ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8)))
    [result] = model.get_results()
    turned = opset13.negative(result.input_value(0))
    result.input(0).replace_source_output(turned.output(0))
    turned.output(0).set_names({"logits"})
    model.validate_nodes_and_infer_types()
    ov.save_model(model, path, compress_to_fp16=False)


def fail_to_restore(*_args: object, **_options: object) -> None:
    raise NotRestoredError("the process that compiled its networks died: signal 11")


@pytest.mark.usefixtures("made_before")
@pytest.mark.parametrize("is_labelled", [True, False])
def test_a_network_that_8_bits_spoil_is_refused_with_the_numbers_and_nothing_stays(
    export: Callable[..., dict[str, Any]],
    confident_model: ModelFolder,
    own_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_labelled: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(export_module, "quantize_network", quantize_badly)
    monkeypatch.setattr(export_module, "quantize_with_control", fail_to_restore)
    images = own_dataset if is_labelled else own_dataset / "images"
    message = (
        r"in 8 bits, accuracy on 9 labelled images: 100\.00 % before, 0\.00 % after, 100\.00 points lost \(95 % .*\), "
        r"allowed are 0\.50\. Nothing was exported; calibrate on more images .* max_accuracy_drop=1\.0 would accept it"
        if is_labelled
        else r"in 8 bits, (\d+) of \1 images of which the original is confident .* get another label \(0\.00 % agree, "
        r"needed are 99\.00 %\)\. Nothing was exported; min_agreement=0\.0 would accept it"
    )
    with pytest.raises(JobFailedError, match=message):
        export(model=str(confident_model.path), int8=True, images=str(images))
    assert list(tmp_path.iterdir()) == []
    assert "accuracy control failed: the process that compiled its networks died: signal 11" in caplog.text


@pytest.mark.usefixtures("made_before")
def test_a_network_that_nncf_cannot_quantize_is_told_in_a_line(
    export: Callable[..., dict[str, Any]], own_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise ValueError("cannot reshape array of size 16 into shape (1,1,1,1)\nmore")

    monkeypatch.setattr(export_module, "quantize_network", fail)
    with pytest.raises(JobFailedError, match=r"NNCF cannot quantize this network: cannot .*\(1,1,1,1\)\. Nothing was"):
        export(int8=True, images=str(own_dataset))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_before")
@pytest.mark.parametrize("is_restored", [True, False])
def test_a_network_that_8_bits_spoil_is_made_again_with_accuracy_control(
    export: Callable[..., dict[str, Any]],
    confident_model: ModelFolder,
    own_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    is_restored: bool,
) -> None:
    asked = []

    def control(path: Path, images: list[np.ndarray], *_: object, control: Control, **_options: object) -> None:
        asked.append((len(images), control))
        if not is_restored:
            quantize_badly(path)

    monkeypatch.setattr(export_module, "quantize_network", quantize_badly)
    monkeypatch.setattr(export_module, "quantize_with_control", control)
    monkeypatch.setattr("imgcls_ray.export.speed._TURN_S", 0.0)
    options = {"model": str(confident_model.path), "int8": True, "images": str(own_dataset), "min_speedup": 0}
    if is_restored:
        report = export(**options, num_calibration_images=8)
        assert report["accuracy_control"]
        assert report["accuracy"]["drop"] == 0
        assert "some layers are left in floating point" in capfd.readouterr().out
    else:
        with pytest.raises(JobFailedError, match=r"100\.00 points lost"):
            export(**options, num_calibration_images=8)
        assert list(tmp_path.iterdir()) == []
    [(num_images, wanted)] = asked
    assert (num_images, len(wanted.expected), wanted.max_drop) == (8, 8, 0.0025)
    assert None not in wanted.expected


@pytest.mark.usefixtures("made_before")
def test_without_labels_it_is_told_how_many_confident_images_keep_their_label(
    export: Callable[..., dict[str, Any]],
    confident_model: ModelFolder,
    own_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export_module, "quantize_network", lambda *_, **__: None)
    monkeypatch.setattr("imgcls_ray.export.speed._TURN_S", 0.0)
    images = str(own_dataset / "images")
    report = export(model=str(confident_model.path), int8=True, images=images, min_speedup=0)
    assert 0 < report["num_confident"] <= report["num_images"] == 17
    told = f"of {report['num_confident']} images of which the original is confident (score 0.5 or more), 100.00 % keep"
    assert told in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("made_before")
def test_8_bits_that_do_not_pay_are_refused_and_nothing_stays(
    export: Callable[..., dict[str, Any]],
    own_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in ("job", "speed"):
        monkeypatch.setattr(f"imgcls_ray.export.{module}.has_fast_int8", lambda: False)
    options = {"max_accuracy_drop": 1, "num_calibration_images": 16, "min_speedup": 1000}
    with pytest.raises(
        JobFailedError, match=r"times as many, at least 1000 is needed; this processor has neither VNNI"
    ):
        export(int8=True, images=str(own_dataset), **options)
    assert "this processor has neither VNNI nor AMX: 8 bits are hardly faster here, or slower" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_to_compare_on_is_read_by_its_delimiter(tmp_path: Path, small_model: ModelFolder) -> None:
    from imgcls_ray.config import ExportConfig
    from imgcls_ray.export.images import choose_images

    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("a 1.jpg,0\nb.jpg,1\n")
    values = {"model": "m", "output": "o", "format": "onnx", "images": str(tmp_path), "delimiter": ","}
    chosen = choose_images(make_config(ExportConfig, values), small_model.spec)
    assert [image.uri for image in chosen.compared] == [f"{tmp_path}/a 1.jpg", f"{tmp_path}/b.jpg"]


def test_no_image_is_both_compared_and_calibrated_with(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder
) -> None:
    from imgcls_ray.config import ExportConfig
    from imgcls_ray.export.images import choose_images

    folder = draw_images(20)[0].parent
    values = {"model": "m", "output": "o", "format": "onnx", "int8": True, "images": str(folder)}
    chosen = choose_images(make_config(ExportConfig, {**values, "num_images": 6}), small_model.spec)
    compared, calibrated = ({image.uri for image in images} for images in (chosen.compared, chosen.calibrated))
    assert (len(compared), len(calibrated)) == (6, 10)
    assert not compared & calibrated
    assert len({uri[-6:] > "10.jpg" for uri in compared}) == 2  # from the beginning and the end


@pytest.mark.usefixtures("no_work")
def test_8_bits_of_one_image_are_refused(
    export: Callable[..., dict[str, Any]], draw_images: Callable[..., list[Path]]
) -> None:
    [path] = draw_images(1)
    with pytest.raises(UsageError, match="needs at least two images, one to compare on and one to calibrate with"):
        export(images=str(path.parent), int8=True)


# Refusals


def test_a_network_that_labels_otherwise_is_refused_and_nothing_stays(
    export: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_module._export_openvino

    def damaged(network: nn.Module, path: Path, size: int) -> None:
        network.get_parameter("classifier.weight").neg_()
        whole(network, path, size)

    monkeypatch.setattr(export_module, "_export_openvino", damaged)
    message = (
        r"exported to openvino, \d of 9 images get another label \(\S+ % agree, needed are 99\.50 %\); accuracy on 9 "
        r"labelled images: .* Nothing was exported; min_agreement=0\.\d+ would accept it"
    )
    with pytest.raises(JobFailedError, match=message):
        export(images=str(dataset))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_work")
def test_an_output_that_is_taken_is_refused_before_the_work(
    export: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelFolderError, match="already exists and is not empty"):
        export(output=str(tmp_path / "taken"), model="no/such/model")
    with pytest.raises(UsageError, match="an export is made on this machine; copy it to the bucket afterwards"):
        export(output="s3://bucket/exported")


@pytest.mark.usefixtures("no_work")
def test_an_exported_folder_is_not_exported_again(export: Callable[..., dict[str, Any]], openvino_folder: Path) -> None:
    with pytest.raises(UsageError, match="was exported to openvino already; give the model folder"):
        export(model=str(openvino_folder), format="onnx")


@pytest.mark.usefixtures("no_work")
def test_images_that_are_not_there_are_refused_before_the_work(
    export: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no such file or folder"):
        export(images=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has too few; this export needs at least an image"):
        export(images=str(tmp_path / "empty"))


@pytest.mark.usefixtures("no_work")
def test_a_missing_package_is_named_with_the_way_to_get_it(
    export: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("onnxscript", "nncf") else True)
    with pytest.raises(UsageError, match=r"needs onnxscript; pip install 'imgcls-ray\[export\]'"):
        export(format="onnx")
    missing = ("nncf", "onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else True)
    with pytest.raises(UsageError, match="needs nncf and onnxruntime; pip install"):
        export(format="onnx", int8=True, images=str(tmp_path))
    with pytest.raises(UsageError, match="needs nncf; pip install"):
        export(format="openvino", int8=True, images=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "torch_export", "int8": True, "images": "x"}, "int8 is for format=onnx and format=openvino"),
        ({"int8": True}, "int8 is calibrated on real images; give images=DATASET"),
        ({"format": "tflite"}, "format: "),
        ({"min_agreement": 1.5}, "min_agreement: "),
        ({"min_speedup": 0}, "min_speedup is a limit of int8 alone; give int8=true"),
        ({"max_accuracy_drop": 0.005}, "max_accuracy_drop is a limit of int8 alone; give int8=true"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_configuration_that_does_not_fit_is_refused(
    export: Callable[..., dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(**options)


@pytest.mark.usefixtures("no_work")
def test_a_limit_of_the_accuracy_without_labels_is_refused_before_the_work(
    export: Callable[..., dict[str, Any]], own_dataset: Path, tmp_path: Path
) -> None:
    options = {"int8": True, "max_accuracy_drop": 0.01}
    with pytest.raises(UsageError, match=r"max_accuracy_drop: the accuracy cannot be measured: .* is no dataset with"):
        export(images=str(own_dataset / "images"), **options)
    write_clean(tmp_path / "set", ("cat", "unicorn"))
    with pytest.raises(UsageError, match=r"max_accuracy_drop: the accuracy cannot be measured: .*'unicorn'"):
        export(images=str(tmp_path / "set"), **options)


# Object storage


@pytest.mark.usefixtures("made_before")
def test_models_and_images_come_from_object_storage_and_exports_are_opened_there(
    export: Callable[..., dict[str, Any]],
    openvino_folder: Path,
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    client = s3.client()
    places = {"model": small_model.path, "images": draw_images(4)[0].parent, "exported": openvino_folder}
    for prefix, folder in places.items():
        for path in folder.iterdir():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    report = export(model=f"s3://{bucket}/model", images=f"s3://{bucket}/images/")
    assert (report["num_images"], report["agreement"]) == (4, 1.0)
    assert open_model(f"s3://{bucket}/exported").spec == open_model_folder(openvino_folder).spec
    client.delete_object(Bucket=bucket, Key="exported/model.bin")
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "another"))
    with pytest.raises(UsageError, match=r"exported/model\.bin"):
        open_model(f"s3://{bucket}/exported")

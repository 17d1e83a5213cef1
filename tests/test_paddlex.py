"""``imgcls run``: the commands of PaddleX's tutorial, as they stand there, and everything that its files may say."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image

from imgcls_ray import cli
from imgcls_ray.commands import check, evaluate, export, paddlex, train
from imgcls_ray.commands.predict_files import label_files
from imgcls_ray.config import (
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    StrictModel,
    TrainConfig,
    make_config,
    nested,
)
from imgcls_ray.errors import (
    CheckFailedError,
    ConfigError,
    ImgclsError,
    InputError,
    JobFailedError,
    StorageError,
    UsageError,
    WeightsError,
)
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.storage import network
from imgcls_ray.train import network as network_of_a_run
from tests.datasets.make_faulty import jpeg, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

CONFIG = "paddlex/configs/image_classification/PP-LCNet_x1_0.yaml"
DATA = "./dataset/cls_flowers_examples"
TRAINED = "output/best_model"
HOST = "https://paddle-model-ecology.bj.bcebos.com"
PHOTO = "/paddlex/imgs/demo_image/general_image_classification_001.jpg"

# The keys and values of the file in PaddleX that every command of the tutorial names.
CONFIG_TEXT = f"""
Global:
  model: PP-LCNet_x1_0
  mode: check_dataset # check_dataset/train/evaluate/predict/predict
  dataset_dir: "/paddle/dataset/paddlex/cls/cls_flowers_examples"
  device: gpu:0,1,2,3
  output: "output"

CheckDataset:
  convert:
    enable: False
    src_dataset_type: null
  split:
    enable: False
    train_percent: null
    val_percent: null

Train:
  num_classes: 102
  epochs_iters: 20
  batch_size: 256
  learning_rate: 0.1
  pretrain_weight_path: null
  warmup_steps: 5
  resume_path: null
  log_interval: 1
  eval_interval: 1
  save_interval: 1

Evaluate:
  weight_path: "output/best_model/best_model.pdparams"
  log_interval: 1

Export:
  weight_path: https://paddle-imagenet-models-name.bj.bcebos.com/PPLCNet_x1_0_pretrained.pdparams

Predict:
  batch_size: 1
  model_dir: "output/best_model/inference"
  input: "{HOST}{PHOTO}"
  kernel_option:
    run_mode: paddle
"""

# The tutorial's command lines, character by character.
CHECK = r"""
python main.py -c paddlex/configs/image_classification/PP-LCNet_x1_0.yaml \
    -o Global.mode=check_dataset \
    -o Global.dataset_dir=./dataset/cls_flowers_examples
"""
SPLIT = r"""
python main.py -c paddlex/configs/image_classification/PP-LCNet_x1_0.yaml \
    -o Global.mode=check_dataset \
    -o Global.dataset_dir=./dataset/cls_flowers_examples \
    -o CheckDataset.split.enable=True \
    -o CheckDataset.split.train_percent=90 \
    -o CheckDataset.split.val_percent=10
"""
TRAIN = r"""
python main.py -c paddlex/configs/image_classification/PP-LCNet_x1_0.yaml  \
    -o Global.mode=train \
    -o Global.dataset_dir=./dataset/cls_flowers_examples
"""
EVALUATE = r"""
python main.py -c  paddlex/configs/image_classification/PP-LCNet_x1_0.yaml  \
    -o Global.mode=evaluate \
    -o Global.dataset_dir=./dataset/cls_flowers_examples
"""
PREDICT = r"""
python main.py -c paddlex/configs/image_classification/PP-LCNet_x1_0.yaml \
    -o Global.mode=predict \
    -o Predict.model_dir="./output/best_model/inference" \
    -o Predict.input="https://paddle-model-ecology.bj.bcebos.com/paddlex/imgs/demo_image/general_image_classification_001.jpg"
"""
PYTHON = f"""
from paddlex import create_model
model = create_model("PP-LCNet_x1_0")
output = model.predict("{HOST}{PHOTO}", batch_size=1)
for res in output:
    res.print(json_format=False)
    res.save_to_img("./output/")
    res.save_to_json("./output/res.json")
"""


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of small pictures, eight each to train with and two to validate with."""
    root = tmp_path_factory.mktemp("flowers") / "cls_flowers_examples"
    (root / "images").mkdir(parents=True)
    for split, numbers in (("train", range(24)), ("val", range(24, 30))):
        for i in numbers:
            (root / f"images/image_{i:05d}.jpg").write_bytes(jpeg(picture(i, (64, 64))))
        (root / f"{split}.txt").write_text("".join(f"images/image_{i:05d}.jpg {i % 3}\n" for i in numbers))
    (root / "label.txt").write_text("0 rose\n1 tulip\n2 daisy\n")
    return root


@pytest.fixture
def workplace(flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tutorial's commands are typed: PaddleX's file and the dataset are there."""
    shutil.copytree(flowers, tmp_path / DATA)
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_text(CONFIG_TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paddlex, "is_cluster_given", lambda: False)
    return tmp_path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of the tutorial's picture on this machine, to which addresses may lead in this test."""
    folder = tmp_path / "site"
    (folder / PHOTO[1:]).parent.mkdir(parents=True)
    (folder / PHOTO[1:]).write_bytes(jpeg(picture(99)))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    checked = network.checked_addresses
    monkeypatch.setattr(
        network, "checked_addresses", lambda host, port, *, allow_private: checked(host, port, allow_private=True)
    )
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    network.connection_pool.cache_clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    network.connection_pool.cache_clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    # Said for the handler too: jobs of Ray Data leave the session's at CRITICAL.
    caplog.set_level("INFO", "imgcls_ray")
    return caplog


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What our commands are asked for, in place of doing it: by ``command``, and by their keys."""
    seen: dict[str, Any] = {}

    def note(command: str, values: dict[str, Any]) -> None:
        seen.clear()
        seen.update(values, command=command)

    for module in (check, train, evaluate, export):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "run", lambda _file, _overrides, values, name=name, **_: note(name, values))
    monkeypatch.setattr(
        paddlex, "label_files", lambda config, _taken: note("predict", config.model_dump(exclude_unset=True))
    )
    return seen


def type_in(command: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Type a command of the tutorial with our program's name in it; the exit code."""
    line = command.replace("\\\n", " ").strip()
    assert line.startswith("python main.py ")
    monkeypatch.setattr(sys, "argv", shlex.split(line.replace("python main.py", "imgcls run")))
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def run(*overrides: str, config: str = CONFIG) -> None:
    paddlex.run(config, overrides)


def result(mode: str, output: str = "output") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(output, f"{mode}_result.json").read_text())
    return content


def make_model_folder(small_model: ModelFolder, path: str = TRAINED) -> None:
    shutil.copytree(small_model.path, path)


# The tutorial


@pytest.mark.slow
def test_the_tutorials_commands_work_one_after_the_other(
    workplace: Path, site: str, monkeypatch: pytest.MonkeyPatch, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    short = "-o Train.epochs_iters=1 -o Train.batch_size=8"
    assert type_in(f"{TRAIN.strip()} {short}", monkeypatch) == 0
    assert result("train")["done_flag"] is True
    assert (workplace / TRAINED / "model.json").exists()

    assert type_in(EVALUATE, monkeypatch) == 0
    assert result("evaluate")["done_flag"] is True
    assert {"val.top1", "val.top5"} <= result("evaluate")["metrics"].keys()

    exporting = EVALUATE.replace("=evaluate", "=export").strip() + f" -o Export.weight_path={TRAINED}"
    assert type_in(exporting, monkeypatch) == 0
    assert (workplace / "output/inference/model.onnx").exists()

    capsys.readouterr()
    assert type_in(PREDICT.replace(HOST, site), monkeypatch) == 0
    assert f"{site}{PHOTO}" in capsys.readouterr().out
    prediction = json.loads((workplace / "output/general_image_classification_001.json").read_text())
    assert list(prediction) == ["input_path", "class_ids", "scores", "label_names"]
    assert sorted(prediction["label_names"]) == ["daisy", "rose", "tulip"]
    with Image.open(workplace / "output/general_image_classification_001.jpg") as annotated:
        assert annotated.height > 120


@pytest.mark.slow
def test_the_tutorials_dataset_is_checked_and_split(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_in(CHECK, monkeypatch) == 0
    assert "Check dataset passed !" in capsys.readouterr().out
    assert result("check_dataset")["attributes"]["train_samples"] == 24
    assert (workplace / "output/check_dataset/histogram.png").exists()
    assert type_in(SPLIT, monkeypatch) == 0
    assert result("check_dataset")["attributes"]["train_samples"] == 27
    assert (workplace / DATA / "train.txt.bak").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (CHECK, {"command": "check", "data": DATA, "output": "output", "split.enable": False}),
        (
            SPLIT,
            {
                "command": "check",
                "data": DATA,
                "output": "output",
                "split.enable": True,
                "split.train_percent": 90,
                "split.val_percent": 10,
            },
        ),
        (
            TRAIN,
            {
                "command": "train",
                "data": DATA,
                "output": "output",
                "model": "PP-LCNet_x1_0",
                "pretrained": False,
                "device": "cpu",
                "epochs": 20,
                "batch_size": 256,
                "learning_rate": 0.1,
                "warmup_epochs": 5,
                "log_interval": 1,
                "eval_interval": 1,
                "save_interval": 1,
            },
        ),
        (EVALUATE, {"command": "evaluate", "data": DATA, "output": "output", "model": TRAINED, "device": "cpu"}),
        (
            PREDICT,
            {
                "command": "predict",
                "model": TRAINED,
                "input": f"{HOST}{PHOTO}",
                "output": "output",
                "device": "cpu",
                "batch_size": 1,
            },
        ),
    ],
)
def test_every_command_of_the_tutorial_is_one_of_ours(
    workplace: Path,
    small_model: ModelFolder,
    asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    expected: dict[str, Any],
) -> None:
    make_model_folder(small_model)
    assert type_in(command, monkeypatch) == 0
    assert asked == expected


def test_the_tutorials_python_lines_work(
    workplace: Path,
    site: str,
    small_model: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The place of weights that were downloaded before.
    monkeypatch.setenv("IMGCLS_CACHE", str(workplace / "cache"))
    make_model_folder(small_model, "cache/models/PP-LCNet_x1_0")
    monkeypatch.setattr("imgcls_ray.models.api.FetchLimits.allow_private_urls", True)
    exec(compile(PYTHON.replace("from paddlex", "from imgcls_ray").replace(HOST, site), "tutorial", "exec"), {})
    assert capsys.readouterr().out.startswith(f"{site}{PHOTO}\n  ")
    assert len(json.loads((workplace / "output/res.json").read_text())["label_names"]) == 5
    [annotated] = (workplace / "output").glob("*.jpg")
    assert annotated.name.startswith("general_image_classification_001")


# Keys and values


def test_a_file_and_its_overrides_are_read_by_paddlexs_keys(workplace: Path, asked: dict[str, Any]) -> None:
    run(
        "Global.mode=train",
        f"Global.dataset_dir={DATA}",
        "Global.output=runs/a b/",
        "Global.model=ResNet18",
        "Train.epochs_iters=3",
        "Train.learning_rate=1e-3",
        "Train.batch_size=32",
        "Benchmark.seed=7",
    )
    assert asked["output"] == "runs/a b"
    assert (asked["model"], asked["epochs"], asked["batch_size"], asked["seed"]) == ("ResNet18", 3, 32, 7)
    assert float(asked["learning_rate"]) == 0.001
    # Warm-up is in epochs, whatever its name says, and no longer than training.
    assert asked["warmup_epochs"] == 3


def test_a_table_of_keys_is_as_good_as_the_keys(workplace: Path, asked: dict[str, Any]) -> None:
    run(f"Global={{mode: train, dataset_dir: {DATA}}}", "Train={epochs_iters: 4}")
    assert (asked["command"], asked["epochs"]) == ("train", 4)


def test_what_early_versions_called_the_input_is_the_input(
    workplace: Path, small_model: ModelFolder, asked: dict[str, Any]
) -> None:
    make_model_folder(small_model)
    Path(CONFIG).write_text(CONFIG_TEXT.replace("  input:", "  input_path:"))
    run("Global.mode=predict")
    assert asked["input"] == f"{HOST}{PHOTO}"
    run("Global.mode=predict", "Predict.input=a.jpg")
    assert asked["input"] == "a.jpg"


def test_no_value_is_ever_run(workplace: Path, asked: dict[str, Any]) -> None:
    code = '__import__("os").system("touch X")'
    run(f"Global.dataset_dir={code}")
    assert asked["data"] == code
    run(f"Global.output={code}")
    assert asked["output"] == code
    assert not (workplace / "X").exists()
    with pytest.raises(ConfigError, match="not plain YAML"):
        run('Global.output=!!python/object/apply:os.system ["touch X"]')
    assert not (workplace / "X").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Train.epoch_iters=3", "Train.epoch_iters: no such key .* did you mean Train.epochs_iters?"),
        ("Global.mod=train", "did you mean Global.mode?"),
        ("epochs_iters=3", "did you mean Train.epochs_iters?"),
        ("Global=train", "Global: no such key"),
        ("Train.epochs_iters={a: 1}", "Train.epochs_iters.a: no such key"),
        ("Train.0.epochs_iters=1", "Train.0.epochs_iters: has an index"),
        ("Global.mode", "expected KEY=VALUE, without spaces around '='"),
        ("Global.mode=serve", "must be one of check_dataset, train, evaluate, export, predict, got 'serve'"),
        ("Global.mode=null", "must be one of check_dataset"),
        ("Global.mode=[train]", r"Global.mode: expected a text, got \['train'\]"),
        ("Global.output=2024", r"""Global.output: expected a text, got 2024; .* -o 'Global.output="2024"'"""),
        ("Global.output=[", "the value is not plain YAML"),
        ("CheckDataset.convert.enable=True", "image classification has no conversion"),
    ],
)
def test_what_paddlex_does_not_know_is_refused(workplace: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(override)


def test_an_unknown_key_of_the_file_is_told_with_the_file(workplace: Path) -> None:
    Path(CONFIG).write_text(CONFIG_TEXT.replace("epochs_iters", "epochs"))
    with pytest.raises(ConfigError, match=rf"{CONFIG}: Train.epochs: no such key .* did you mean Train.epochs_iters"):
        run()


def test_spaces_around_the_equals_sign_are_told(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = CHECK.replace("Global.mode=check_dataset", "Global.mode = check_dataset")
    assert type_in(command, monkeypatch) == 2
    assert "'Global.mode': expected KEY=VALUE, without spaces around '='" in capsys.readouterr().err


def test_a_value_that_does_not_fit_is_told_by_paddlexs_key(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Train\.epochs_iters: must be greater than 0, got 0"):
        run("Global.mode=train", f"Global.dataset_dir={DATA}", "Train.epochs_iters=0")
    with pytest.raises(ConfigError, match=r"^Predict\.batch_size: must be an integer"):
        run("Global.mode=predict", "Predict.batch_size=many", "Predict.model_dir=null")


def test_what_does_nothing_here_is_named_in_one_warning(
    workplace: Path, asked: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    run(
        "Global.mode=train",
        f"Global.dataset_dir={DATA}",
        "Train.resume_path=output/latest/latest.pdparams",
        "Train.dy2st=True",
        "Benchmark.amp=O1",
        "Evaluate.log_interval=5",
    )
    [warning] = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
    for words in (
        "Train.num_classes=102 (the dataset decides: it has 3)",
        "Train.resume_path=output/latest/latest.pdparams (the same command resumes",
        "Train.dy2st=True",
        "Benchmark.amp=O1",
        "Evaluate.log_interval=5",
        "Global.device=gpu:0,1,2,3 (not all of it is on this machine; cpu is used)",
    ):
        assert words in warning
    # Keys of the file that are for other modes are no news.
    assert "Predict" not in warning


def test_nothing_is_warned_of_where_everything_applies(
    workplace: Path, asked: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    run(
        "Global.mode=train",
        f"Global.dataset_dir={DATA}",
        "Train.num_classes=3",
        "Global.device=cpu",
        "Train.resume_path=None",
    )
    assert not [record for record in log.records if record.levelname == "WARNING"]


# Devices


def test_the_files_gpus_give_way_to_those_that_are_here(
    workplace: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = ("Global.mode=train", f"Global.dataset_dir={DATA}", "Train.batch_size=8")
    for num_gpus, device, batch_size in ((0, "cpu", 8), (2, "gpu:0,1", 16), (4, "gpu:0,1,2,3", 32)):
        monkeypatch.setattr(paddlex, "count_gpus", lambda *, of_cluster, found=num_gpus: found)
        run(*training)
        assert (asked["device"], asked["batch_size"]) == (device, batch_size)
    Path(CONFIG).write_text(CONFIG_TEXT.replace("gpu:0,1,2,3", "npu:0"))
    run(*training)
    assert asked["device"] == "cpu"


def test_a_cluster_chooses_among_its_own_gpus(
    workplace: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddlex, "count_gpus", lambda *, of_cluster: 2)
    monkeypatch.setattr(paddlex, "is_cluster_given", lambda: True)
    run("Global.mode=train", f"Global.dataset_dir={DATA}")
    assert asked["device"] == "gpu"


def test_gpus_that_someone_asked_for_are_not_exchanged(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder
) -> None:
    make_model_folder(small_model)
    training = ("Global.mode=train", f"Global.dataset_dir={DATA}", "Train.batch_size=8")
    run(*training, "Global.device=gpu:0,1")
    # PaddleX's batch is of one card.
    assert (asked["device"], asked["batch_size"]) == ("gpu:0,1", 16)
    run("Global.mode=predict", "Global.device=gpu:1,0")
    assert asked["device"] == "gpu:1"
    with pytest.raises(ConfigError, match=r"Global\.device: must be cpu, gpu, .* got 'npu:0'"):
        run(*training, "Global.device=npu:0")


# Weights and model folders


def test_weights_that_cannot_be_had_are_told_with_paddlexs_ways_out(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise WeightsError(f"it has none; {network_of_a_run._WAYS_OUT}")

    monkeypatch.setattr(paddlex, "_do", fail)
    with pytest.raises(WeightsError) as caught:
        run("Global.mode=train", f"Global.dataset_dir={DATA}", "Train.pretrain_weight_path=default")
    assert str(caught.value) == (
        "it has none; train from random weights (-o Train.pretrain_weight_path=null), or from weights of your own "
        "(-o Train.pretrain_weight_path=FILE)"
    )
    assert result("train")["err_msg"] == str(caught.value)


def test_training_starts_from_what_the_file_says(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder, log: pytest.LogCaptureFixture
) -> None:
    training = ("Global.mode=train", f"Global.dataset_dir={DATA}")
    run(*training)
    assert (asked["pretrained"], "weights" in asked) == (False, False)
    assert "-o Train.pretrain_weight_path=default starts from timm's" in log.text
    run(*training, "Train.pretrain_weight_path=default")
    assert "pretrained" not in asked
    assert "weights" not in asked
    run(*training, "Train.pretrain_weight_path=paddle.pdparams")
    assert asked["weights"] == "paddle.pdparams"
    make_model_folder(small_model)
    run(*training, "Train.pretrain_weight_path=output/best_model/best_model.pdparams")
    assert asked["weights"] == TRAINED
    with pytest.raises(UsageError, match="is an address; download the file"):
        run(*training, "Train.pretrain_weight_path=https://x.org/a.pdparams?b=c=d")


def test_an_address_of_weights_in_the_file_means_timms(
    workplace: Path, asked: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    address = f"{HOST}/paddlex/official_pretrained_model/NAME_pretrained.pdparams"
    text = CONFIG_TEXT.replace("pretrain_weight_path: null", f"pretrain_weight_path: {address}")
    for name, has_weights in (("PP-LCNet_x1_0", True), ("ResNet18", False)):
        Path("newest.yaml").write_text(text.replace("PP-LCNet_x1_0", name))
        log.clear()
        run("Global.mode=train", f"Global.dataset_dir={DATA}", config="newest.yaml")
        assert "weights" not in asked
        assert asked.get("pretrained", True) == has_weights
        [warning] = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
        assert f"Train.pretrain_weight_path={address} (no weights are downloaded for a file" in warning
        assert ("timm's weights of it" if has_weights else "random weights") in warning
        log.clear()
        run("Global.mode=export", config="newest.yaml")
        assert asked["model"] == name
        [warning] = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
        assert "Export.weight_path=https://" in warning


@pytest.mark.parametrize(("level", "amp"), [("O1", "auto"), ("O2", "auto"), ("OFF", "off")])
def test_paddlexs_mixed_precision_is_ours(workplace: Path, asked: dict[str, Any], level: str, amp: str) -> None:
    run("Global.mode=train", f"Global.dataset_dir={DATA}", f"Train.amp={level}")
    assert asked["amp"] == amp
    with pytest.raises(ConfigError, match=r"Train\.amp: must be O1, O2 or OFF, got 'O3'"):
        run("Global.mode=train", f"Global.dataset_dir={DATA}", "Train.amp=O3")


def test_every_file_of_paddlexs_three_is_understood_in_every_mode(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder
) -> None:
    make_model_folder(small_model)
    # What versions 3 have beside the keys of the tutorial's, and how their files write the values.
    newer: dict[str, dict[str, object]] = {
        "Global": {"export_with_pir": True},
        "Train": {"amp": "O1", "dist_ips": "10.0.0.1,10.0.0.2", "basic_config_path": "a.yaml", "dy2st": False},
        "Evaluate": {"basic_config_path": "a.yaml"},
        "Export": {"basic_config_path": "a.yaml"},
        "Predict": {"engine": "paddle_static", "engine_config": {"a": 1}, "hpi_config": {"backend": "onnxruntime"}},
    }
    several_labels = [f"{name}_ML" for name in ("PP-LCNet_x1_0", "PP-HGNetV2-B0", "PP-HGNetV2-B4", "PP-HGNetV2-B6")]
    names = [*ZOO, *several_labels, "ResNet50_ML", "CLIP_vit_base_patch16_448_ML"]
    kinds: dict[str, type[StrictModel]] = {
        "check_dataset": CheckConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "export": ExportConfig,
    }
    num_parsed = 0
    for number, name in enumerate(names):
        address = f"{HOST}/paddlex/official_pretrained_model/{name}_pretrained.pdparams"
        rate = ("0.1", "3e-3", "0.13", "0.0003")[number % 4]
        text = CONFIG_TEXT.replace("PP-LCNet_x1_0", name).replace("weight_path: null", f"weight_path: {address}")
        values = yaml.safe_load(text.replace("rate: 0.1", f"rate: {rate}"))
        values["Export"]["weight_path"] = address
        if number % 2:
            values = {table: {**keys, **newer.get(table, {})} for table, keys in values.items()}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(values).replace(f"'{rate}'", rate))
        for mode in ("check_dataset", "train", "evaluate", "export", "predict"):
            asked.clear()
            run(f"Global.mode={mode}", f"Global.dataset_dir={DATA}", config=f"{name}.yaml")
            assert asked["command"] == mode.removesuffix("_dataset")
            if kind := kinds.get(mode):
                values_of_ours = {key: value for key, value in asked.items() if key != "command"}
                make_config(kind, nested(values_of_ours))
            num_parsed += 1
            if mode == "train":
                assert (asked["model"], asked["learning_rate"]) == (name, float(rate))
    assert num_parsed == 5 * (80 + 6)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("output/best_model/best_model.pdparams", TRAINED),
        ("./output/best_model/inference", TRAINED),
        ("output/best_model", TRAINED),
        ("output/best_model/model.safetensors", TRAINED),
        ("s3://bucket/out/best_model/best_model.pdparams", "s3://bucket/out/best_model"),
        ("s3://bucket/out/best_model", "s3://bucket/out/best_model"),
        ("null", "PP-LCNet_x1_0"),
        ("None", "PP-LCNet_x1_0"),
    ],
)
def test_a_path_of_paddlexs_weights_means_the_model_folder(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder, path: str, expected: str
) -> None:
    make_model_folder(small_model)
    for mode, key in (
        ("evaluate", "Evaluate.weight_path"),
        ("export", "Export.weight_path"),
        ("predict", "Predict.model_dir"),
    ):
        run(f"Global.mode={mode}", f"{key}={path}")
        assert (asked["command"], asked["model"]) == (mode, expected)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("paddle.pdparams", "is no model folder; `imgcls models new PP-LCNet_x1_0 --weights .* then give {key}=DIR"),
        ("paddle", "is no model folder; `imgcls models new PP-LCNet_x1_0"),
        ("output/best_model/best_model.pdparams", "there is no model folder; -o Global.mode=train makes one"),
        ("https://x.org/a.pdparams", "is an address; give output/best_model"),
    ],
)
def test_a_path_that_means_no_model_folder_is_refused_with_the_way_out(
    workplace: Path, asked: dict[str, Any], path: str, message: str
) -> None:
    Path("paddle.pdparams").write_bytes(b"")
    Path("paddle").mkdir()
    for mode, key in (
        ("evaluate", "Evaluate.weight_path"),
        ("export", "Export.weight_path"),
        ("predict", "Predict.model_dir"),
    ):
        with pytest.raises(UsageError, match=message.format(key=key)):
            run(f"Global.mode={mode}", f"{key}={path}")
    assert not asked


def test_a_typing_error_in_a_path_is_not_taken_for_the_folder_above_it(
    workplace: Path, small_model: ModelFolder
) -> None:
    make_model_folder(small_model)
    with pytest.raises(UsageError, match="there is no model folder"):
        run("Global.mode=evaluate", "Evaluate.weight_path=output/best_model/infrence")


def test_an_export_goes_into_a_folder_of_its_own(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder
) -> None:
    make_model_folder(small_model)
    exporting = ("Global.mode=export", f"Export.weight_path={TRAINED}")
    run(*exporting)
    assert asked == {"command": "export", "model": TRAINED, "output": "output/inference", "format": "onnx"}
    run(*exporting, "Export.format=openvino", "Global.output=x", f"Global.dataset_dir={DATA}")
    assert (asked["format"], asked["output"], asked["images"]) == ("openvino", "x/inference", DATA)


# Files that are not here


def test_a_networks_defaults_stand_in_for_a_file_that_is_not_here(
    workplace: Path, asked: dict[str, Any], small_model: ModelFolder, log: pytest.LogCaptureFixture
) -> None:
    make_model_folder(small_model)
    config = "elsewhere/configs/ResNet18.yaml"
    run("Global.mode=train", f"Global.dataset_dir={DATA}", config=config)
    assert (asked["model"], asked["epochs"], asked["output"]) == ("ResNet18", 20, "output")
    # The family's recipe.
    assert not {"batch_size", "learning_rate", "warmup_epochs"} & asked.keys()
    [line] = [record.getMessage() for record in log.records if "elsewhere" in record.getMessage()]
    assert "PaddleX's defaults" in line
    run("Global.mode=evaluate", f"Global.dataset_dir={DATA}", config=config)
    assert asked["model"] == TRAINED
    run("Global.mode=predict", "Predict.input=a.jpg", config="ResNet18")
    assert (asked["model"], asked["device"]) == (TRAINED, "cpu")
    assert not [record for record in log.records if record.levelname == "WARNING"]


def test_what_the_defaults_cannot_know_is_asked_for_by_paddlexs_key(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Global\.dataset_dir is missing; give -o Global\.dataset_dir=VALUE"):
        run(config="ResNet18.yaml")


def test_another_file_that_is_not_here_cannot_be_read(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"PP-LCNet_x9_9\.yaml: cannot be read"):
        run(config="PP-LCNet_x9_9.yaml")


# What a command leaves behind


def test_a_failure_is_written_where_paddlex_writes_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_in(f"{EVALUATE.strip()} -o Global.output=out", monkeypatch) == 2
    failure = result("evaluate", "out")
    assert list(failure) == ["done_flag", "err_type", "err_msg"]
    assert failure["done_flag"] is False
    assert failure["err_type"] == "<class 'imgcls_ray.errors.UsageError'>"
    assert failure["err_msg"].startswith("Evaluate.weight_path=output/best_model/best_model.pdparams: there is no")
    assert failure["err_msg"] in capsys.readouterr().err


def test_an_earlier_result_does_not_speak_for_a_command_that_failed(workplace: Path) -> None:
    Path("output").mkdir()
    Path("output/train_result.json").write_text('{"done_flag": true}')
    with pytest.raises(InputError):
        run("Global.mode=train", "Global.dataset_dir=nowhere")
    assert result("train")["done_flag"] is False


def test_a_refused_command_leaves_the_result_of_a_finished_run_alone(workplace: Path) -> None:
    Path("output/latest").mkdir(parents=True)
    Path("output/latest/train_state.pt").write_bytes(b"")
    finished = '{"done_flag": true, "best": {"epoch": 3}}'
    Path("output/train_result.json").write_text(finished)
    for wrong in ("Global.dataset_dir=nowhere", "Train.amp=O3", "Train.epochs_iters=-1"):
        with pytest.raises(ImgclsError):
            run("Global.mode=train", f"Global.dataset_dir={DATA}", wrong)
        assert Path("output/train_result.json").read_text() == finished
    # That of a run which did not end says nothing any more.
    Path("output/train_result.json").write_text('{"done_flag": false}')
    with pytest.raises(InputError):
        run("Global.mode=train", "Global.dataset_dir=nowhere")
    assert "nowhere" in result("train")["err_msg"]


def test_the_result_of_a_job_that_failed_is_the_jobs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_errors(*_: object) -> None:
        Path("output").mkdir(exist_ok=True)
        Path("output/check_dataset_result.json").write_text('{"done_flag": true, "check_pass": false}')
        raise CheckFailedError("3 errors")

    monkeypatch.setattr(check, "run", find_errors)
    for _ in range(2):
        with pytest.raises(CheckFailedError):
            run(f"Global.dataset_dir={DATA}")
        assert result("check_dataset") == {"done_flag": True, "check_pass": False}


def test_a_file_in_place_of_the_output_is_refused(workplace: Path) -> None:
    Path("taken").write_bytes(b"")
    with pytest.raises(UsageError, match="taken: is a file"):
        run("Global.output=taken")


# Predicting


@pytest.fixture
def predict(workplace: Path, small_model: ModelFolder) -> Callable[..., None]:
    make_model_folder(small_model)
    return lambda source, *overrides: run("Global.mode=predict", f"Predict.input={source}", *overrides)


def save(path: str, seed: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture(seed, (96, 80)).save(path)


def test_every_image_of_a_folder_has_its_result(
    predict: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(
        ("in/a.jpg", "in/a.png", "in/b/a.jpg", "in/c.webp", "in/train_result.jpg", "in/curves.png")
    ):
        save(name, seed)
    Path("in/bad.jpg").write_bytes(b"no picture")
    Path("output/train_result.json").write_text("{}")
    predict("in", "Predict.batch_size=4")
    results = [
        json.loads(path.read_text()) for path in Path("output").glob("*.json") if path.name != "train_result.json"
    ]
    # Inputs of one name do not replace one another, and none replaces a result of another mode.
    names = sorted(os.path.relpath(content["input_path"], "in") for content in results)
    assert names == ["a.jpg", "a.png", "b/a.jpg", "bad.jpg", "c.webp", "curves.png", "train_result.jpg"]
    assert Path("output/train_result.json").read_text() == "{}"
    assert len(list(Path("output").glob("*.jpg"))) == 6
    assert not Path("output/curves.png").exists()
    assert {"a.json", "a.jpg", "c.json", "c.jpg", "bad.json"} <= {path.name for path in Path("output").iterdir()}
    told = capsys.readouterr().out
    assert "unsupported_format" in told
    assert "6 images labelled; 1 image could not be read" in told


def test_a_folder_that_cannot_be_listed_is_told_when_the_rest_is_labelled(
    predict: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "z"):
        save(f"in/{name}/{name}.jpg")
    scandir, broken = os.scandir, os.path.abspath("in/b")

    def scan(path: Any = ".") -> Any:
        if str(path) == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(StorageError, match=r"^1 folder of the input cannot be listed \(.*/in/b: Input/output error\)"):
        predict("in")
    assert "2 images labelled" in capsys.readouterr().out


def test_predicting_again_does_not_label_what_it_drew(predict: Callable[..., None]) -> None:
    save("in/a.jpg")
    for _ in range(2):
        predict("in", "Global.output=in/out")
        assert sorted(path.name for path in Path("in/out").iterdir()) == ["a.jpg", "a.json"]


def test_a_picture_is_not_replaced_by_its_annotated_one(predict: Callable[..., None]) -> None:
    save("a.jpg")
    before = Path("a.jpg").read_bytes()
    predict("./a.jpg", "Global.output=.")
    assert Path("a.jpg").read_bytes() == before
    assert len(list(Path().glob("a-*.jpg"))) == 1


def test_nothing_but_bad_images_is_a_failure(predict: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JobFailedError, match=r"nowhere\.jpg: no image can be labelled") as caught:
        predict("nowhere.jpg")
    assert caught.value.exit_code == 1
    assert "not_found" in capsys.readouterr().out
    assert result("predict")["done_flag"] is False
    save("a.jpg")
    predict("a.jpg")
    assert not Path("output/predict_result.json").exists()


def test_a_folder_without_images_is_refused(predict: Callable[..., None]) -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no images"):
        predict("empty")
    save("output/a.jpg")
    with pytest.raises(InputError, match="output: holds no images; what is in output is left out"):
        predict("output")


def test_results_that_cannot_be_saved_are_an_error_of_storage(
    predict: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imgcls_ray.models.results.Result.save_to_json", fail)
    save("a.jpg")
    with pytest.raises(StorageError, match="output: cannot be written: No space left"):
        predict("a.jpg")


def test_a_bucket_is_no_place_for_pictures() -> None:
    values = {"input": "a.jpg", "model": TRAINED, "output": "s3://bucket/out"}
    with pytest.raises(UsageError, match="pictures are saved on this machine"):
        label_files(make_config(PredictConfig, values), set())

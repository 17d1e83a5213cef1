"""``device=auto``: on GPUs where there are any and the work is worth their start, elsewhere on CPUs without a word."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.commands import device as commands_device
from imgcls_ray.commands import gpu_worth, predict, serve, train
from imgcls_ray.commands.device import settle_device
from imgcls_ray.config import (
    EvaluateConfig,
    LabelConfig,
    PredictConfig,
    ServeConfig,
    TrainConfig,
    make_config,
)
from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import may_have_gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


@pytest.fixture(autouse=True)
def two_gpus_and_eight_cores(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(commands_device, "count_gpus", lambda *, of_cluster: 2)
    monkeypatch.setattr(gpu_worth, "available_cores", lambda: 8)
    monkeypatch.setattr(commands_device, "is_cluster_given", lambda: False)
    caplog.set_level("INFO", logger="imgcls_ray")


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[int], str]:
    """A list of that many images, which need not be there."""

    def write(count: int) -> str:
        path = tmp_path / f"{count}.csv"
        path.write_text("uri\n" + "".join(f"/nowhere/{i}.jpg\n" for i in range(count)))
        return str(path)

    return write


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[..., str]:
    """A table of labelled images, which need not be there."""

    def write(**counts: int) -> str:
        path = tmp_path / "data.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["uri", "label", "split"])
            for split, count in counts.items():
                rows.writerows([f"/nowhere/{i}.jpg", f"class{i % 2}", split] for i in range(count))
        return str(path)

    return write


def predict_config(source: str, **values: Any) -> PredictConfig:
    return make_config(PredictConfig, {"input": source, "model": "PP-LCNet_x1_0", "output": "out", **values})


def test_much_work_goes_to_the_gpus_and_that_is_told(
    listed: Callable[[int], str], small_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert settle_device(predict_config(listed(60_000), model=str(small_model.path))).device == "gpu"
    assert caplog.messages == ["device=gpu: 2 GPUs found; device=cpu uses none"]


def test_little_work_stays_on_the_cpus_and_that_is_told(
    listed: Callable[[int], str], small_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert settle_device(predict_config(listed(2_000), model=str(small_model.path))).device == "cpu"
    [line] = caplog.messages
    assert line.startswith("device=cpu: 2,000 images take about 1 s on 8 cores, and a GPU about 15 s to start; ")


def test_a_limit_and_a_larger_network_change_what_is_little(
    listed: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = listed(4_000)
    # Of the zoo: nothing is fetched for an estimate.
    monkeypatch.setattr(gpu_worth, "open_model", no_model)
    monkeypatch.setattr(gpu_worth, "_cannot_use_gpus", lambda *_: None)
    assert settle_device(predict_config(source)).device == "cpu"
    assert settle_device(predict_config(source, model="SwinTransformer_large_patch4_window7_224")).device == "gpu"
    large = {"model": "SwinTransformer_large_patch4_window7_224", "limit": 100}
    assert settle_device(predict_config(source, **large)).device == "cpu"


def no_model(*_: object) -> ModelFolder:
    raise AssertionError("a model was opened")


def test_one_image_stays_on_the_cpus(draw_images: Callable[..., list[Path]], small_model: ModelFolder) -> None:
    config = make_config(LabelConfig, {"input": str(draw_images(1)[0]), "model": str(small_model.path)})
    assert settle_device(config).device == "cpu"


@pytest.mark.parametrize("device", ["cpu", "gpu", "gpu:0"])
def test_a_device_that_is_named_is_taken(
    device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commands_device, "count_gpus", no_model)
    assert settle_device(predict_config("in", device=device)).device == device
    assert settle_device(predict_config("in", num_gpus=3)).device == "gpu"
    assert caplog.messages == []


def test_without_a_gpu_nothing_is_looked_at_and_nothing_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commands_device, "count_gpus", lambda *, of_cluster: 0)
    monkeypatch.setattr(gpu_worth, "open_model", no_model)
    assert settle_device(predict_config("/nowhere")).device == "cpu"
    assert settle_device(make_config(TrainConfig, {"data": "/nowhere", "model": "m"})).device == "cpu"
    assert settle_device(make_config(EvaluateConfig, {"data": "/nowhere", "model": "m"})).device == "cpu"
    assert settle_device(make_config(ServeConfig, {"model": "m"})).device == "cpu"
    assert caplog.messages == []


def test_what_runs_on_cpus_only_stays_there(
    listed: Callable[[int], str], small_model: ModelFolder, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = listed(60_000)
    config = predict_config(source, model=str(small_model.path), engine="openvino")
    assert settle_device(config).device == "cpu"
    assert "engine=openvino runs on CPUs" in caplog.messages[0]


@pytest.mark.parametrize("place", ["model", "canary", "shadow"])
def test_a_service_with_a_model_that_was_exported_for_cpus_stays_there(
    place: str, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from imgcls_ray.models.spec import Exported

    spec = small_model.spec.model_copy(update={"exported": Exported.model_construct(format="onnx")})
    exported = dataclasses.replace(small_model, spec=spec)
    monkeypatch.setattr(gpu_worth, "open_model", lambda name, _s3: exported if name == "e" else small_model)
    values: dict[str, Any] = {"model": "m"}
    assert settle_device(make_config(ServeConfig, values)).device == "gpu"
    values[place] = "e" if place == "model" else {"model": "e", "share": 0.1}
    assert settle_device(make_config(ServeConfig, values)).device == "cpu"
    assert "e was exported to onnx, which runs on CPUs" in caplog.messages[-1]


def test_training_counts_its_epochs_and_evaluation_its_split(labelled: Callable[..., str]) -> None:
    data = labelled(train=300, val=40_000)
    model = {"model": "PP-LCNet_x1_0", "data": data}
    assert settle_device(make_config(TrainConfig, {**model, "epochs": 1})).device == "cpu"
    assert settle_device(make_config(TrainConfig, {**model, "epochs": 100})).device == "gpu"


def test_an_evaluation_counts_its_split(labelled: Callable[..., str], small_model: ModelFolder) -> None:
    values = {"data": labelled(train=300, val=60_000), "model": str(small_model.path)}
    assert settle_device(make_config(EvaluateConfig, {**values, "split": "train"})).device == "cpu"
    assert settle_device(make_config(EvaluateConfig, values)).device == "gpu"


def test_more_workers_than_gpus_train_on_the_cpus(
    labelled: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    values = {"data": labelled(train=3_000, val=1), "model": "PP-LCNet_x1_0", "epochs": 100, "num_workers": 3}
    assert settle_device(make_config(TrainConfig, values)).device == "cpu"
    assert "num_workers=3 is more than 2 GPUs" in caplog.messages[0]


@pytest.mark.parametrize("values", [{"input": "/nowhere"}, {"model": "/nowhere"}, {"input": "s3://"}])
def test_what_is_wrong_is_left_to_the_job_to_say(values: dict[str, str], listed: Callable[[int], str]) -> None:
    assert settle_device(predict_config(**{"source": listed(1), **_renamed(values)})).device in ("cpu", "gpu")


def _renamed(values: dict[str, str]) -> dict[str, str]:
    return {"source" if key == "input" else key: value for key, value in values.items()}


def test_a_dry_run_asks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_device, "count_gpus", no_model)
    assert settle_device(predict_config("in", dry_run=True)).device == "cpu"


def test_work_on_this_machines_processes_asks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_device, "count_gpus", no_model)
    assert settle_device(predict_config("in", on="local")).device == "cpu"


def test_the_cluster_is_asked_for_a_job_but_not_for_one_image_nor_for_a_service(
    monkeypatch: pytest.MonkeyPatch, draw_images: Callable[..., list[Path]]
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(commands_device, "is_cluster_given", lambda: True)

    def count_gpus(*, of_cluster: bool) -> int:
        asked.append(of_cluster)
        return 0

    monkeypatch.setattr(commands_device, "count_gpus", count_gpus)
    [image] = draw_images(1)
    settle_device(predict_config(str(image.parent)))
    settle_device(predict_config(str(image)))
    settle_device(make_config(ServeConfig, {"model": "m"}))
    settle_device(make_config(TrainConfig, {"data": "d", "model": "m"}))
    assert asked == [True, False, False, True]


def test_the_commands_settle_the_device_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    class BegunError(Exception):
        pass

    begun: list[str] = []

    def begin(config: Any, *_: object, **__: object) -> None:
        begun.append(config.device)
        raise BegunError

    monkeypatch.setattr(commands_device, "_chosen", lambda _config: "gpu")
    monkeypatch.setattr("imgcls_ray.predict.job.predict", begin)
    monkeypatch.setattr("imgcls_ray.train.job.train", begin)
    monkeypatch.setattr("imgcls_ray.evaluate.job.evaluate", begin)
    monkeypatch.setattr(serve, "_check", begin)
    from imgcls_ray.commands import evaluate

    data = {"data": "d", "model": "m"}
    for command, flags in (
        (predict, {"input": "in", "model": "m", "output": "o"}),
        (train, data),
        (evaluate, data),
        (serve, {"model": "m"}),
    ):
        with pytest.raises(BegunError):
            command.run(None, [], flags)
    assert begun == ["gpu"] * 4


def test_a_device_that_is_not_settled_is_the_cpu() -> None:
    config = predict_config("in")
    assert (config.device, config.uses_gpus, config.gpu_ids) == ("auto", False, ())


@pytest.mark.parametrize(
    ("names", "visible", "may"),
    [
        ([], None, False),
        (["null", "nvidiactl", "nvidia-uvm"], None, False),
        (["nvidia0"], None, True),
        (["nvidia12"], "3", True),
        (["dxg"], None, True),
        (["nvidia0"], "", False),
        (["nvidia0"], "-1", False),
        (["nvidia0"], "-1,0", False),
        (["nvidia0"], "0,-1", True),
    ],
)
def test_a_gpu_is_looked_for_without_cuda(
    names: list[str], visible: str | None, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / name).touch()
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert may_have_gpus(tmp_path) is may


def test_choosing_the_cpu_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, json\n"
        "from imgcls_ray.commands.device import settle_device\n"
        "from imgcls_ray.config import TrainConfig\n"
        "config = settle_device(TrainConfig(data='d', model='m'))\n"
        "print(json.dumps([config.device, sorted({'torch', 'ray', 'openvino'} & set(sys.modules))]))"
    )
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=hidden)
    assert json.loads(done.stdout) == ["cpu", []]


def test_an_environment_that_names_no_cluster_is_refused_to_jobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cluster() -> bool:
        raise ResourceError("no cluster")

    monkeypatch.setattr(commands_device, "is_cluster_given", no_cluster)
    with pytest.raises(ResourceError, match="no cluster"):
        settle_device(predict_config("in"))
    monkeypatch.setattr(commands_device, "count_gpus", lambda *, of_cluster: 0)
    assert settle_device(make_config(LabelConfig, {"input": "in", "model": "m"})).device == "cpu"
    assert settle_device(make_config(ServeConfig, {"model": "m"})).device == "cpu"

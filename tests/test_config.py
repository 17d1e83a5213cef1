"""Configurations are checked at the door, and say what is wrong with the way out."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

import imgcls_ray.config
from imgcls_ray.config import (
    CheckConfig,
    ModelsConfig,
    PredictConfig,
    ServeConfig,
    SplitConfig,
    TrainConfig,
    key_line,
    load_config,
    make_config,
    meant_key,
    parse_overrides,
    read_values,
)
from imgcls_ray.errors import ConfigError, MissingKeyError

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.config import StrictModel

NEEDED = {"input": "in", "model": "m", "output": "out"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topk": 3}, "topk: no such key; did you mean top_k?"),
        ({"batchsize": 3}, "batchsize: no such key; did you mean batch_size?"),
        ({"zzz": 1}, "zzz: no such key; known keys: .*input, model, top_k"),
        ({"top_k": 0}, "top_k: must be greater than 0, got 0"),
        ({"top_k": "many"}, "top_k: must be an integer, got 'many'"),
        ({"max_error_rate": 2}, "max_error_rate: must be less than or equal to 1, got 2; 2 % is 0.02"),
        ({"export": "xlsx"}, "export: must be 'parquet', 'jsonl' or 'csv', got 'xlsx'"),
        ({"unit_size": 5000}, "unit_size: must be less than or equal to 2048, got 5000"),
        ({"on": "local", "device": "gpu"}, "on=local runs on CPUs; for GPUs give on=ray, or leave it out"),
        ({"on": "local", "num_gpus": 1}, "on=local runs on CPUs; for GPUs give on=ray, or leave it out"),
        ({"on": "cluster"}, "on: must be 'auto', 'local' or 'ray', got 'cluster'"),
        ({"num_gpus": 1, "engine": "openvino"}, "engine=openvino runs on CPUs; for GPUs give engine=torch"),
        ({"device": "gpu", "engine": "openvino"}, "engine=openvino runs on CPUs; for GPUs give engine=torch"),
        ({"device": "toaster"}, "device: must be auto, cpu, gpu, gpu:0 or gpu:0,1, got 'toaster'"),
        ({"device": "cpu:0"}, "device: must be auto, cpu, gpu"),
        ({"device": "gpu:1,1"}, "device: must name a GPU once, got 'gpu:1,1'"),
        (
            {"device": "gpu:0,1", "num_gpus": 1},
            "device=gpu:0,1 names the GPUs, num_gpus=1 lets them be chosen: give one",
        ),
        ({"device": "cpu", "num_gpus": 1}, "num_gpus=1 labels on GPUs and device=cpu on CPUs: leave one out"),
        (
            {"num_workers": 4, "max_workers": 8},
            "num_workers=4 is a fixed number of workers; give it, or min_workers and max_workers",
        ),
        ({"num_workers": 4, "min_workers": 2}, "num_workers=4 is a fixed number of workers"),
        ({"min_workers": 8, "max_workers": 4}, "min_workers=8 is more than max_workers=4"),
        ({"min_workers": 0}, "min_workers: must be greater than 0, got 0"),
        ({"output": ""}, "output: must not be empty, got ''"),
        ({"input": ["a", ""]}, r"input: must not be empty, got \['a', ''\]"),
        ({"opset": 3}, "opset: no such key; known keys: "),
        ({"max_image_pixels": 10**9}, "max_image_pixels: must be less than or equal to 89478485"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_config(PredictConfig, {**NEEDED, **values})


def test_input_is_one_or_several() -> None:
    config = make_config(PredictConfig, {**NEEDED, "input": ["a", "b", "c"]})
    assert (config.inputs, config.input_text) == (("a", "b", "c"), "a and 2 more")
    config = make_config(PredictConfig, NEEDED)
    assert (config.inputs, config.input_text) == (("in",), "in")
    for value in ([], 2026, ["a", 1]):
        with pytest.raises(ConfigError, match=r"^input: needs a file, folder, prefix, list or address, or several of "):
            make_config(PredictConfig, {**NEEDED, "input": value})


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", ()), ("a/, *.b", ("a/", "*.b")), (["x"], ("x",))])
def test_exclude_is_a_text_with_commas_or_a_list(value: object, expected: tuple[str, ...] | None) -> None:
    assert make_config(PredictConfig, {**NEEDED, "exclude": value}).exclude == expected


@pytest.mark.parametrize(
    ("values", "uses_gpus", "gpu_ids"),
    [
        ({}, False, ()),
        ({"device": "auto", "num_gpus": 1}, True, ()),
        ({"device": "gpu"}, True, ()),
        ({"device": "cuda:3"}, True, (3,)),
        ({"device": "gpu:0,2"}, True, (0, 2)),
        ({"num_gpus": 2}, True, ()),
        ({"device": "gpu", "num_gpus": 2}, True, ()),
    ],
)
def test_a_device_says_whether_and_which_gpus(
    values: dict[str, Any], uses_gpus: bool, gpu_ids: tuple[int, ...]
) -> None:
    config = make_config(PredictConfig, {**NEEDED, **values})
    assert (config.uses_gpus, config.gpu_ids) == (uses_gpus, gpu_ids)


def test_a_missing_key_is_refused_with_its_meaning() -> None:
    with pytest.raises(ConfigError, match=r"^model: is needed; Model folder"):
        make_config(PredictConfig, {"input": "in", "output": "out"})


def test_an_unknown_key_is_told_before_one_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^inptu: no such key; did you mean input\?$"):
        make_config(PredictConfig, {"inptu": "in"})


@pytest.mark.parametrize(
    ("kind", "word", "key"),
    [
        (TrainConfig, "lr", "learning_rate"),
        (TrainConfig, "LearningRate", "learning_rate"),
        (TrainConfig, "base-lr", "learning_rate"),
        (TrainConfig, "bs", "batch_size"),
        (TrainConfig, "num_epochs", "epochs"),
        (TrainConfig, "wd", "weight_decay"),
        (TrainConfig, "img_size", "image_size"),
        (TrainConfig, "patience", "early_stop"),
        (TrainConfig, "workers", "num_workers"),
        (TrainConfig, "arch", "model"),
        (TrainConfig, "dataset_dir", "data"),
        (TrainConfig, "smoothing", "label_smoothing"),
        (PredictConfig, "source", "input"),
        (PredictConfig, "save_dir", "output"),
        (PredictConfig, "dtype", "precision"),
        (PredictConfig, "gpus", "num_gpus"),
        (PredictConfig, "threads_per_worker", "cores_per_worker"),
        (SplitConfig, "val_ratio", "val_percent"),
    ],
)
def test_another_word_for_a_key_is_answered_with_the_key(kind: type[StrictModel], word: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{word}: no such key; did you mean {key}\?$"):
        make_config(kind, {word: 1})


@pytest.mark.parametrize("word", ["threads", "num-threads", "cpus", "num_cpus", "workers"])
def test_a_number_of_cores_means_workers_in_whichever_order_the_keys_come(word: str) -> None:
    keys = list(PredictConfig.model_fields)
    assert meant_key(word, keys) == meant_key(word, keys[::-1]) == "num_workers"


@pytest.mark.parametrize(
    ("kind", "values", "way_out"),
    [
        (PredictConfig, {**NEEDED, "max_error_rate": "5%"}, "5 % is 0.05"),
        (PredictConfig, {**NEEDED, "max_error_rate": "0.5 %"}, "0.5 % is 0.005"),
        (PredictConfig, {**NEEDED, "max_error_rate": 5}, "5 % is 0.05"),
        (TrainConfig, {"data": "d", "model": "m", "label_smoothing": "10%"}, "10 % is 0.1"),
        (SplitConfig, {"data": "d", "train_percent": "80%", "val_percent": 20}, "give 80"),
        (PredictConfig, {**NEEDED, "retry": "corupt"}, "did you mean corrupt?"),
        (PredictConfig, {**NEEDED, "max_image_bytes": "10MB"}, "it is in bytes: give 10000000"),
        (PredictConfig, {**NEEDED, "max_image_bytes": "1.5 MiB"}, "it is in bytes: give 1572864"),
        (PredictConfig, {**NEEDED, "decode_timeout_s": "30s"}, "it is in seconds: give 30"),
        (PredictConfig, {**NEEDED, "fetch_timeout_s": "1.5min"}, "it is in seconds: give 90"),
        (SplitConfig, {"data": "d", "train_percent": 0.8, "val_percent": 0.2}, "give 80 and 20"),
    ],
)
def test_a_value_in_another_form_is_answered_with_the_right_one(
    kind: type[StrictModel], values: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(ConfigError, match=rf"; {re.escape(way_out)}$"):
        make_config(kind, values)


@pytest.mark.parametrize(
    ("key", "line"), [("model", 1), ("canary", 3), ("canary.share", 5), ("shadow.model", 6), ("none", None)]
)
def test_the_line_of_a_key_is_found(tmp_path: Path, key: str, line: int | None) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("model: m\n# shares\ncanary:\n  model: m\n  share: 0.1\nshadow.model: m\n")
    assert key_line(path, key) == line
    assert key_line(tmp_path / "none.yaml", key) is None


def test_errors_of_configurations_cross_process_boundaries() -> None:
    for error in (ConfigError("a: b", key="a"), MissingKeyError("a", "what it is")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.key) == (type(error), str(error), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch owned']", "not plain YAML"),
        ("- a\n- b\n", "expected 'key: value' lines, got list"),
        ("a: [", "not plain YAML"),
        ("1: 2", "expected 'key: value' lines"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_overrides_are_yaml_scalars() -> None:
    assert parse_overrides(["top_k=3", "input=s p a c e", "embedding=true", "export=null"]) == {
        "top_k": 3,
        "input": "s p a c e",
        "embedding": True,
        "export": None,
    }


@pytest.mark.parametrize(("text", "value"), [("3e-3", 0.003), ("1E5", 1e5), ("-2e+1", -20.0), ("'3e-3'", "3e-3")])
def test_a_number_with_an_exponent_needs_no_point(text: str, value: float | str) -> None:
    assert parse_overrides([f"learning_rate={text}"]) == {"learning_rate": value}


def test_the_key_on_is_no_truth_value(tmp_path: Path) -> None:
    """YAML 1.1 takes the word for one."""
    (tmp_path / "c.yaml").write_text("on: ray\ncompact: on\n")
    assert load_config(tmp_path / "c.yaml") == {"on": "ray", "compact": True}
    assert key_line(tmp_path / "c.yaml", "on") == 1
    assert make_config(PredictConfig, {**NEEDED, **load_config(tmp_path / "c.yaml")}).on == "ray"


@pytest.mark.parametrize("pair", ["top_k", "=3", "top_k=[", "x=!!python/object/apply:os.getcwd []"])
def test_an_override_that_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError):
        parse_overrides([pair])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url_hosts": ["http://a.b/"]}, r"'http://a\.b/' is no host; give images\.example\.com"),
        ({"url_hosts": ["a.*.b"]}, "is no host"),
        ({"url_hosts": ["*."]}, "is no host"),
        ({"max_images_per_request": 65}, "can never be taken in with max_queued_images=64"),
        ({"max_request_bytes": 2**29}, "can never be taken in with max_queued_bytes"),
        ({"device": "gpu:1"}, "Ray chooses a replica's GPU; give device=gpu"),
        ({"device": "gpu", "engine": "openvino"}, "engine=openvino runs on CPUs"),
        ({"canary": {"model": "m", "share": 1.5}}, r"canary\.share: .*less than or equal to 1"),
        ({"canary": {"model": "m"}}, r"canary\.share: is needed"),
        ({"canary": {"model": "m", "share": 0.5, "weight": 1}}, r"canary\.weight: no such key"),
        ({"fingerprint": "abc"}, "fingerprint: "),
        ({"top_k": 1001}, "top_k: "),
    ],
)
def test_a_service_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(ServeConfig, {"model": "m", **values})


def test_the_models_of_a_service_are_a_configuration_of_their_own() -> None:
    values = {"model": "m", "revision": 2, "canary": {"model": "n", "share": 0.1}}
    config = make_config(ServeConfig, {**values, "url_hosts": ["*.example.com"], "max_batch_size": 4})
    assert config.models() == make_config(ModelsConfig, values)
    assert config.models().revision == "2"


def test_a_key_of_an_earlier_version_is_understood_and_the_new_one_named(caplog: pytest.LogCaptureFixture) -> None:
    assert make_config(CheckConfig, {"dataset": "d"}).data == "d"
    assert caplog.messages == ["dataset: this key is called data now"]


def test_the_command_line_wins_over_a_file_with_a_key_of_an_earlier_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "check.yaml"
    path.write_text("dataset: old\nseed: 1\n")
    for overrides, flags, data in (
        ([], {}, "old"),
        (["data=x"], {}, "x"),
        (["dataset=y"], {}, "y"),
        ([], {"data": "z"}, "z"),
    ):
        assert read_values(CheckConfig, path, overrides, flags) == {"data": data, "seed": 1}
    assert f"{path}: dataset: this key is called data now" in caplog.messages


def test_a_key_under_both_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "check.yaml").write_text("dataset: a\ndata: b\n")
    with pytest.raises(
        ConfigError, match=r"check.yaml: dataset: is called data now, which is given too; leave dataset"
    ):
        read_values(CheckConfig, tmp_path / "check.yaml", [], {})


def test_everything_that_the_package_offers_is_there() -> None:
    for name in imgcls_ray.config.__all__:
        # A function that has the name of its module must not be hidden by it.
        assert not isinstance(getattr(imgcls_ray.config, name), types.ModuleType), name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = imgcls_ray.config.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "built"),
    [
        ("imgcls_ray.predict.label", set()),  # what local workers are forked from
        ("imgcls_ray.commands.predict, imgcls_ray.commands.device, imgcls_ray.predict.job", {"predict"}),
    ],
)
def test_no_process_builds_the_configurations_of_jobs_that_it_does_not_do(module: str, built: set[str]) -> None:
    code = f"import sys, json, {module}\nprint(json.dumps(list(sys.modules)))"
    path = ":".join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    jobs = {"check", "dataset", "evaluate", "export", "predict", "serve", "store", "train"}
    assert {job for job in jobs if f"imgcls_ray.config.{job}" in json.loads(done.stdout)} == built

"""``imgcls run``: PaddleX's commands. Its keys are taken for ours, and our own commands do the work.

One table says which key is which, another one which keys do nothing here and why; what is in neither is refused.
Values are YAML and nothing else: no value is ever run.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.commands import check, evaluate, export, train
from imgcls_ray.commands.check import check_output
from imgcls_ray.commands.device import count_gpus
from imgcls_ray.commands.predict_files import label_files
from imgcls_ray.config import (
    PredictConfig,
    load_config,
    make_config,
    meant_key,
    parse_device,
    parse_overrides,
    shown,
    shown_text,
)
from imgcls_ray.errors import ConfigError, ImgclsError, MissingKeyError, UsageError
from imgcls_ray.json_files import write_failure
from imgcls_ray.models.folder import SPEC_FILE, WEIGHTS_FILE
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.storage import DEFAULT_S3, open_directory
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.s3 import is_s3
from imgcls_ray.workers.ray_cluster import is_cluster_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgcls_ray.config import Plain, Values

logger = logging.getLogger(__name__)

_OURS: Mapping[str, Mapping[str, str]] = {
    "check_dataset": {
        "Global.dataset_dir": "data",
        "Global.output": "output",
        "CheckDataset.split.enable": "split.enable",
        "CheckDataset.split.train_percent": "split.train_percent",
        "CheckDataset.split.val_percent": "split.val_percent",
    },
    "train": {
        "Global.model": "model",
        "Global.dataset_dir": "data",
        "Global.device": "device",
        "Global.output": "output",
        "Train.epochs_iters": "epochs",
        "Train.batch_size": "batch_size",
        "Train.learning_rate": "learning_rate",
        "Train.pretrain_weight_path": "weights",
        "Train.warmup_steps": "warmup_epochs",
        "Train.log_interval": "log_interval",
        "Train.eval_interval": "eval_interval",
        "Train.save_interval": "save_interval",
        "Benchmark.seed": "seed",
    },
    "evaluate": {
        "Global.dataset_dir": "data",
        "Global.device": "device",
        "Global.output": "output",
        "Evaluate.weight_path": "model",
    },
    "export": {
        "Global.dataset_dir": "images",
        "Global.output": "output",
        "Export.weight_path": "model",
        "Export.format": "format",
    },
    "predict": {
        "Global.device": "device",
        "Global.output": "output",
        "Predict.model_dir": "model",
        "Predict.input": "input",
        "Predict.batch_size": "batch_size",
    },
}
"""By mode, PaddleX's keys and those of our command that mean the same."""
_OLD = {"Predict.input_path": "Predict.input"}
"""What early versions of PaddleX called a key."""
_NO_CONVERSION = "image classification has no conversion"
_OF_PADDLE = "a setting of PaddleClas, which is not used here"
_IDLE: Mapping[str, str] = {
    "CheckDataset.convert.src_dataset_type": _NO_CONVERSION,
    "Train.resume_path": "the same command resumes the run in its output by itself",
    "Train.dy2st": _OF_PADDLE,
    "Train.uniform_output_enabled": "the output has one fixed layout",
    **{
        f"Benchmark.{key}": _OF_PADDLE
        for key in ("env", "do_eval", "num_workers", "amp", "dali", "shuffle", "shared_memory", "print_mem_info")
    },
    "Evaluate.log_interval": "a progress bar shows the progress",
    "Predict.kernel_option": "OpenVINO labels on CPUs, torch on GPUs",
    "Predict.use_hpip": "there is no high-performance plugin here",
    "Predict.hpip_config": "there is no high-performance plugin here",
}
"""Keys, and tables of keys, that do nothing here, with the reason."""
_KNOWN = {
    *(key for keys in _OURS.values() for key in keys),
    *_IDLE,
    "Global.mode",
    "CheckDataset.convert.enable",
    "Train.num_classes",
}
_TRAINED = "output/best_model"
_DEFAULTS: Values = {
    "Global.mode": "check_dataset",
    "Global.output": "output",
    "Train.epochs_iters": 20,
    "Train.log_interval": 1,
    "Train.eval_interval": 1,
    "Train.save_interval": 1,
    "Evaluate.weight_path": f"{_TRAINED}/best_model.pdparams",
    "Export.weight_path": f"{_TRAINED}/best_model.pdparams",
    "Predict.batch_size": 1,
    "Predict.model_dir": f"{_TRAINED}/inference",
}
"""Of a network whose file is not at hand; batch size, learning rate and warm-up are then the family's."""


@dataclass(frozen=True)
class _Request:
    """What was asked for, by PaddleX's keys."""

    values: Values
    given: frozenset[str]
    """Keys of ``-o``; the others are the file's."""
    idle: list[str] = field(default_factory=list)
    """What does nothing here, or something else, in words: for one warning."""

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            quoted = f"""-o '{key}="{shown_text(str(value))}"'"""
            raise ConfigError(f"{key}: expected a text, got {shown(value)}; put it in quotes: {quoted}")
        return value or None


def run(config: str, overrides: Sequence[str]) -> None:
    """Do what PaddleX would do with this file and these overrides.

    Args:
        config: PaddleX's YAML file, or a path that is named like a network, for the defaults.
        overrides: ``Global.mode=train`` and so on; they win over the file.

    Raises:
        ConfigError: a key or value that PaddleX's image classification does not know.
    """
    request = _read(config, overrides)
    mode = request.text("Global.mode") or ""
    if mode not in _OURS:
        raise ConfigError(
            f"Global.mode: must be one of {', '.join(_OURS)}, got {shown(mode)}; e.g. -o Global.mode=train"
        )
    output = (request.text("Global.output") or "output").rstrip("/") or "/"
    check_output(output, DEFAULT_S3)
    with _failure_written(output, mode):
        request.idle.extend(_idle_keys(request, mode))
        ours = _TAKE[mode](request, {**_same(request, mode), "output": output})
        if request.idle:
            logger.warning("without effect: %s", "; ".join(request.idle))
        try:
            _do(mode, ours)
        except MissingKeyError as error:
            key = _in_paddlex_words(error.key, mode)
            raise ConfigError(
                f"{key} is missing; give -o {key}=VALUE, or set it in {config}. {error.meaning}"
            ) from error
        except ConfigError as error:
            raise ConfigError(_in_paddlex_words(str(error), mode)) from error


def _do(mode: str, ours: Values) -> None:
    match mode:
        case "check_dataset":
            check.run(None, [], ours)
        case "train":
            train.run(None, [], ours, is_shared=True)
        case "evaluate":
            evaluate.run(None, [], ours)
        case "export":
            export.run(None, [], ours)
        case _:
            # What other modes leave there.
            taken = {"curves", *(f"{name}_result" for name in _OURS)}
            label_files(make_config(PredictConfig, ours), taken)


def _read(config: str, overrides: Sequence[str]) -> _Request:
    if pairs := [pair for pair in overrides if "=" not in pair]:
        raise ConfigError(
            f"{shown(pairs[0])}: expected KEY=VALUE, without spaces around '=', e.g. -o Global.mode=train"
        )
    path = Path(config)
    if not os.path.isfile(path) and path.stem in ZOO:
        logger.info(
            "%s: there is no such file; PaddleX's defaults and the recipe of %s's family are used", config, path.stem
        )
        values = {**_DEFAULTS, "Global.model": path.stem}
    else:
        values = _flat(load_config(path))
        _check_keys(values, f"{config}: ")
    given = _flat(parse_overrides(overrides))
    _check_keys(given, "")
    # YAML's word is null; PaddleX's users write Python's.
    merged = {key: None if value == "None" else value for key, value in {**values, **given}.items()}
    return _Request(merged, frozenset(given))


def _flat(tables: Values, above: str = "") -> dict[str, Plain]:
    """Tables in tables as keys with dots; empty tables are none."""
    values: dict[str, Plain] = {}
    for key, value in tables.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            values |= _flat(value, f"{name}.")
        elif value is not None or not any(known.startswith(f"{name}.") for known in _KNOWN):
            values[_OLD.get(name, name)] = value
    return values


def _check_keys(values: Values, where: str) -> None:
    for key in values:
        if any(part.isdigit() for part in key.split(".")):
            raise ConfigError(f"{where}{shown_text(key)}: has an index, but no key of image classification is a list")
        if key not in _KNOWN and not _idle_name(key):
            by_name = {known.rpartition(".")[2]: known for known in sorted(_KNOWN)}
            meant = meant_key(key.rpartition(".")[2], by_name)
            hint = f"did you mean {by_name[meant]}?" if meant else "docs/paddlex.md lists the keys"
            raise ConfigError(f"{where}{shown_text(key)}: no such key of PaddleX's image classification; {hint}")


def _idle_name(key: str) -> str | None:
    """The entry of ``_IDLE`` that a key stands in or under."""
    return next((name for name in _IDLE if f"{key}.".startswith(f"{name}.")), None)


def _idle_keys(request: _Request, mode: str) -> Iterator[str]:
    sections = {key.split(".")[0] for key in _OURS[mode]}
    for key, value in request.values.items():
        is_meant = key in request.given or key.split(".")[0] in sections
        if is_meant and value not in (None, False, "") and (name := _idle_name(key)):
            yield f"{shown_text(key)}={shown_text(str(value))} ({_IDLE[name]})"


def _same(request: _Request, mode: str) -> dict[str, Plain]:
    """What our command takes as it is."""
    return {ours: request.values[key] for key, ours in _OURS[mode].items() if request.values.get(key) not in (None, "")}


def _in_paddlex_words(message: str, mode: str) -> str:
    """A problem of one of our keys, told of PaddleX's."""
    key, colon, rest = message.partition(":")
    theirs = {ours: theirs for theirs, ours in _OURS[mode].items()}
    return f"{theirs.get(key, key)}{colon}{rest}"


@contextmanager
def _failure_written(output: str, mode: str) -> Iterator[None]:
    """Leave ``MODE_result.json`` as PaddleX does where the block fails and has not written it itself."""
    directory, name = open_directory(output), f"{mode}_result.json"
    # What an earlier command left there must not speak for this one.
    directory.remove(name)
    try:
        yield
    except BaseException as error:
        with suppress(ImgclsError):
            if not directory.exists(name):
                write_failure(directory, name, error)
        raise


def _take_check(request: _Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    if request.values.get("CheckDataset.convert.enable"):
        raise ConfigError(f"CheckDataset.convert.enable: {_NO_CONVERSION}; leave it out, or give False")
    return ours


def _take_train(request: _Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    ours["device"] = device = _device(request)
    _compare_num_classes(request)
    if isinstance(batch_size := ours.get("batch_size"), int):
        # PaddleX's is of one card, ours of all.
        ours["batch_size"] = batch_size * max(1, len(parse_device(device).ids))
    warmup, epochs = ours.get("warmup_epochs"), ours.get("epochs", _DEFAULTS["Train.epochs_iters"])
    if isinstance(warmup, int | float) and isinstance(epochs, int):
        ours["warmup_epochs"] = min(warmup, epochs)
    key = "Train.pretrain_weight_path"
    weights = request.text(key)
    if weights is None:
        ours["pretrained"] = False
        logger.info(
            "training starts from random weights, as in PaddleX; -o %s=default starts from timm's pretrained weights",
            key,
        )
    elif weights == "default":
        del ours["weights"]
    elif is_url(weights):
        raise UsageError(
            f"{key}={weights}: is an address; download the file and give its path, or 'default' for timm's weights"
        )
    else:
        ours["weights"] = _meant_folder(weights) or weights
    return ours


def _take_evaluate(request: _Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    return {**ours, **_model(request, "Evaluate.weight_path"), "device": _device(request)}


def _take_export(request: _Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    if "Global.dataset_dir" not in request.given:
        # The file's is not for this: PaddleX looks at no image here.
        ours.pop("images", None)
    return {"format": "onnx", **ours, **_model(request, "Export.weight_path"), "output": f"{ours['output']}/inference"}


def _take_predict(request: _Request, ours: dict[str, Plain]) -> dict[str, Plain]:
    # As in PaddleX, the first card only: batches are small here.
    device = _device(request).partition(",")[0]
    return {**ours, **_model(request, "Predict.model_dir"), "device": device}


_TAKE = {
    "check_dataset": _take_check,
    "train": _take_train,
    "evaluate": _take_evaluate,
    "export": _take_export,
    "predict": _take_predict,
}


def _compare_num_classes(request: _Request) -> None:
    from imgcls_ray.datasets.source import read_dataset

    wanted, data = request.values.get("Train.num_classes"), request.text("Global.dataset_dir")
    if wanted is None or data is None:
        return
    found = sum(name is not None for name in read_dataset(data).class_names)
    if wanted != found:
        request.idle.append(f"Train.num_classes={wanted} (the dataset decides: it has {found})")


def _device(request: _Request) -> str:
    """The device that is asked for; the file's, which is the one of its authors, gives way to what this machine has."""
    device = request.text("Global.device")
    if device is not None and "Global.device" in request.given:
        try:
            parse_device(device)
        except ValueError as error:
            raise ConfigError(f"Global.device: {error}, got {shown(device)}") from error
        return device
    here = _device_here(device or "gpu")
    if device not in (None, here):
        request.idle.append(f"Global.device={device} (not all of it is on this machine; {here} is used)")
    return here


def _device_here(device: str) -> str:
    try:
        wanted = parse_device(device)
    except ValueError:  # an NPU, for example
        return "cpu"
    if not wanted.is_gpu:
        return "cpu"
    num_gpus = count_gpus(of_cluster=False)
    if not wanted.ids or is_cluster_given():
        # A cluster chooses among its own.
        return "gpu" if num_gpus else "cpu"
    ids = [i for i in wanted.ids if i < num_gpus]
    return f"gpu:{','.join(map(str, ids))}" if ids else "cpu"


def _model(request: _Request, key: str) -> dict[str, str]:
    """The model folder, or the network's name, that PaddleX's path of weights means.

    Raises:
        UsageError: it means neither; with the way out.
    """
    path, name = request.text(key), request.text("Global.model")
    if path is None:
        return {"model": name} if name else {}
    if is_s3(path):
        return {"model": path.rpartition("/")[0] if path.endswith(".pdparams") else path}
    if is_url(path):
        raise UsageError(
            f"{key}={shown_text(path)}: is an address; give {_TRAINED} for what was trained, or null for timm's "
            f"weights of {name}"
        )
    if folder := _meant_folder(path):
        return {"model": folder}
    command = f"`imgcls models new {name} --weights FILE.pdparams --labels label.txt --output DIR`"
    if os.path.exists(path):
        raise UsageError(
            f"{key}={shown_text(path)}: is no model folder; {command} makes one of PaddleClas' weights, then give "
            f"{key}=DIR"
        )
    raise UsageError(
        f"{key}={shown_text(path)}: there is no model folder; -o Global.mode=train makes one, or {command}"
    )


def _meant_folder(path: str) -> str | None:
    """The model folder at a path, or at the place where PaddleX would have put the files of that path."""
    place = Path(path)
    is_paddlex_name = place.suffix == ".pdparams" or place.name == "inference"
    if place.name == WEIGHTS_FILE or (is_paddlex_name and not os.path.exists(place)):
        place = place.parent
    return str(place) if os.path.isfile(place / SPEC_FILE) else None

"""PaddleX's keys: which is which of ours, which do nothing here and why; all others are refused.

Values are YAML and nothing else: no value is ever run.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.config import load_config, meant_key, parse_overrides, shown, shown_text
from imgcls_ray.errors import ConfigError
from imgcls_ray.models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgcls_ray.config import Plain, Values

logger = logging.getLogger(__name__)

OURS: Mapping[str, Mapping[str, str]] = {
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
        "Train.amp": "amp",
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
_WEIGHTS = "Train.pretrain_weight_path"
_OLD = {"Predict.input_path": "Predict.input"}
"""What early versions of PaddleX called a key."""
NO_CONVERSION = "image classification has no conversion"
_OF_PADDLE = "a setting of PaddleClas, which is not used here"
_RECIPE = "a file of PaddleClas, which is not used here; the recipe is that of the network's family"
_ENGINES = "OpenVINO labels on CPUs, torch on GPUs"
_IDLE: Mapping[str, str] = {
    "CheckDataset.convert.src_dataset_type": NO_CONVERSION,
    "Global.export_with_pir": "a format of Paddle's, which is not written here",
    "Train.basic_config_path": _RECIPE,
    "Train.dist_ips": "a cluster is given by RAY_ADDRESS",
    "Train.resume_path": "the same command resumes the run in its output by itself",
    "Train.dy2st": _OF_PADDLE,
    "Train.uniform_output_enabled": "the output has one fixed layout",
    **{
        f"Benchmark.{key}": _OF_PADDLE
        for key in ("env", "do_eval", "num_workers", "amp", "dali", "shuffle", "shared_memory", "print_mem_info")
    },
    "Evaluate.basic_config_path": _RECIPE,
    "Evaluate.log_interval": "a progress bar shows the progress",
    "Export.basic_config_path": _RECIPE,
    "Predict.engine": _ENGINES,
    "Predict.engine_config": _ENGINES,
    "Predict.genai_config": _ENGINES,
    "Predict.hpi_config": "there is no high-performance plugin here",
    "Predict.kernel_option": _ENGINES,
    "Predict.use_hpip": "there is no high-performance plugin here",
    "Predict.hpip_config": "there is no high-performance plugin here",
}
"""Keys, and tables of keys, that do nothing here, with the reason."""
_KNOWN = {
    *(key for keys in OURS.values() for key in keys),
    *_IDLE,
    "Global.mode",
    "CheckDataset.convert.enable",
    "Train.num_classes",
}
TRAINED = "output/best_model"
DEFAULTS: Values = {
    "Global.mode": "check_dataset",
    "Global.output": "output",
    "Train.epochs_iters": 20,
    "Train.log_interval": 1,
    "Train.eval_interval": 1,
    "Train.save_interval": 1,
    "Evaluate.weight_path": f"{TRAINED}/best_model.pdparams",
    "Export.weight_path": f"{TRAINED}/best_model.pdparams",
    "Predict.batch_size": 1,
    "Predict.model_dir": f"{TRAINED}/inference",
}
"""Of a network whose file is not at hand; batch size, learning rate and warm-up are then chosen."""


@dataclass(frozen=True)
class Request:
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


def read_request(config: str, overrides: Sequence[str]) -> Request:
    """Read PaddleX's file, or the defaults of a network that has none here, and put ``-o`` on top.

    Raises:
        ConfigError: a key that PaddleX's image classification does not know, or a pair without ``=``.
    """
    if pairs := [pair for pair in overrides if "=" not in pair]:
        raise ConfigError(
            f"{shown(pairs[0])}: expected KEY=VALUE, without spaces around '=', e.g. -o Global.mode=train"
        )
    path = Path(config)
    if not os.path.isfile(path) and path.stem in ZOO:
        logger.info(
            "%s: there is no such file; PaddleX's defaults and the recipe of %s's family are used", config, path.stem
        )
        values = {**DEFAULTS, "Global.model": path.stem}
    else:
        values = _flat(load_config(path))
        _check_keys(values, f"{config}: ")
    given = _flat(parse_overrides(overrides))
    _check_keys(given, "")
    # YAML's word is null; PaddleX's users write Python's.
    merged = {key: None if value == "None" else value for key, value in {**values, **given}.items()}
    return Request(merged, frozenset(given))


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


def idle_keys(request: Request, mode: str) -> Iterator[str]:
    """What of a request has no effect in this mode, and why; only what was given or belongs to the mode is told."""
    sections = {key.split(".")[0] for key in OURS[mode]}
    for key, value in request.values.items():
        is_meant = key in request.given or key.split(".")[0] in sections
        if is_meant and value not in (None, False, "") and (name := _idle_name(key)):
            yield f"{shown_text(key)}={shown_text(str(value))} ({_IDLE[name]})"


def same_keys(request: Request, mode: str) -> dict[str, Plain]:
    """What our command takes as it is."""
    return {ours: request.values[key] for key, ours in OURS[mode].items() if request.values.get(key) not in (None, "")}


def with_paddlex_options(message: str) -> str:
    """A message whose ways out are options of `imgcls train`, with PaddleX's in their place."""
    return message.replace("--scratch", f"-o {_WEIGHTS}=null").replace("--weights FILE", f"-o {_WEIGHTS}=FILE")


def in_paddlex_words(message: str, mode: str) -> str:
    """A problem of one of our keys, told of PaddleX's."""
    key, colon, rest = message.partition(":")
    theirs = {ours: theirs for theirs, ours in OURS[mode].items()}
    return f"{theirs.get(key, key)}{colon}{rest}"

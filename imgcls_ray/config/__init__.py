"""One strict model per job, and the only door to YAML.

The model of a job is built when it is first asked for. Those of all jobs take a tenth of a second, and a command needs
one of them; the process that its workers are forked from needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from imgcls_ray.config.base import (
    StrictModel,
    check_keys,
    dump_config,
    key_line,
    load_config,
    make_config,
    nested,
    parse_overrides,
    read_values,
)
from imgcls_ray.config.device import AUTO, Device, EngineName, OnDevice, Precision, RunsNetwork, Tta, parse_device
from imgcls_ray.config.meant import letters_and_digits, meant_key
from imgcls_ray.config.plain import Plain, Values
from imgcls_ray.config.shown import clipped, shown, shown_text

if TYPE_CHECKING:
    from imgcls_ray.config.check import CheckConfig, SplitConfig, SplitOptions
    from imgcls_ray.config.dataset import Labelled
    from imgcls_ray.config.demo import DemoConfig
    from imgcls_ray.config.evaluate import EvaluateConfig
    from imgcls_ray.config.export import ExportConfig
    from imgcls_ray.config.limits import ObjectStorage, ReadLimits
    from imgcls_ray.config.models import ListModelsConfig, NewModelConfig
    from imgcls_ray.config.predict import LabelConfig, PredictConfig
    from imgcls_ray.config.review import ReviewConfig
    from imgcls_ray.config.serve import GoldenImage, ModelChoice, ModelsConfig, ModelShare, ServeConfig
    from imgcls_ray.config.store import (
        CompactConfig,
        DiffConfig,
        DriftConfig,
        HistoryConfig,
        LatestConfig,
        ReportConfig,
        StatusConfig,
        StoreConfig,
    )
    from imgcls_ray.config.train import TrainConfig
    from imgcls_ray.config.workers import RunsBlocks

_LATER = {
    "check": ("CheckConfig", "SplitConfig", "SplitOptions"),
    "dataset": ("Labelled",),
    "demo": ("DemoConfig",),
    "evaluate": ("EvaluateConfig",),
    "export": ("ExportConfig",),
    "limits": ("ObjectStorage", "ReadLimits"),
    "models": ("ListModelsConfig", "NewModelConfig"),
    "predict": ("LabelConfig", "PredictConfig"),
    "review": ("ReviewConfig",),
    "serve": ("GoldenImage", "ModelChoice", "ModelsConfig", "ModelShare", "ServeConfig"),
    "store": (
        "CompactConfig",
        "DiffConfig",
        "DriftConfig",
        "HistoryConfig",
        "LatestConfig",
        "ReportConfig",
        "StatusConfig",
        "StoreConfig",
    ),
    "train": ("TrainConfig",),
    "workers": ("RunsBlocks",),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "AUTO",
    "CheckConfig",
    "CompactConfig",
    "DemoConfig",
    "Device",
    "DiffConfig",
    "DriftConfig",
    "EngineName",
    "EvaluateConfig",
    "ExportConfig",
    "GoldenImage",
    "HistoryConfig",
    "LabelConfig",
    "Labelled",
    "LatestConfig",
    "ListModelsConfig",
    "ModelChoice",
    "ModelShare",
    "ModelsConfig",
    "NewModelConfig",
    "ObjectStorage",
    "OnDevice",
    "Plain",
    "Precision",
    "PredictConfig",
    "ReadLimits",
    "ReportConfig",
    "ReviewConfig",
    "RunsBlocks",
    "RunsNetwork",
    "ServeConfig",
    "SplitConfig",
    "SplitOptions",
    "StatusConfig",
    "StoreConfig",
    "StrictModel",
    "TrainConfig",
    "Tta",
    "Values",
    "check_keys",
    "clipped",
    "dump_config",
    "key_line",
    "letters_and_digits",
    "load_config",
    "make_config",
    "meant_key",
    "nested",
    "parse_device",
    "parse_overrides",
    "read_values",
    "shown",
    "shown_text",
]

if not TYPE_CHECKING:  # mypy would take any name

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)

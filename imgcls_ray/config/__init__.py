"""One strict model per job, and the only door to YAML."""

from imgcls_ray.config.base import (
    StrictModel,
    dump_config,
    load_config,
    make_config,
    nested,
    parse_overrides,
    read_values,
)
from imgcls_ray.config.check import CheckConfig, SplitOptions
from imgcls_ray.config.device import Device, OnDevice, parse_device
from imgcls_ray.config.evaluate import EvaluateConfig
from imgcls_ray.config.export import ExportConfig
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.config.plain import clipped, shown, shown_text
from imgcls_ray.config.predict import PredictConfig
from imgcls_ray.config.serve import GoldenImage, ModelChoice, ModelsConfig, ModelShare, ServeConfig
from imgcls_ray.config.train import TrainConfig

__all__ = [
    "CheckConfig",
    "Device",
    "EvaluateConfig",
    "ExportConfig",
    "GoldenImage",
    "ModelChoice",
    "ModelShare",
    "ModelsConfig",
    "OnDevice",
    "PredictConfig",
    "ReadLimits",
    "ServeConfig",
    "SplitOptions",
    "StrictModel",
    "TrainConfig",
    "clipped",
    "dump_config",
    "load_config",
    "make_config",
    "nested",
    "parse_device",
    "parse_overrides",
    "read_values",
    "shown",
    "shown_text",
]

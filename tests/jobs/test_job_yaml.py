"""The configurations of jobs say all there is to say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from imgcls_ray.config import (
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    SplitOptions,
    StrictModel,
    TrainConfig,
    load_config,
    make_config,
)

JOBS = Path(__file__).parent.parent.parent / "jobs"
CONFIGURATIONS = pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PredictConfig, "predict.yaml"),
        (CheckConfig, "check_dataset.yaml"),
        (EvaluateConfig, "evaluate.yaml"),
        (ExportConfig, "export.yaml"),
        (TrainConfig, "train.yaml"),
    ],
)


@CONFIGURATIONS
def test_it_is_a_valid_configuration(kind: type[StrictModel], name: str) -> None:
    make_config(kind, load_config(JOBS / name))


@CONFIGURATIONS
def test_every_key_stands_there_once_and_its_default_is_the_true_one(kind: type[StrictModel], name: str) -> None:
    pairs = re.findall(r"^(?:# )?([a-z_0-9]+): *(.*)$", (JOBS / name).read_text(), flags=re.MULTILINE)
    keys = [key for key, _ in pairs if key in kind.model_fields]
    assert sorted(keys) == sorted(kind.model_fields)
    defaults = {key: yaml.safe_load(text) for key, text in pairs if key in kind.model_fields}
    for key, field in kind.model_fields.items():
        if not field.is_required() and key not in ("split", "output"):
            assert defaults[key] == (list(field.default) if isinstance(field.default, tuple) else field.default), key


def test_every_key_of_a_split_stands_there_with_its_default() -> None:
    pairs = re.findall(r"^#   ([a-z_]+): *(.*)$", (JOBS / "check_dataset.yaml").read_text(), flags=re.MULTILINE)
    defaults = {key: yaml.safe_load(text) for key, text in pairs}
    assert defaults == {key: field.default for key, field in SplitOptions.model_fields.items()}

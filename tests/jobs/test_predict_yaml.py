"""jobs/predict.yaml says all there is to say."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from imgcls_ray.config import PredictConfig, load_config, make_config

PREDICT = Path(__file__).parent.parent.parent / "jobs" / "predict.yaml"


def test_it_is_a_valid_configuration() -> None:
    make_config(PredictConfig, load_config(PREDICT))


def test_every_key_stands_there_once_and_its_default_is_the_true_one() -> None:
    pairs = re.findall(r"^(?:# )?([a-z_0-9]+): *(.*)$", PREDICT.read_text(), flags=re.MULTILINE)
    keys = [key for key, _ in pairs if key in PredictConfig.model_fields]
    assert sorted(keys) == sorted(PredictConfig.model_fields)
    defaults = {key: yaml.safe_load(text) for key, text in pairs if key in PredictConfig.model_fields}
    for key, field in PredictConfig.model_fields.items():
        if not field.is_required():
            assert defaults[key] == field.default, key

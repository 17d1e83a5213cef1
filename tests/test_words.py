"""Descriptions of fields stand alone: ``--help``, OpenAPI and editors show them without the text around them."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

# "Of the shuffle.", "Where a cosine ends.", "Highest one.": these continue the field's name and say nothing without it.
FRAGMENT = re.compile(
    r"(A|An|As|At|Between|By|Each|From|How|In|It|Its|Of|On|Same|Such|That|The|Their|These|They|This|Those|To|What|When"
    r"|Where|Whether|Which|Who|Whose|With|First|Second|Third|Last|Next|Highest|Best|Worst)\b"
)
MIN_WORDS = 4


def is_sentence(text: str) -> bool:
    """Whether a description says by itself what a field is."""
    first, _, _ = text.partition(". ")
    return text[:1].isupper() and text.endswith(".") and not FRAGMENT.match(text) and len(first.split()) >= MIN_WORDS


def models() -> Iterator[type[BaseModel]]:
    """All public pydantic models of the package, also those that are a part of another one."""
    for path in sorted((ROOT / "imgcls_ray").rglob("*.py")):
        if path.parent.name == "config" or re.search(r"\((BaseModel|StrictModel)\):", path.read_text(encoding="utf-8")):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name, kind in inspect.getmembers(module, inspect.isclass):
                if issubclass(kind, BaseModel) and kind.__module__ == module.__name__ and not name.startswith("_"):
                    yield kind


MODELS = sorted(set(models()), key=str)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_the_description_of_every_field_is_a_sentence(kind: type[BaseModel]) -> None:
    descriptions = {name: " ".join((field.description or "").split()) for name, field in kind.model_fields.items()}
    assert {name: text for name, text in descriptions.items() if not is_sentence(text)} == {}


@pytest.mark.parametrize(
    "kind", [kind for kind in MODELS if ".serve." in kind.__module__], ids=lambda kind: kind.__name__
)
def test_the_description_of_every_message_of_the_service_stands_alone(kind: type[BaseModel]) -> None:
    text = inspect.getdoc(kind) or ""
    assert text[:1].isupper()
    assert text.endswith(".")
    assert not FRAGMENT.match(re.sub(r"^(An?|The) ", "", text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Highest one.",
        "Highest one. Default: the family's, scaled to ``batch_size``.",
        "Best of all epochs so far.",
        "Its place in the request, from 0.",
        "Of SGD.",
        "Of weights; norms and biases have none. Default: the family's.",
        "Where a cosine ends. Default: the family's.",
        "Labels kept per image, best first",
        "labels kept per image, best first.",
        "``auto``: OpenVINO on CPUs, torch on GPUs.",
    ],
)
def test_a_fragment_is_no_sentence(text: str) -> None:
    assert not is_sentence(text)


def test_every_kind_of_model_is_among_them() -> None:
    names = {kind.__name__ for kind in MODELS}
    assert {"PredictConfig", "CheckConfig", "TrainConfig", "EvaluateConfig", "ExportConfig", "ServeConfig"} <= names
    assert {"SplitConfig", "SplitOptions", "ModelsConfig", "NewModelConfig", "StoreConfig", "DemoConfig"} <= names
    assert {"ClassifyJson", "ImageResult", "ErrorDetail", "InferRequest", "Tensor", "PaddleXRequest"} <= names
    assert {"ModelSpec", "Exported", "StoreIdentity"} <= names


@pytest.mark.parametrize(
    "name",
    [
        "config.meant",
        "datasets.duplicates",
        "evaluate.calibration",
        "evaluate.classifying",
        "evaluate.scoring",
        "report.reliability",
        "storage.names",
        "storage.schemes",
        "store.schema",
        "train.optimisation",
        "train.order",
        "words",
    ],
)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"imgcls_ray.{name}"))
    assert attempted > 0
    assert failed == 0

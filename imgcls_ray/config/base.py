"""One strict model per job.

A configuration is checked once, at the edge: unknown keys are refused with the nearest known one, nothing is guessed or
repaired. Below the function that a job calls, values travel as plain arguments.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from imgcls_ray.config.plain import MAX_CHARS, MAX_DEPTH, clipped, parse_yaml, shown, shown_text
from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config.plain import Plain, Values

logger = logging.getLogger(__name__)


class StrictModel(BaseModel):
    """Frozen, no unknown keys, field docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    help_sections: ClassVar[Mapping[str, str]] = {}
    """Headings of ``--help``: the field that each one stands before, and its words."""
    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and what they are called now."""


M = TypeVar("M", bound=StrictModel)
V = TypeVar("V")


def make_config(kind: type[M], values: Mapping[str, object]) -> M:
    """Check values against one job's model. Keys of earlier versions are understood, and the new ones are named.

    Raises:
        ConfigError: naming the key, what came, and the nearest known key or the way out.
    """
    try:
        return kind.model_validate(_with_new_keys(kind, values))
    except ValidationError as error:
        message = clipped(_first_problem(kind, error))
    # Without its cause: pydantic's own text holds the value, whose aliases may make it of any length.
    raise ConfigError(message)


def load_config(path: Path) -> dict[str, Plain]:
    """Read one YAML file of plain values.

    Raises:
        ConfigError: missing, not YAML, not a mapping, carrying a tag that would build an object, or more than a
            configuration ever is (``parse_yaml``).
    """
    try:
        with path.open("rb") as file:
            # One byte more than can be taken, and no more: what is there may have no end.
            content = file.read(4 * MAX_CHARS + 1)
        values = parse_yaml(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not plain YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected 'key: value' lines, got {type(values).__name__}")
    return values


def read_values(
    kind: type[StrictModel], file: Path | None, overrides: Sequence[str], flags: Values
) -> dict[str, Plain]:
    """What a command was told: flags win over overrides, overrides over the file.

    Raises:
        ConfigError: of ``load_config`` and ``parse_overrides``.
    """
    written = _with_new_keys(kind, load_config(file), f"{file}: ") if file else {}
    return {**written, **_with_new_keys(kind, parse_overrides(overrides)), **flags}


def _with_new_keys(kind: type[StrictModel], values: Mapping[str, V], where: str = "") -> dict[str, V]:
    """Values by the keys of today; what was called otherwise is told."""
    current = dict(values)
    for old in current.keys() & kind.renamed_keys.keys():
        new = kind.renamed_keys[old]
        if new in current:
            raise ConfigError(f"{where}{old}: is called {new} now, which is given too; leave {old} out")
        logger.warning("%s%s: this key is called %s now", where, old, new)
        current[new] = current.pop(old)
    return current


def dump_config(values: Values) -> str:
    """Write plain values as ``load_config`` reads them."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Plain]:
    """Read ``key=value`` pairs; values are YAML scalars, never evaluated.

    Raises:
        ConfigError: a pair without ``=``, or a value that is not YAML.
    """
    values: dict[str, Plain] = {}
    for pair in overrides:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{shown(pair)}: expected key=value, e.g. top_k=3")
        try:
            values[key.strip()] = parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"{shown(pair)}: the value is {error}") from error
    return values


def nested(values: Values) -> dict[str, Plain]:
    """Keys with a dot as tables in tables.

    Raises:
        ConfigError: a key is a value and a table at once, or lies deeper than any.
    """
    result: dict[str, Plain] = {}
    for key, value in values.items():
        *tables, last = key.split(".")
        if len(tables) >= MAX_DEPTH:
            raise ConfigError(f"{shown(key)}: lies more than {MAX_DEPTH} tables deep")
        place = result
        for table in tables:
            below = place.setdefault(table, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{shown_text(key)}: {shown_text(table)} is set to a value already")
            place = below
        place[last] = value
    return result


def _first_problem(kind: type[StrictModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(shown_text(str(part)) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(kind.model_fields)}"
        return f"{key}: no such key; {hint}"
    if problem["type"] == "missing":
        field = kind.model_fields.get(key)  # there is none by that name for a key in a table
        meaning = " ".join((field.description or "").split()).replace("``", "'") if field else ""
        return f"{key}: is needed" + (f"; {meaning}" if meaning else "")
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {shown(problem['input'])}"

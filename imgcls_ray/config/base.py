"""One strict model per job.

A configuration is checked once, at the edge: unknown keys are refused with the nearest known one, nothing is guessed or
repaired. Below the function that a job calls, values travel as plain arguments.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from imgcls_ray.config.meant import meant_key
from imgcls_ray.config.plain import MAX_CHARS, MAX_DEPTH, line_of_key, parse_yaml
from imgcls_ray.config.shown import clipped, shown, shown_text
from imgcls_ray.errors import ConfigError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from imgcls_ray.config.plain import Plain, Values

logger = logging.getLogger(__name__)


class StrictModel(BaseModel):
    """Frozen, no unknown keys, field docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    help_sections: ClassVar[Mapping[str, str]] = {}
    """Headings of ``--help``: the field that each one stands before, and its words."""
    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and what they are called now."""

    @field_validator("*")
    @classmethod
    def _is_not_empty(cls, value: object, info: ValidationInfo) -> object:
        # An empty path would be the current folder.
        if info.field_name in _PLACES and (value == "" or (isinstance(value, tuple) and "" in value)):
            raise ValueError("must not be empty")
        return value


_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "string": "a text", "tuple": "a list"}
"""pydantic's types, by the beginning of its error codes."""

_BYTES = {"b": 1, "k": 2**10, "kb": 1000, "m": 2**20, "mb": 1000**2, "g": 2**30, "gb": 1000**3}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "h": 3600}
_UNITS: Mapping[str, tuple[str, Mapping[str, float]]] = {"_bytes": ("bytes", _BYTES), "_s": ("seconds", _SECONDS)}
"""By the end of a key, what its value counts, and the units that people write."""
_PLACES = frozenset(
    {"data", "images", "input", "labels", "like", "model", "name", "output", "store", "stores", "teacher", "weights"}
)
"""Keys of paths, addresses and names."""

_MAX_CHOICES = 6
"""So many words are listed where one of them is mistyped."""

M = TypeVar("M", bound=StrictModel)
V = TypeVar("V")


def make_config(kind: type[M], values: Mapping[str, object]) -> M:
    """Check values against one job's model. Keys of earlier versions are understood, and the new ones are named.

    Raises:
        ConfigError: naming the key, what came, and the nearest known key or the way out.
        MissingKeyError: a key without a default is not among them, and nothing else is wrong.
    """
    try:
        return kind.model_validate(_with_new_keys(kind, values))
    except ValidationError as error:
        problem = _first_problem(kind, error)
    # Without its cause: pydantic's own text holds the value, whose aliases may make it of any length.
    raise problem


def check_keys(kind: type[StrictModel], values: Iterable[str]) -> None:
    """Refuse keys that one job's model does not have.

    Raises:
        ConfigError: naming the first one, and the nearest known key.
    """
    known = {*kind.model_fields, *kind.renamed_keys}
    for key in values:
        if key.partition(".")[0] not in known:
            raise _no_such_key(shown_text(key), kind.model_fields)


def key_line(path: Path, key: str) -> int | None:
    """The line of a configuration file, from 1, in which a key is set; ``None`` where it is not set there."""
    with suppress(OSError, UnicodeDecodeError, ConfigError):
        return line_of_key(_read_text(path), key)
    return None


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        # One byte more than can be taken, and no more: what is there may have no end.
        return file.read(4 * MAX_CHARS + 1).decode("utf-8")


def load_config(path: Path) -> dict[str, Plain]:
    """Read one YAML file of plain values.

    Raises:
        ConfigError: missing, not YAML, not a mapping, carrying a tag that would build an object, or more than a
            configuration ever is (``parse_yaml``).
    """
    try:
        values = parse_yaml(_read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not plain YAML: byte {error.start + 1} is no text in UTF-8") from error
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
    return {**written, **_with_new_keys(kind, parse_overrides(overrides)), **_with_new_keys(kind, flags)}


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


def _first_problem(kind: type[StrictModel], error: ValidationError) -> ConfigError:
    """Unknown keys come first: of those that are missing one may have been meant."""
    problems = error.errors()
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    # Places in lists are not told: they are given as one text.
    key = ".".join(shown_text(part) for part in problem["loc"] if isinstance(part, str))
    fields = _fields_at(kind, problem["loc"][:-1])
    if problem["type"] == "extra_forbidden":
        return _no_such_key(key, fields)
    field = fields.get(str(problem["loc"][-1])) if problem["loc"] else None
    if problem["type"] == "missing":
        return MissingKeyError(key, " ".join((field.description or "").split()).replace("``", "'") if field else "")
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return ConfigError(clipped(message))
    what = _what_is_wrong(problem, message)
    # What a check of a whole table says names the keys itself.
    is_of_table = isinstance(problem["input"], dict) and problem["type"] == "value_error"
    got = "" if is_of_table else f", got {shown(problem['input'])}"
    return ConfigError(clipped(f"{key}: {what}{got}{_way_out(problem, field)}"), key=key)


def _fields_at(kind: type[StrictModel], place: tuple[int | str, ...]) -> Mapping[str, FieldInfo]:
    """The fields of a model, or of the table at a place in it."""
    fields: Mapping[str, FieldInfo] = kind.model_fields
    for part in place:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        tables = [table for table in (annotation, *get_args(annotation)) if hasattr(table, "model_fields")]
        fields = tables[0].model_fields if tables else {}
    return fields


def _no_such_key(key: str, known: Iterable[str]) -> ConfigError:
    table, dot, last = key.rpartition(".")
    meant = meant_key(last, known)
    hint = f"did you mean {table}{dot}{meant}?" if meant else f"known keys: {', '.join(known)}"
    return ConfigError(clipped(f"{key}: no such key; {hint}"), key=key)


def _what_is_wrong(problem: ErrorDetails, message: str) -> str:
    """pydantic's words, shorter where it says how it tried."""
    kind = _KINDS.get(problem["type"].partition("_")[0])
    if len(_choices(problem)) > _MAX_CHOICES and _near_choice(problem):
        return "is not a known value"
    if kind and problem["type"].endswith(("_parsing", "_type", "_from_float")):
        return f"must be {kind}"
    return f"{message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _choices(problem: ErrorDetails) -> list[str]:
    """The words that a value may be, where it is a choice."""
    return re.findall(r"'([^']+)'", str(problem.get("ctx", {}).get("expected", "")))


def _near_choice(problem: ErrorDetails) -> str | None:
    value = problem["input"]
    near = difflib.get_close_matches(value.lower(), _choices(problem), n=1) if isinstance(value, str) else []
    return near[0] if near else None


def _way_out(problem: ErrorDetails, field: FieldInfo | None) -> str:
    """What was meant, where it can be guessed: a share in percent, a choice that is mistyped."""
    if near := _near_choice(problem):
        return f"; did you mean {near}?"
    given = problem["input"]
    if told := _without_unit(str(problem["loc"][-1]), given):
        return told
    # A whole number may have more digits than Python writes.
    is_small = isinstance(given, str | float) or (isinstance(given, int) and abs(given) < 1000)
    number = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?(%?)", str(given).strip() if is_small else "")
    if number is None:
        return ""
    bounds = field.metadata if field is not None else []
    is_share = any(1 in (getattr(bound, "le", None), getattr(bound, "lt", None)) for bound in bounds)
    if is_share and (number[2] or 1 < float(number[1]) <= 100):
        return f"; {float(number[1]):g} % is {float(number[1]) / 100:g}"
    return f"; give {number[1]}" if number[2] else ""


def _without_unit(key: str, value: object) -> str:
    """The number that was meant by ``10MB`` or ``30s``, for a key whose end says what it counts."""
    match = (
        re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,7})", value.strip()[:30])
        if isinstance(value, str)
        else None
    )
    words, factors = next((unit for end, unit in _UNITS.items() if key.endswith(end)), ("", {}))
    if match is None or (factor := factors.get(match[2].lower())) is None:
        return ""
    return f"; it is in {words}: give {float(match[1]) * factor:.15g}"

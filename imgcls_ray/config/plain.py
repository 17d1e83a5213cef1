"""Read YAML into plain values at a cost that its length bounds.

YAML was made for trusted writers: ten lines of aliases are a billion values, a date may be the 45th, brackets in
brackets end the interpreter's stack, and of two equal keys the second one silently wins. All of it is refused here, in
one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from imgcls_ray.config.shown import clipped
from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from datetime import date

    from yaml.nodes import Node

Plain: TypeAlias = "bool | int | float | str | date | Sequence[Plain] | Mapping[str, Plain] | None"
"""What a file, a command line or a service's caller can say."""
Values: TypeAlias = Mapping[str, Plain]
"""What is said of each key."""

MAX_CHARS = 512 * 2**10
"""Of a file: PaddleX's have 1,500, and a second is enough for 800,000."""
MAX_DEPTH = 32
"""Of values in each other."""


def parse_yaml(text: str) -> Plain:
    """Read one document of plain values.

    Raises:
        ConfigError: it is none, or would cost more than its length lets expect; without saying where it stood.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"is longer than {MAX_CHARS:,} characters, and no configuration")
    import yaml

    from imgcls_ray.config.yaml_loader import Loader

    try:
        value: Plain = Loader(text).get_single_data()
        return value
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        context = f"{error.context}, " if error.context else ""
        raise ConfigError(clipped(f"not plain YAML: {where}{context}{error.problem}")) from error
    except yaml.YAMLError as error:
        raise ConfigError(clipped(f"not plain YAML: {' '.join(str(error).split())}")) from error
    # Escapes beyond Unicode: PyYAML hands them to Python as they are.
    except (ValueError, OverflowError) as error:
        raise ConfigError(clipped(f"not plain YAML: {error}")) from error


def line_of_key(text: str, key: str) -> int | None:
    """The line of a document, from 1, in which a key is set; ``None`` where it is not.

    Args:
        text: as ``parse_yaml`` reads it.
        key: with dots for keys of tables, which may be written as tables or with the dots.

    Raises:
        ConfigError: it is no document of plain values.
    """
    parse_yaml(text)
    from imgcls_ray.config.yaml_loader import Loader

    return _line_below(Loader(text).get_single_node(), key)


def _line_below(node: Node | None, key: str) -> int | None:
    for name, value in getattr(node, "value", ()) if getattr(node, "id", "") == "mapping" else ():
        if name.value == key:
            return int(name.start_mark.line) + 1
        if key.startswith(f"{name.value}.") and (line := _line_below(value, key.removeprefix(f"{name.value}."))):
            return line
    return None

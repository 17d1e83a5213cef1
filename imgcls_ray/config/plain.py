"""Read YAML into plain values at a cost that its length bounds.

YAML was made for trusted writers: ten lines of aliases are a billion values, a date may be the 45th, brackets in
brackets end the interpreter's stack, and of two equal keys the second one silently wins. All of it is refused here, in
one line.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from yaml import SafeLoader
    from yaml.error import Mark
    from yaml.events import Event
    from yaml.nodes import MappingNode, Node

Plain: TypeAlias = "bool | int | float | str | date | Sequence[Plain] | Mapping[str, Plain] | None"
"""What a file, a command line or a service's caller can say."""
Values: TypeAlias = Mapping[str, Plain]
"""What is said of each key."""

MAX_CHARS = 512 * 2**10
"""Of a file: PaddleX's have 1,500, and a second is enough for 800,000."""
MAX_DEPTH = 32
_MAX_VALUES = 10_000
"""Each alias counts as all that it stands for."""
_MAX_NUMBER_CHARS = 100
_MAX_SHOWN_CHARS = 200
_MAX_MESSAGE_CHARS = 1000


def parse_yaml(text: str) -> Plain:
    """Read one document of plain values.

    Raises:
        ConfigError: it is none, or would cost more than its length lets expect; without saying where it stood.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"is longer than {MAX_CHARS:,} characters, and no configuration")
    import yaml

    try:
        value: Plain = _loader()(text).get_single_data()
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
    return _line_below(_loader()(text).get_single_node(), key)


def _line_below(node: Node | None, key: str) -> int | None:
    for name, value in getattr(node, "value", ()) if getattr(node, "id", "") == "mapping" else ():
        if name.value == key:
            return int(name.start_mark.line) + 1
        if key.startswith(f"{name.value}.") and (line := _line_below(value, key.removeprefix(f"{name.value}."))):
            return line
    return None


def shown(value: object) -> str:
    """A value for people, short whatever its size: it may be anything that a file or a caller gave."""
    return _shortener().repr(value)


def shown_text(text: str) -> str:
    """A key or path for people: as it is, or its beginning where it is longer than those are."""
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def clipped(message: str) -> str:
    """A message in one line of bounded length; its beginning says what is wrong."""
    message = " ".join(message.split())
    return message if len(message) <= _MAX_MESSAGE_CHARS else f"{message[: _MAX_MESSAGE_CHARS - 1]}…"


class _Shortener(reprlib.Repr):
    """Python's own way to show a part of a value; texts and numbers to a length that shows what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _MAX_SHOWN_CHARS
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length():,} bits"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # reprlib sorts the keys, and cuts after four.
        if level <= 0 or not x:
            return "{...}" if x else "{}"
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in list(x)[: self.maxdict]]
        return "{" + ", ".join(pairs) + (", ..." if len(x) > self.maxdict else "") + "}"


@functools.cache
def _shortener() -> _Shortener:
    return _Shortener()


@functools.cache
def _loader() -> Callable[[str], SafeLoader]:
    """PyYAML's safe loader with bounds; made when it is first needed, as ``yaml`` is imported then."""
    import yaml
    from yaml.constructor import ConstructorError

    class Loader(yaml.SafeLoader):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._num_values = self._depth = 0
            self._sizes: dict[str, int] = {}
            """Values under each anchor that is complete, with those of its aliases."""

        def compose_node(self, parent: Node | None, index: int) -> Node | None:
            event: Event = self.peek_event()  # type: ignore[no-untyped-call]
            anchor: str | None = getattr(event, "anchor", None)
            mark: Any = event.start_mark  # the stubs have two kinds of marks, and only one of them for errors
            if isinstance(event, yaml.AliasEvent):
                if anchor in self.anchors and anchor not in self._sizes:
                    raise ConstructorError(problem=f"*{anchor} stands within itself", problem_mark=mark)
                self._count(self._sizes.get(str(anchor), 0), mark)
                return super().compose_node(parent, index)
            before = self._num_values
            # A long text counts as several values: aliases could repeat it, too.
            self._count(1 + len(getattr(event, "value", "")) // 100, mark)
            self._depth += 1
            if self._depth > MAX_DEPTH:
                problem = f"values lie more than {MAX_DEPTH} deep in each other"
                raise ConstructorError(problem=problem, problem_mark=mark)
            node = super().compose_node(parent, index)
            self._depth -= 1
            if anchor is not None:
                self._sizes[anchor] = self._num_values - before
            return node

        def _count(self, num_values: int, mark: Mark) -> None:
            self._num_values += num_values
            if self._num_values > _MAX_VALUES:
                problem = f"holds more than {_MAX_VALUES:,} values, those that aliases repeat included"
                raise ConstructorError(problem=problem, problem_mark=mark)

        def compose_mapping_node(self, anchor: Any) -> MappingNode:
            node = super().compose_mapping_node(anchor)
            for key, _ in node.value:
                # YAML 1.1 takes on, off, yes and no for truth values; a key of ours is one of these words.
                if isinstance(key, yaml.ScalarNode) and key.tag.endswith(":bool") and key.style is None:
                    key.tag = "tag:yaml.org,2002:str"
            # Here, before merges (<<) put in keys that those of the mapping itself are meant to replace.
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    is_plain = key.tag.rpartition(":")[2] in ("str", "int", "float", "bool", "null", "timestamp")
                    name = self.construct_object(key) if is_plain else (key.tag, key.value)
                    if name in seen:
                        raise ConstructorError(
                            problem=f"the key {shown(key.value)} stands twice", problem_mark=key.start_mark
                        )
                    seen.add(name)
            return node

        def construct_object(self, node: Node, deep: bool = False) -> Any:
            if not isinstance(node, yaml.ScalarNode):
                return super().construct_object(node, deep)
            is_number = node.tag.endswith((":int", ":float"))
            if is_number and len(node.value) > _MAX_NUMBER_CHARS:
                problem = f"a number of {len(node.value):,} characters; put quotes around what is a text"
                raise ConstructorError(problem=problem, problem_mark=node.start_mark)
            try:
                value = super().construct_object(node, deep)
            # What the text of a known kind (a date, !!int, !!bool) must look like is not checked by PyYAML.
            except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
                kind = {"timestamp": "date", "int": "integer", "float": "number", "bool": "truth value"}
                what = kind.get(node.tag.rpartition(":")[2], "value of its kind")
                problem = f"{shown(node.value)} is no {what}; put quotes around what is a text"
                raise ConstructorError(problem=problem, problem_mark=node.start_mark) from error
            if type(value) is int and value.bit_length() > 64:
                problem = f"{shown(value)} is an integer of more than 64 bits; put quotes around what is a text"
                raise ConstructorError(problem=problem, problem_mark=node.start_mark)
            if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
                problem = "a text holds a NUL or half a character, which no path and no name can have"
                raise ConstructorError(problem=problem, problem_mark=node.start_mark)
            return value

    return Loader

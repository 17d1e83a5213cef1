"""PyYAML's safe loader with bounds on what a document costs and on what its values are.

Imported when the first document is read: ``yaml`` takes longer to load than most commands' configuration.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError

from imgcls_ray.config.plain import MAX_DEPTH
from imgcls_ray.config.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yaml.error import Mark
    from yaml.events import Event
    from yaml.nodes import MappingNode, Node, ScalarNode

_MAX_VALUES = 10_000
"""Each alias counts as all that it stands for."""
_MAX_NUMBER_CHARS = 100
_PLAIN_KINDS = ("str", "int", "float", "bool", "null", "timestamp")
_NAMES_OF_KINDS = {"timestamp": "date", "int": "integer", "float": "number", "bool": "truth value"}


class Loader(yaml.SafeLoader):
    """Refuses with PyYAML's own errors, which have the line."""

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
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            # YAML 1.1 takes on, off, yes and no for truth values; a key of ours is one of these words.
            if key.tag.endswith(":bool") and key.style is None:
                key.tag = "tag:yaml.org,2002:str"
        # Here, before merges (<<) put in keys that those of the mapping itself are meant to replace.
        self._check_keys(keys)
        return node

    def _check_keys(self, keys: Iterable[ScalarNode]) -> None:
        seen = set()
        for key in keys:
            name = self.construct_object(key) if _kind_of(key) in _PLAIN_KINDS else (key.tag, key.value)
            if name in seen:
                raise _refusal(f"the key {shown(key.value)} stands twice", key)
            seen.add(name)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        if _kind_of(node) in ("int", "float") and len(node.value) > _MAX_NUMBER_CHARS:
            raise _refusal(f"a number of {len(node.value):,} characters; put quotes around what is a text", node)
        try:
            value = super().construct_object(node, deep)
        # What the text of a known kind (a date, !!int, !!bool) must look like is not checked by PyYAML.
        except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
            what = _NAMES_OF_KINDS.get(_kind_of(node), "value of its kind")
            raise _refusal(f"{shown(node.value)} is no {what}; put quotes around what is a text", node) from error
        if type(value) is int and value.bit_length() > 64:
            raise _refusal(f"{shown(value)} is an integer of more than 64 bits; put quotes around what is a text", node)
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise _refusal("a text holds a NUL or half a character, which no path and no name can have", node)
        return value


# YAML 1.1, which PyYAML reads, takes 3e-3 for a text: a number with an exponent needs a point there. YAML 1.2 does not.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _kind_of(node: ScalarNode) -> str:
    return node.tag.rpartition(":")[2]


def _refusal(problem: str, node: ScalarNode) -> ConstructorError:
    return ConstructorError(problem=problem, problem_mark=node.start_mark)

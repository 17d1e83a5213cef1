"""Read PaddlePaddle's ``.pdparams``: a pickle of arrays by name, of which nothing is run.

Anyone may have written the file, and Python's own unpickler runs functions, follows structures without end into deep
recursion, and copies without limit. So the pickle's few instructions that arrays by name are made of are carried out
here, on a stack of plain values: numbers, text, bytes, lists, tables with text for keys. Nothing else is understood.
Time and memory are in proportion to the file: instructions are counted, each costs the same, and whatever is made of
bytes that the file holds only once counts against a budget.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np

from imgcls_ray.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NAMES_KEY = "StructuredToParameterName@@"
"""Paddle's own table of internal names beside the arrays."""
_MAX_INSTRUCTIONS = 100_000
"""The largest networks take 10,000. Each costs microseconds, and one byte may make an object of a hundred."""
_MAX_NAME = 1000
"""Characters of a name; the zoo's have less than 100."""
_TEXT_OVERHEAD = 100
"""Bytes that Python adds to a text of narrow characters, at most."""
_MAX_DIMENSIONS = 16
_MAX_LENGTH = 2**40
_NUMBER_TYPE = re.compile(r"[biuf][1248]")

_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_PUSHED = frozenset((*_NUMBERS, *_TEXTS, *_BYTES))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FIXED_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


_Value: TypeAlias = (
    "bool | int | float | str | bytes | bytearray | tuple[_Value, ...] | list[_Value] | dict[str, _Value] | _Global | "
    "_NumberType | _Array | None"
)
"""What may lie on the pickle's stack."""


def read_pdparams(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.pdparams`` file, by Paddle's names, in the file's order.

    Raises:
        WeightsError: the file cannot be read, is no such pickle, or asks for more than arrays and containers.
    """
    try:
        with path.open("rb") as file:
            reader = Reader(file)
            content = _Machine(budget=2 * reader.num_bytes + 2**20).run(reader)
        return _arrays(content)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except _NotAllowedError as error:
        raise WeightsError(
            f"{path}: {error}; a .pdparams file of weights holds arrays by name and nothing else, so nothing of this "
            "one was run"
        ) from error
    except _OtherContentError as error:
        raise WeightsError(f"{path}: {error}") from error
    # Damaged bytes make every kind of error.
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        struct.error,
        OverflowError,
        MemoryError,
    ) as error:
        raise WeightsError(f"{path}: is not a readable .pdparams file ({type(error).__name__})") from error


class _NotAllowedError(Exception):
    """The pickle asks for something that weights have no need of."""


class _OtherContentError(Exception):
    """It is a pickle of plain values, but not of arrays by name."""


class Reader:
    """The file for ``pickletools``: never asked for more than it has, whatever length the pickle claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.num_bytes = file.seek(0, 2)
        file.seek(0)
        self._file, self._left = file, self.num_bytes

    def read(self, num_bytes: int) -> bytes:
        content = self._file.read(min(num_bytes, self._left))
        self._left -= len(content)
        return content

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


class _Global:
    """A function or class that the pickle names, and that is never looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


class _NumberType:
    """A ``numpy.dtype`` on its way: its code, then its byte order."""

    def __init__(self, code: _Value) -> None:
        if not isinstance(code, str) or not _NUMBER_TYPE.fullmatch(code):
            raise _NotAllowedError("has an array of something else than numbers")
        self._code, self._order = code, "="

    def build(self, state: _Value) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) >= 2 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise _NotAllowedError("has an array of a type that is not understood")
        self._order = order.replace("|", "=")

    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(self._order + self._code)


class _Array:
    """A ``numpy.ndarray`` on its way: its content comes after it."""

    value: np.ndarray | None = None

    def build(self, state: Sequence[_Value]) -> None:
        _, lengths, number_type, is_fortran, data = state
        if not isinstance(lengths, tuple) or len(lengths) > _MAX_DIMENSIONS:
            raise _NotAllowedError("has an array of a shape that is none")
        shape = tuple(length for length in lengths if type(length) is int and 0 <= length <= _MAX_LENGTH)
        if len(shape) < len(lengths):
            raise _NotAllowedError("has an array of a shape that is none")
        if not isinstance(number_type, _NumberType) or not isinstance(data, bytes | bytearray):
            raise _NotAllowedError("has an array whose content is not plain numbers")
        dtype = number_type.dtype()
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise _NotAllowedError(f"has an array {shape} of {dtype} with {len(data):,} bytes")
        self.value = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


class _Machine:
    """The pickle's stack and memo, and how many bytes may be made of others.

    A mark puts the stack aside and begins a new one, as in CPython: to look for the last mark in one long stack would
    cost its length, each time.
    """

    def __init__(self, *, budget: int) -> None:
        self._stack: list[_Value] = []
        self._aside: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}
        self._budget = budget

    def run(self, reader: Reader) -> _Value:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(cast("BinaryIO", reader))):
            if count == _MAX_INSTRUCTIONS:
                raise _NotAllowedError(f"has more than {_MAX_INSTRUCTIONS:,} pickle instructions")
            if instruction.name == "STOP":
                return self._stack.pop()
            self._step(instruction.name, argument)
        raise ValueError("the file ends inside its pickle")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUSHED:
            if isinstance(argument, str):
                # One wide character makes every other one four bytes wide.
                self._spend(max(0, sys.getsizeof(argument) - len(argument) - _TEXT_OVERHEAD))
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        elif name == "MARK":
            self._aside.append(stack)
            self._stack = []
        elif name in _FIXED_TUPLES:
            stack.append(tuple(self._pop(_FIXED_TUPLES[name])))
        elif name in ("TUPLE", "LIST"):
            items = self._pop_to_mark()
            self._stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
            if not isinstance(top := self._stack[-1], list):
                raise _NotAllowedError("fills something else than a list")
            top.extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
            if name == "DICT":
                self._stack.append({})
            if not isinstance(top := self._stack[-1], dict):
                raise _NotAllowedError("fills something else than a dict")
            self._set_items(top, items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_named_global(argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            (state,) = self._pop(1)
            if isinstance(built := stack[-1], _Array):
                self._fill(built, state)
            elif isinstance(built, _NumberType):
                built.build(state)
            else:
                raise _NotAllowedError("changes something else than an array")
        else:
            raise _NotAllowedError(f"has the pickle instruction {name}")

    def _pop(self, count: int) -> list[_Value]:
        if count > len(self._stack):
            raise IndexError
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_to_mark(self) -> list[_Value]:
        items, self._stack = self._stack, self._aside.pop()
        return items

    def _spend(self, num_bytes: int) -> None:
        self._budget -= num_bytes
        if self._budget < 0:
            raise _NotAllowedError("asks for more bytes than it has")

    def _fill(self, array: _Array, state: _Value) -> None:
        """Give an array its content, which counts each time: arrays that share one would all be copied later."""
        if not isinstance(state, tuple | list):
            raise _NotAllowedError("has an array whose content is not plain numbers")
        *parts, data = state
        if not isinstance(data, str | bytes | bytearray):
            raise _NotAllowedError("has an array whose content is not plain numbers")
        self._spend(len(data))
        array.build((*parts, data.encode("latin1") if isinstance(data, str) else data))

    def _set_items(self, table: dict[str, _Value], items: list[_Value]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise _OtherContentError("holds something under a key that is no name")
            table[key] = value

    def _call(self, function: _Value, arguments: _Value) -> _Value:
        name = function.name if isinstance(function, _Global) else ""
        if not isinstance(arguments, tuple):
            raise _NotAllowedError(f"asks for {shown_name(name) or 'a function that it made itself'} without arguments")
        if name == "numpy.core.multiarray._reconstruct":
            return _Array()
        if name == "numpy.core.numeric._frombuffer":
            data, number_type, shape, order = arguments
            array = _Array()
            self._fill(array, (1, shape, number_type, order == "F", data))
            return array
        if name == "numpy.dtype":
            return _NumberType(arguments[0])
        if name == "collections.OrderedDict" and not arguments:
            return {}
        # A tensor that was not part of a state dict: its internal name and its array.
        if name in ("builtins.tuple", "__builtin__.tuple") and len(arguments) == 1:
            (items,) = arguments
            if isinstance(items, tuple | list) and len(items) == 2:
                return tuple(items)
        if name == "__builtin__.bytes" and not arguments:
            return b""
        if name == "_codecs.encode" and len(arguments) == 2 and arguments[1] == "latin1":
            if not isinstance(text := arguments[0], str):
                raise _NotAllowedError("encodes something else than a text")
            # Bytes in old pickles.
            self._spend(len(text))
            return text.encode("latin1")
        raise _NotAllowedError(f"asks for {shown_name(name) or 'a function that it made itself'}")


def _named_global(words: Sequence[_Value]) -> _Global:
    """What a module and a name say; anything else than two texts is not even looked at."""
    names = [word for word in words if isinstance(word, str) and len(word) <= _MAX_NAME]
    if len(names) < len(words):
        raise _NotAllowedError("asks for a function by something that is no name")
    return _Global(".".join(names).replace("numpy._core.", "numpy.core."))


def _arrays(content: _Value) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise _OtherContentError(f"holds a {type(content).__name__.strip('_')}, not arrays by name")
    arrays: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if name == _NAMES_KEY:
            continue
        if len(name) > _MAX_NAME:
            raise _OtherContentError(f"holds something under a name of {len(name):,} characters, {shown_name(name)!r}")
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(array, _Array) or array.value is None:
            raise _OtherContentError(
                f"holds something else than an array under {shown_name(name)!r}; the weights of a PaddleClas network "
                "are in best_model.pdparams or model.pdparams, not in .pdopt or .pdstates"
            )
        arrays[name] = array.value
    if not arrays:
        raise _OtherContentError("holds no arrays")
    if len({id(array) for array in arrays.values()}) < len(arrays):
        raise _OtherContentError("holds one array under two names")
    return arrays


def shown_name(text: str) -> str:
    """For people and their terminals: names come from the file."""
    printable = "".join(character if character.isprintable() else "\ufffd" for character in text[:100])
    return printable + ("…" if len(text) > 100 else "")

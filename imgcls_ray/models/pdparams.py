"""Read PaddlePaddle's ``.pdparams``: a pickle of arrays by name, of which nothing is run.

Anyone may have written the file. Its instructions are looked through first, and only those that build containers and
arrays are carried out, by stand-ins of this module: neither numpy's nor any other function is called by the pickle.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from imgcls_ray.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAMES_KEY = "StructuredToParameterName@@"
"""Paddle's own table of internal names beside the arrays."""

# Containers, numbers, text, bytes, calls of what is allowed, and the memo. Not among them: whole classes (INST, OBJ,
# NEWOBJ), names from elsewhere (PERSID, EXT) and buffers from elsewhere.
_ALLOWED_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_MAX_INSTRUCTIONS = 1_000_000
"""The largest networks take 10,000."""
_NUMBER_TYPE = re.compile(r"[biuf][1248]")


def read_pdparams(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.pdparams`` file, by Paddle's names, in the file's order.

    Raises:
        WeightsError: the file cannot be read, is no such pickle, or asks for more than arrays and containers.
    """
    try:
        with path.open("rb") as file:
            _check_instructions(file)
            file.seek(0)
            content = _ArraysUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except _NotAllowedError as error:
        raise WeightsError(
            f"{path}: {error}; a .pdparams file of weights holds arrays by name and nothing else, so nothing of this "
            "one was run"
        ) from error
    # Unpickling damaged bytes raises anything.
    except Exception as error:
        raise WeightsError(f"{path}: is not a readable .pdparams file ({type(error).__name__}: {error})") from error
    return _arrays(path, content)


class _NotAllowedError(Exception):
    """The pickle asks for something that weights have no need of."""


def _check_instructions(file: BinaryIO) -> None:
    allowed = frozenset(_ALLOWED_INSTRUCTIONS.split())
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name not in allowed:
            raise _NotAllowedError(f"has the pickle instruction {instruction.name}")
        # The memo is a table as long as its largest index: one instruction could ask for all memory.
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise _NotAllowedError(f"numbers an object {argument} that is at most the {count}th")
        if count == _MAX_INSTRUCTIONS:
            raise _NotAllowedError(f"has more than {_MAX_INSTRUCTIONS:,} pickle instructions")


class _ArraysUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A new one each time: the pickle could otherwise change what the next pickle gets.
        if stand_in := _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name)):
            return stand_in()
        raise _NotAllowedError(f"asks for {module}.{name}")


class _StandIn:
    """Takes the place of a function or class that the pickle names."""

    __slots__ = ()

    def __setstate__(self, _state: Any) -> None:
        raise _NotAllowedError("changes a function")


class _NdarrayClass(_StandIn):
    pass


class _Reconstruct(_StandIn):
    """``numpy.core.multiarray._reconstruct``: an array whose content comes next."""

    def __call__(self, _class: Any, _shape: Any, _type: Any) -> _Array:
        return _Array()


class _FromBuffer(_StandIn):
    """``numpy.core.numeric._frombuffer``: an array and its content (pickle protocol 5)."""

    def __call__(self, data: Any, number_type: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, number_type, order == "F", data))
        return array


class _DtypeClass(_StandIn):
    def __call__(self, code: Any, *_flags: Any) -> _NumberType:
        return _NumberType(code)


class _OrderedDictClass(_StandIn):
    def __call__(self) -> dict[Any, Any]:
        return {}


class _TupleClass(_StandIn):
    """What Paddle's tensors outside of a state dict are pickled as: a name and an array."""

    def __call__(self, items: Any) -> tuple[Any, ...]:
        return tuple(items)


class _BytesClass(_StandIn):
    """No bytes, in old pickles."""

    def __call__(self) -> bytes:
        return b""


class _Encode(_StandIn):
    """``_codecs.encode``: bytes in old pickles."""

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise _NotAllowedError(f"encodes text as {encoding!r}")
        return text.encode("latin1")


_STAND_INS: Mapping[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _NdarrayClass,
    ("numpy", "dtype"): _DtypeClass,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("collections", "OrderedDict"): _OrderedDictClass,
    ("builtins", "tuple"): _TupleClass,
    ("__builtin__", "tuple"): _TupleClass,
    ("__builtin__", "bytes"): _BytesClass,
    ("_codecs", "encode"): _Encode,
}


class _NumberType:
    """A ``numpy.dtype`` on its way: its code, then its byte order."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not _NUMBER_TYPE.fullmatch(code):
            raise _NotAllowedError(f"has an array of {code!r}, not of numbers")
        self._code, self._order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _NotAllowedError("has an array of a type that is not understood")
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order.replace("|", "=") + self._code)


class _Array:
    """A ``numpy.ndarray`` on its way: its content comes after it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, number_type, is_fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        is_shape = isinstance(shape, tuple) and all(isinstance(length, int) and length >= 0 for length in shape)
        if not is_shape or not isinstance(number_type, _NumberType) or not isinstance(data, bytes | bytearray):
            raise _NotAllowedError("has an array whose content is not plain numbers")
        dtype = number_type.dtype()
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise _NotAllowedError(f"has an array {shape} of {dtype} with {len(data):,} bytes")
        array = np.frombuffer(data, dtype)
        self.value = array.reshape(shape, order="F" if is_fortran else "C")


def _arrays(path: Path, content: Any) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not arrays by name")
    arrays = {}
    for name, value in content.items():
        if name == _NAMES_KEY:
            continue
        # (internal name, array): a tensor that was not part of a state dict.
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(name, str) or not isinstance(array, _Array) or array.value is None:
            raise WeightsError(
                f"{path}: holds something else than an array under {name!r}; the weights of a PaddleClas network are "
                "in best_model.pdparams or model.pdparams, not in .pdopt or .pdstates"
            )
        arrays[name] = array.value
    if not arrays:
        raise WeightsError(f"{path}: holds no arrays")
    return arrays

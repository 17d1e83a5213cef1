"""Refuse an ONNX file that names other files.

A tensor of an ONNX model may say that its values lie in another file, at a path of the writer's choice. An exported
folder has one file, so one that names others comes from elsewhere, and may be after what lies there.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError

if TYPE_CHECKING:
    from pathlib import Path

# Where a message of onnx.proto3 has others that may hold tensors: field number to message.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_IN_THIS_FILE = 0
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def refuse_external_data(path: Path) -> None:
    """Refuse a file that names others, or that is no ONNX at all.

    Raises:
        ModelFolderError: what it is.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            is_external = _names_files(data)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelFolderError(f"{path}: is not an ONNX file: {error}") from error
    if is_external:
        raise ModelFolderError(f"{path}: names other files for its weights, which an exported folder never does")


def _names_files(data: mmap.mmap) -> bool:
    """Walk through all messages that may hold tensors. A list and no recursion: the file chooses how deep they are."""
    messages = [("model", 0, len(data))]
    while messages:
        kind, position, end = messages.pop()
        while position < end:
            key, position = _varint(data, position, end)
            number, wire = key >> 3, key & 7
            if kind == "tensor" and number == _EXTERNAL_DATA:
                return True
            start = position
            position = _skip(data, wire, position, end)
            if kind == "tensor" and number == _DATA_LOCATION and _varint(data, start, end)[0] != _IN_THIS_FILE:
                return True
            if wire == _BYTES and (part := _PARTS.get(kind, {}).get(number)):
                _, start = _varint(data, start, end)
                messages.append((part, start, position))
    return False


def _skip(data: mmap.mmap, wire: int, position: int, end: int) -> int:
    """Where the value that begins at ``position`` ends."""
    if wire == _VARINT:
        return _varint(data, position, end)[1]
    if wire == _BYTES:
        length, position = _varint(data, position, end)
    elif wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError(f"at byte {position} is no value of protobuf")
    if length > end - position:
        raise ValueError(f"at byte {position} is more than the file holds")
    return position + length


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """The number at a position, and where the next one begins."""
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        if position + i >= end:
            break
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise ValueError(f"at byte {position} is no number of protobuf")

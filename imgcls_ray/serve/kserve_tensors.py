"""Tensors of KServe's protocol: images out of them, labels into them."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np
from fastapi.responses import Response
from pydantic_core import from_json

from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.serve.bodies import copy_bytes
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.serve.json_bodies import Cut, decode_base64
from imgcls_ray.serve.responses import encode, encode_list, json_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.serve.kserve_schemas import InferInput, InferRequest
    from imgcls_ray.serve.model import ServedModel

BINARY = "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"
_NUMBERS_STEP_BYTES = 65_536
_MAX_DEPTH = 8
_MAX_BRACKETS_PER_NUMBER = 8
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_NO_LISTS = bytes.maketrans(b"[]", b"  ")
_OUTPUTS = ("class_ids", "scores", "labels", "status")


def split_body(length: str | None, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON of a request and the binary data behind it, where the header says how long the first is.

    Raises:
        ApiError: it does not fit.
    """
    if length is None:
        return body, memoryview(b"")
    if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(body)):
        raise refuse(ErrorCode.BAD_REQUEST, "Inference-Header-Content-Length does not fit the body")
    return body[: int(length)], memoryview(body)[int(length) :]


def read_tensor(
    tensor: InferInput, binary: memoryview, model: ServedModel, cut: Cut
) -> list[bytes | ModelInput | ImageError]:
    """The images of an input: encoded ones, pixels, or what is wrong with one.

    ``cut`` has what was cut out of the JSON.

    Raises:
        ApiError: it is not what the model takes.
    """
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise refuse(ErrorCode.INVALID, "inputs.0: give data, or parameters.binary_data_size and the bytes")
    if size is not None and size != len(binary):
        raise refuse(ErrorCode.INVALID, f"inputs.0: binary_data_size says {size}, {len(binary)} bytes came")
    if tensor.name == "image":
        if tensor.datatype != "BYTES" or tensor.shape[1:] not in ([], [1]):
            raise refuse(ErrorCode.INVALID, "inputs.0: image must be BYTES of the shape [B]")
        if tensor.data is None:
            images = _read_strings(binary)
        else:
            if _cut_numbers(tensor.data, cut) is not None:
                raise refuse(ErrorCode.INVALID, "inputs.0.data: must be strings in base64")
            strings = _flat(tensor.data)
            _check_count(tensor, len(strings))
            images = [_from_base64(item, cut) for item in strings]
    else:
        crop = model.preprocess.crop_size
        if tensor.datatype != "UINT8" or tensor.shape[1:] != [crop, crop, 3]:
            raise refuse(ErrorCode.INVALID, f"inputs.0: pixels must be UINT8 of the shape [B, {crop}, {crop}, 3]")
        images = _read_pixels(tensor, binary, cut)
    _check_count(tensor, len(images))
    return images


def _check_count(tensor: InferInput, num_images: int) -> None:
    if num_images != tensor.shape[0] or not num_images:
        raise refuse(ErrorCode.INVALID, f"inputs.0: its shape says {tensor.shape[0]} images, {num_images} came")


def _flat(data: list[object]) -> list[object]:
    return [part for item in data for part in (item if isinstance(item, list) else [item])]


def _from_base64(item: object, cut: Cut) -> bytes | ImageError:
    if not isinstance(item, str):
        raise refuse(ErrorCode.INVALID, "inputs.0.data: must be strings in base64")
    return decode_base64(item, cut)


def _read_strings(binary: memoryview) -> list[bytes | ModelInput | ImageError]:
    """BYTES as they travel: each with its length before it, four bytes, little-endian."""
    strings: list[bytes | ModelInput | ImageError] = []
    position = 0
    while position < len(binary):
        if position + 4 > len(binary):
            raise refuse(ErrorCode.INVALID, "inputs.0: its binary data ends within a length")
        (length,) = struct.unpack_from("<I", binary, position)
        position += 4
        if position + length > len(binary):
            raise refuse(ErrorCode.INVALID, "inputs.0: its binary data ends within an image")
        strings.append(copy_bytes(binary[position : position + length]))
        position += length
        if len(strings) > 10_000:
            raise refuse(ErrorCode.TOO_MANY_IMAGES, "inputs.0: too many images")
    return strings


def _read_pixels(tensor: InferInput, binary: memoryview, cut: Cut) -> list[bytes | ModelInput | ImageError]:
    count = math.prod(tensor.shape)
    try:
        if tensor.data is None:
            flat = np.frombuffer(binary, np.uint8)
        elif (raw := _cut_numbers(tensor.data, cut)) is not None:
            flat = _read_numbers(raw, tensor.shape)
        else:
            numbers = np.array(tensor.data)
            if (
                _has_bool(tensor.data)
                or numbers.dtype.kind not in "iu"
                or (numbers.size and (numbers.min() < 0 or numbers.max() > 255))
            ):
                raise ValueError
            flat = numbers.astype(np.uint8).reshape(-1)
        if flat.size != count:
            raise ValueError
    except (ValueError, TypeError, OverflowError) as error:
        raise refuse(ErrorCode.INVALID, "inputs.0: must be as many numbers from 0 to 255 as its shape says") from error
    height, width = tensor.shape[1:3]
    return [ModelInput(pixels, width, height) for pixels in flat.reshape(tensor.shape)]


def _cut_numbers(data: list[object], cut: Cut) -> memoryview | None:
    """The list that this one stands for, if it does."""
    return cut.numbers.get(data[0]) if len(data) == 1 and isinstance(data[0], str) else None


def _has_bool(data: list[object]) -> bool:
    """Whether ``true`` stands among numbers, which NumPy takes for 1."""
    return any(isinstance(item, bool) or (isinstance(item, list) and _has_bool(item)) for item in data)


def _read_numbers(raw: memoryview, shape: Sequence[int]) -> np.ndarray:
    """uint8 of a list in JSON, of numbers or of lists of one length.

    A million numbers are a million objects of Python, and lists of three another third of one: here each step makes a
    small part of them, and none of the lists.

    Raises:
        ValueError: it is no such list.
    """
    count = math.prod(shape)
    if not 0 < count <= len(raw):
        raise ValueError("another number of values")
    found = np.empty(count, np.uint8)
    num_found = start = 0
    lists: list[bytes] = []
    while start < len(raw):
        end = _find_comma(raw, start)
        piece = bytes(raw[start:end])
        values = np.array(from_json(b"[%b]" % piece.translate(_NO_LISTS)))
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError("not from 0 to 255")
        if piece.count(b"[") + piece.count(b"]") > _MAX_BRACKETS_PER_NUMBER * (len(values) + 1):
            raise ValueError("lists without numbers")
        found[num_found : num_found + len(values)] = values
        num_found += len(values)
        # Digits tell nothing of the lists.
        lists.append(piece.translate(_DIGITS_ALIKE, b" \t\r\n"))
        start = end + 1
    if num_found != count or not _is_rectangular(b",".join(lists)):
        raise ValueError("not a list of this shape")
    return found


def _find_comma(raw: memoryview, start: int) -> int:
    """Where the first comma is that lies a step on, or the end.

    Raises:
        ValueError: it lies more than two steps on: there is no end to a number, to blanks or to brackets.
    """
    position = start + _NUMBERS_STEP_BYTES
    window = bytes(raw[position : position + _NUMBERS_STEP_BYTES])
    if (found := window.find(b",")) >= 0:
        return position + found
    if position + len(window) < len(raw):
        raise ValueError("too far from one number to the next")
    return len(raw)


def _is_rectangular(text: bytes) -> bool:
    """Whether it is a list, of lists of one length or of numbers, where every digit is a 0."""
    if any(wrong in text for wrong in (b"0[", b"]0", b"[,", b",]", b",,")):
        return False
    lists = text.translate(None, b"0+-.eE")
    depth = len(lists) - len(lists.lstrip(b"["))
    if not 0 < depth <= _MAX_DEPTH:
        return False
    # How long the lists of each depth are, by the first one of it; then all of them must be like those.
    expected, num_inside = b"", 1
    for level in range(1, depth + 1):
        num_numbers = lists.count(b",", 0, max(0, lists.find(b"]" * level))) + 1
        size = num_numbers // num_inside
        expected = b"[" + b",".join([expected] * size) + b"]"
        num_inside = max(1, num_inside * size)
    return lists == expected


def write_tensors(
    wanted: InferRequest, results: Sequence[Prediction | ImageError], model: ServedModel, top_k: int
) -> Response:
    """The answer: the outputs that were wanted, as JSON or as binary data behind it."""
    class_ids = np.full((len(results), top_k), -1, np.int32)
    scores = np.zeros((len(results), top_k), np.float32)
    status = ["ok"] * len(results)
    for i, result in enumerate(results):
        if isinstance(result, ImageError):
            status[i] = result.code.value
            continue
        count = min(top_k, len(result.class_ids))
        class_ids[i, :count], scores[i, :count] = result.class_ids[:count], result.scores[:count]
    labels = [model.class_names[i] if i >= 0 else "" for i in class_ids.reshape(-1).tolist()]
    values: dict[str, tuple[str, list[int], list[str] | np.ndarray]] = {
        "class_ids": ("INT32", list(class_ids.shape), class_ids),
        "scores": ("FP32", list(scores.shape), scores),
        "labels": ("BYTES", list(class_ids.shape), labels),
        "status": ("BYTES", [len(results)], status),
    }
    outputs: list[bytes] = []
    chunks: list[bytes] = []
    is_binary: dict[str, bool | None] = {output.name: output.parameters.binary_data for output in wanted.outputs}
    for name in [output.name for output in wanted.outputs] or _OUTPUTS:
        datatype, shape, value = values[name]
        about = encode({"name": name, "datatype": datatype, "shape": shape})[:-1]
        chosen = is_binary.get(name)
        if wanted.parameters.binary_data_output if chosen is None else chosen:
            chunks.append(value.tobytes() if isinstance(value, np.ndarray) else _to_strings(value))
            outputs.append(b'%b,"parameters":{"binary_data_size":%d}}' % (about, len(chunks[-1])))
        else:
            data = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
            outputs.append(b'%b,"data":%b}' % (about, encode_list(data)))
    content: dict[str, object] = {"model_name": model.name, "model_version": model.fingerprint[:12]}
    if wanted.id is not None:
        content["id"] = wanted.id
    header = b'%b,"outputs":[%b]}' % (encode(content)[:-1], b",".join(outputs))
    if not chunks:
        return json_response(header)
    return Response(
        b"".join([header, *chunks]),
        media_type=BINARY,
        headers={HEADER_LENGTH: str(len(header))},
    )


def _to_strings(values: list[str]) -> bytes:
    encoded = [value.encode("utf-8", "replace") for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)

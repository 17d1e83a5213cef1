"""The Open Inference Protocol (KServe v2) over HTTP, for its clients: encoded images as BYTES, or pixels as UINT8.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with the binary data extension of
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imgcls_ray import __version__
from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.serve.api import best, invalid_json, summarise
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.serve.fleet import Chosen
from imgcls_ray.serve.inputs import check_json, decode_base64
from imgcls_ray.serve.json import to_json
from imgcls_ray.serve.schemas import body_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.serve.model import ServedModel
    from imgcls_ray.serve.service import Service

_BINARY = "application/octet-stream"
_HEADER_LENGTH = "inference-header-content-length"
# Six pictures of 224 pixels; more of them come as binary data.
_MAX_JSON_VALUES = 1_000_000
_OUTPUTS = ("class_ids", "scores", "labels", "status")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class InferParameters(_Part):
    """Of a request."""

    binary_data_output: bool = False
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None


class InputParameters(_Part):
    """Of an input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class OutputParameters(_Part):
    """Of an output."""

    binary_data: bool | None = None


class InferInput(_Part):
    """One tensor that comes in."""

    name: Literal["image", "pixels"] = Field(
        description="`image`: encoded files (BYTES), `pixels`: uint8 RGB at the model's input size (UINT8)."
    )
    shape: list[Annotated[int, Field(ge=0, le=2**31)]] = Field(
        min_length=1, max_length=4, description="[B] or [B, 1]; [B, H, W, 3]"
    )
    datatype: Literal["BYTES", "UINT8"]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        default=None, description="BYTES in base64; UINT8 as numbers. Not where binary data follows the header."
    )


class InferOutput(_Part):
    """One tensor that is wanted."""

    name: Literal["class_ids", "scores", "labels", "status"]
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Part):
    """An inference request."""

    id: str | None = Field(default=None, max_length=128)
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field(default=[], max_length=4)


class Tensor(BaseModel):
    """One tensor that goes out."""

    model_config = ConfigDict(extra="allow")

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """What was found: [B, k] each, and [B] for `status`; an image without a label has the class ids -1."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


class TensorMetadata(BaseModel):
    """What a tensor must be."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Of one model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """Of the server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class KServeError(BaseModel):
    """An error."""

    error: str
    code: str
    request_id: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": KServeError} for status in (400, 401, 404, 413, 415, 422, 500, 503, 504)
}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {200: {"content": {_BINARY: {}}}, **_ERRORS},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body_schema(InferRequest)},
                _BINARY: {"schema": {"type": "string", "contentMediaType": _BINARY}},
            },
        },
        "parameters": [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Bytes of JSON at the start of the body, where binary data follows it.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
    },
}


def make_router(service: Service) -> APIRouter:
    """The routes, which ask this service."""
    router = APIRouter(tags=["kserve v2"])

    @router.get("/v2")
    async def server() -> ServerMetadata:
        """Say what this server is."""
        return ServerMetadata(name="imgcls-ray", version=__version__, extensions=["binary_tensor_data"])

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/v2/health/ready", responses={503: _ERRORS[503]})
    async def ready() -> dict[str, bool]:
        """Whether a model answers."""
        service.choose()
        return {"ready": True}

    @router.get("/v2/models/{name}", responses={k: _ERRORS[k] for k in (401, 404, 422, 503)})
    async def metadata(name: str) -> ModelMetadata:
        """Say what goes in and comes out."""
        _find(service, name)
        lineup = service.fleet.lineup
        assert lineup is not None
        size = lineup.stable.preprocess.crop_size
        return ModelMetadata(
            name=name,
            versions=[model.fingerprint[:12] for model in lineup.by_role().values() if model.name == name],
            platform="imgcls-ray",
            inputs=[
                TensorMetadata(name="image", datatype="BYTES", shape=[-1]),
                TensorMetadata(name="pixels", datatype="UINT8", shape=[-1, size, size, 3]),
            ],
            outputs=[
                TensorMetadata(name="class_ids", datatype="INT32", shape=[-1, -1]),
                TensorMetadata(name="scores", datatype="FP32", shape=[-1, -1]),
                TensorMetadata(name="labels", datatype="BYTES", shape=[-1, -1]),
                TensorMetadata(name="status", datatype="BYTES", shape=[-1]),
            ],
        )

    @router.get("/v2/models/{name}/ready", responses={k: _ERRORS[k] for k in (401, 404, 422, 503)})
    async def model_ready(name: str) -> ModelReady:
        """Whether this model answers."""
        _find(service, name)
        return ModelReady(name=name, ready=True)

    @router.post("/v2/models/{name}/infer", **_INFER, summary="Infer")
    async def infer(name: str, request: Request) -> Response:
        """Label images, with the model whose turn it is."""
        chosen = _find(service, name)
        return await _infer(service, request, chosen, for_pixels=_for_pixels(service, chosen))

    @router.post("/v2/models/{name}/versions/{version}/infer", **_INFER, summary="Infer with one version")
    async def infer_version(name: str, version: str, request: Request) -> Response:
        """Label images with the model whose fingerprint begins with this."""
        chosen = _find(service, name, version)
        return await _infer(service, request, chosen, for_pixels=chosen)

    return router


def _find(service: Service, name: str, version: str | None = None) -> Chosen:
    chosen = service.choose()
    lineup = service.fleet.lineup
    assert lineup is not None
    if version is not None and len(version) >= 8:
        for role, model in lineup.by_role().items():
            if model.fingerprint.startswith(version) and model.name == name:
                return Chosen(model, role)
    elif version is None and name == lineup.stable.name:
        return chosen
    raise refuse(ErrorCode.NOT_FOUND, "there is no such model here; GET /v1/model has the one that answers")


def _for_pixels(service: Service, chosen: Chosen) -> Chosen:
    """Pixels are made for the model that is described under the name: a canary with another input cannot use them."""
    lineup = service.fleet.lineup
    if lineup is None or chosen.model.preprocess == lineup.stable.preprocess:
        return chosen
    return Chosen(lineup.stable, "stable")


async def _infer(service: Service, request: Request, chosen: Chosen, *, for_pixels: Chosen) -> Response:
    body = await request.body()
    header, binary = _split(request.headers.get(_HEADER_LENGTH), body)
    check_json(header, max_values=_MAX_JSON_VALUES)
    try:
        wanted = InferRequest.model_validate_json(header)
    except ValidationError as error:
        raise invalid_json(error) from error
    [tensor] = wanted.inputs
    if tensor.name == "pixels":
        chosen = for_pixels
    service.check_room(tensor.shape[0])
    images = _read_tensor(tensor, binary, chosen.model)
    top_k = min(wanted.parameters.top_k or service.config.top_k, len(chosen.model.class_names))
    results = await service.classify(images, chosen, top_k)
    request.scope["imgcls_log"] = summarise(chosen, results)
    return _answer(wanted, results, chosen.model, top_k)


def _split(length: str | None, body: bytes) -> tuple[bytes, bytes]:
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(body)):
        raise refuse(ErrorCode.BAD_REQUEST, "Inference-Header-Content-Length does not fit the body")
    return body[: int(length)], body[int(length) :]


def _read_tensor(tensor: InferInput, binary: bytes, model: ServedModel) -> list[bytes | ModelInput | ImageError]:
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise refuse(ErrorCode.INVALID, "inputs.0: give data, or parameters.binary_data_size and the bytes")
    if size is not None and size != len(binary):
        raise refuse(ErrorCode.INVALID, f"inputs.0: binary_data_size says {size}, {len(binary)} bytes came")
    if tensor.name == "image":
        if tensor.datatype != "BYTES" or tensor.shape[1:] not in ([], [1]):
            raise refuse(ErrorCode.INVALID, "inputs.0: image must be BYTES of the shape [B]")
        images: list[bytes | ModelInput | ImageError] = (
            _read_strings(binary) if tensor.data is None else [_from_base64(item) for item in _flat(tensor.data)]
        )
    else:
        crop = model.preprocess.crop_size
        if tensor.datatype != "UINT8" or tensor.shape[1:] != [crop, crop, 3]:
            raise refuse(ErrorCode.INVALID, f"inputs.0: pixels must be UINT8 of the shape [B, {crop}, {crop}, 3]")
        images = _read_pixels(tensor, binary)
    if len(images) != tensor.shape[0] or not images:
        raise refuse(ErrorCode.INVALID, f"inputs.0: its shape says {tensor.shape[0]} images, {len(images)} came")
    return images


def _flat(data: list[Any]) -> list[Any]:
    return [part for item in data for part in (item if isinstance(item, list) else [item])]


def _from_base64(item: Any) -> bytes | ImageError:
    if not isinstance(item, str):
        raise refuse(ErrorCode.INVALID, "inputs.0.data: must be strings in base64")
    return decode_base64(item)


def _read_strings(binary: bytes) -> list[bytes | ModelInput | ImageError]:
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
        strings.append(binary[position : position + length])
        position += length
        if len(strings) > 10_000:
            raise refuse(ErrorCode.TOO_MANY_IMAGES, "inputs.0: too many images")
    return strings


def _read_pixels(tensor: InferInput, binary: bytes) -> list[bytes | ModelInput | ImageError]:
    count = math.prod(tensor.shape)
    try:
        if tensor.data is None:
            flat = np.frombuffer(binary, np.uint8)
        else:
            numbers = np.array(tensor.data)
            if numbers.dtype.kind not in "iu" or (numbers.size and (numbers.min() < 0 or numbers.max() > 255)):
                raise ValueError
            flat = numbers.astype(np.uint8).reshape(-1)
        if flat.size != count:
            raise ValueError
    except (ValueError, TypeError, OverflowError) as error:
        raise refuse(ErrorCode.INVALID, "inputs.0: must be as many numbers from 0 to 255 as its shape says") from error
    height, width = tensor.shape[1:3]
    return [ModelInput(pixels, width, height) for pixels in flat.reshape(tensor.shape)]


def _answer(
    wanted: InferRequest, results: Sequence[Prediction | ImageError], model: ServedModel, top_k: int
) -> Response:
    class_ids = np.full((len(results), top_k), -1, np.int32)
    scores = np.zeros((len(results), top_k), np.float32)
    status = ["ok"] * len(results)
    for i, result in enumerate(results):
        if isinstance(result, ImageError):
            status[i] = result.code.value
            continue
        for j, (class_id, score) in enumerate(best(result, top_k)):
            class_ids[i, j], scores[i, j] = class_id, score
    labels = [model.class_names[i] if i >= 0 else "" for i in class_ids.reshape(-1).tolist()]
    values: dict[str, tuple[str, list[int], list[Any] | np.ndarray]] = {
        "class_ids": ("INT32", list(class_ids.shape), class_ids),
        "scores": ("FP32", list(scores.shape), scores),
        "labels": ("BYTES", list(class_ids.shape), labels),
        "status": ("BYTES", [len(results)], status),
    }
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    is_binary: dict[str, bool | None] = {output.name: output.parameters.binary_data for output in wanted.outputs}
    for name in [output.name for output in wanted.outputs] or _OUTPUTS:
        datatype, shape, value = values[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        chosen = is_binary.get(name)
        if wanted.parameters.binary_data_output if chosen is None else chosen:
            chunks.append(value.tobytes() if isinstance(value, np.ndarray) else _to_strings(value))
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            output["data"] = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
        outputs.append(output)
    content: dict[str, Any] = {"model_name": model.name, "model_version": model.fingerprint[:12], "outputs": outputs}
    if wanted.id is not None:
        content["id"] = wanted.id
    if not chunks:
        return to_json(content)
    header = json.dumps(content, separators=(",", ":")).encode()
    return Response(
        b"".join([header, *chunks]),
        media_type=_BINARY,
        headers={_HEADER_LENGTH: str(len(header))},
    )


def _to_strings(values: list[Any]) -> bytes:
    encoded = [value.encode("utf-8", "replace") for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)

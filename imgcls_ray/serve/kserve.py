"""The Open Inference Protocol (KServe v2) over HTTP, for its clients: encoded images as BYTES, or pixels as UINT8.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with the binary data extension of
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from imgcls_ray import __version__
from imgcls_ray.serve.admission.request import context_of
from imgcls_ray.serve.api import summarise
from imgcls_ray.serve.bodies import INLINE_BYTES, in_thread, read_body
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.serve.fleet import Chosen
from imgcls_ray.serve.json_bodies import read_json
from imgcls_ray.serve.kserve_schemas import (
    InferRequest,
    InferResponse,
    KServeError,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    TensorMetadata,
)
from imgcls_ray.serve.kserve_tensors import BINARY, HEADER_LENGTH, read_tensor, split_body, write_tensors
from imgcls_ray.serve.schemas import body_schema

if TYPE_CHECKING:
    from imgcls_ray.serve.service import Service

# Six pictures of 224 pixels; more of them come as binary data.
_MAX_JSON_NUMBERS = 1_000_000
# Labels of an answer that is written in the event loop.
_INLINE_LABELS = 1_000

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": KServeError} for status in (400, 401, 404, 413, 415, 422, 500, 503, 504)
}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {200: {"content": {BINARY: {}}}, **_ERRORS},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body_schema(InferRequest)},
                BINARY: {"schema": {"type": "string", "contentMediaType": BINARY}},
            },
        },
        "parameters": [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Length in bytes of the JSON before the binary data. Required if there is binary data.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
    },
}


def make_router(service: Service) -> APIRouter:
    """The routes of this service."""
    router = APIRouter(tags=["kserve v2"])

    @router.get("/v2")
    async def server() -> ServerMetadata:
        """Describe the server: its name, version and extensions."""
        return ServerMetadata(name="imgcls-ray", version=__version__, extensions=["binary_tensor_data"])

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Liveness: the process answers."""
        return {"live": True}

    @router.get("/v2/health/ready", responses={503: _ERRORS[503]})
    async def ready() -> dict[str, bool]:
        """Readiness: a model is loaded and warmed up. Until then 503."""
        service.choose()
        return {"ready": True}

    @router.get("/v2/models/{name}", responses={k: _ERRORS[k] for k in (401, 404, 422, 503)})
    async def metadata(name: str) -> ModelMetadata:
        """Describe the inputs and outputs of a model."""
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
        """Readiness of one model. 404: no model has this name."""
        _find(service, name)
        return ModelReady(name=name, ready=True)

    @router.post("/v2/models/{name}/infer", **_INFER, summary="Infer")
    async def infer(name: str, request: Request) -> Response:
        """Label images. The stable model answers, or the canary for its share of requests."""
        chosen = _find(service, name)
        return await _infer(service, request, chosen, for_pixels=_for_pixels(service, chosen))

    @router.post("/v2/models/{name}/versions/{version}/infer", **_INFER, summary="Infer with one version")
    async def infer_version(name: str, version: str, request: Request) -> Response:
        """Label images with one model. `version` is the beginning of its fingerprint, at least 8 characters."""
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
    body = await read_body(request)
    header, binary = split_body(request.headers.get(HEADER_LENGTH), body)
    wanted, cut = await read_json(InferRequest, header, max_numbers=_MAX_JSON_NUMBERS)
    [tensor] = wanted.inputs
    if tensor.name == "pixels":
        chosen = for_pixels
    service.check_room(tensor.shape[0])
    if len(body) <= INLINE_BYTES:
        images = read_tensor(tensor, binary, chosen.model, cut)
    else:
        images = await in_thread(read_tensor, tensor, binary, chosen.model, cut)
    top_k = min(wanted.parameters.top_k or service.config.top_k, len(chosen.model.class_names))
    results = await service.classify(images, chosen, top_k)
    context_of(request.scope).log_fields = summarise(chosen, results)
    if len(results) * top_k <= _INLINE_LABELS:
        return write_tensors(wanted, results, chosen.model, top_k)
    return await in_thread(write_tensors, wanted, results, chosen.model, top_k)

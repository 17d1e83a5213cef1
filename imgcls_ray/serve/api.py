"""The product's own protocol: ``/v1/classify``, ``/v1/model`` and the health checks."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from imgcls_ray.errors import ImageError
from imgcls_ray.serve.admission.request import context_of
from imgcls_ray.serve.bodies import in_thread, read_body
from imgcls_ray.serve.errors import ErrorCode, refuse, refuse_image
from imgcls_ray.serve.inputs import Upload, read_form, without_findings
from imgcls_ray.serve.json_bodies import decode_texts, read_json
from imgcls_ray.serve.responses import encode, in_pieces, json_response
from imgcls_ray.serve.schemas import (
    ClassifyJson,
    ClassifyResponse,
    ErrorResponse,
    Health,
    ModelInfo,
    body_schema,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.serve.fleet import Chosen, Lineup
    from imgcls_ray.serve.model import ServedModel
    from imgcls_ray.serve.service import Service

_RAW = "application/octet-stream"
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/heic", "image/jxl")
_BINARY = {"schema": {"type": "string", "contentMediaType": _RAW}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            **dict.fromkeys((*_IMAGES, _RAW), _BINARY),
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "contentMediaType": _RAW}},
                        "top_k": {"type": "integer", "minimum": 1, "maximum": 1000},
                    },
                    "required": ["files"],
                }
            },
            "application/json": {"schema": body_schema(ClassifyJson)},
        },
    }
}
_REASONS = {
    400: "The request is malformed.",
    401: "The API key is missing or wrong.",
    413: "The body, or an image, is larger than the limit.",
    415: "The content type is not an image, a form or JSON; the content coding is not gzip; or the image has a format "
    "that is not supported.",
    422: "A value is invalid; or the only image cannot be labelled: `truncated`, `corrupt`, ...",
    500: "Internal error of the service.",
    503: "The queue is full, or no model is loaded yet. Try again after the seconds in `Retry-After`.",
    504: "The answer was not ready within the deadline.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _REASONS.items()
}


def make_router(service: Service) -> APIRouter:
    """The routes of this service."""
    router = APIRouter()

    @router.post(
        "/v1/classify",
        response_model=ClassifyResponse,
        responses=ERRORS,
        openapi_extra=_BODY,
        summary="Label images",
        tags=["classify"],
    )
    async def classify(request: Request, top_k: Annotated[int | None, Query(ge=1, le=1000)] = None) -> Response:
        """Label one image, sent as the body, or several, sent as files of a form or as JSON.

        If the body is one image that cannot be labelled, the answer is an error (4xx). In a form or JSON, each image
        has its own `status`, and the readable ones are labelled.
        """
        return await _classify(service, request, top_k)

    known: dict[bool, tuple[weakref.ref[Lineup], bytes]] = {}

    @router.get(
        "/v1/model",
        response_model=ModelInfo,
        responses={k: v for k, v in ERRORS.items() if k in (401, 500, 503)},
        tags=["model"],
    )
    async def model() -> Response:
        """Describe the current model: its classes in order, its preprocessing and its fingerprint."""
        lineup = service.fleet.lineup
        if lineup is None:
            raise refuse(ErrorCode.NOT_READY, "the model is not loaded yet")
        refused = service.fleet.refused is not None
        # Tens of thousands of classes are not written anew for everybody who asks.
        if refused not in known or known[refused][0]() is not lineup:
            known[refused] = weakref.ref(lineup), await in_thread(_describe_lineup, lineup, refused=refused)
        return json_response(known[refused][1])

    @router.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """Liveness: the process answers."""
        return Health(status="ok")

    @router.get("/readyz", responses={503: ERRORS[503]}, tags=["health"])
    async def readyz() -> Health:
        """Readiness: a model is loaded and warmed up. Until then 503."""
        service.choose()
        return Health(status="ready")

    return router


async def _classify(service: Service, request: Request, top_k: int | None) -> Response:
    chosen = service.choose()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    uploads, told = await _read_uploads(request, service, kind)
    top_k = told or top_k or service.config.top_k
    results = await service.classify([upload.content for upload in uploads], chosen, top_k)
    context = context_of(request.scope)
    context.log_fields = summarise(chosen, results)
    if _is_image(kind) and isinstance(results[0], ImageError):
        raise refuse_image(results[0])
    head = {
        "request_id": context.request_id,
        "model": {"name": chosen.model.name, "fingerprint": chosen.model.fingerprint, "role": chosen.role},
    }
    described = (
        _describe(i, upload, result, chosen.model, top_k)
        for i, (upload, result) in enumerate(zip(uploads, results, strict=True))
    )
    return await in_pieces(head, "results", described)


def _is_image(content_type: str) -> bool:
    return content_type.startswith("image/") or content_type == _RAW


async def _read_uploads(request: Request, service: Service, content_type: str) -> tuple[list[Upload], int | None]:
    """The images of a request, and how many classes it asks for in its body."""
    if _is_image(content_type):
        return [Upload(await read_body(request))], None
    if content_type == "multipart/form-data":
        return await _read_form(request, service)
    if content_type == "application/json":
        return await _read_json(request, service)
    raise refuse(
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        "send an image (image/jpeg, ... or application/octet-stream), files (multipart/form-data) or JSON "
        "(application/json)",
    )


async def _read_form(request: Request, service: Service) -> tuple[list[Upload], int | None]:
    uploads, top_k = await read_form(request, max_images=service.config.max_images_per_request)
    told = None if top_k is None else _read_top_k(top_k)
    if not uploads:
        raise refuse(ErrorCode.INVALID, "the form has no file")
    return uploads, told


async def _read_json(request: Request, service: Service) -> tuple[list[Upload], int | None]:
    wanted, cut = await read_json(ClassifyJson, await read_body(request))
    service.check_room(len(wanted.images))
    decoded = iter(await decode_texts([image.base64 for image in wanted.images if image.base64 is not None], cut))
    uploads = []
    for image in wanted.images:
        if image.base64 is not None:
            uploads.append(Upload(next(decoded), image.name))
        else:
            # One after the other: what is too large in all must be found out before it has been fetched.
            content = await fetch_image(request, image.url or "", service)
            uploads.append(Upload(content, image.name, is_fetched=True))
    return uploads, wanted.top_k


async def fetch_image(request: Request, url: str, service: Service) -> bytes | ImageError:
    """Read an image from an address in a request; it counts as if the request had brought it."""
    content = await service.urls.read(url)
    if isinstance(content, bytes):
        context_of(request.scope).reservation.add_bytes(len(content))
    return content


def _read_top_k(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 1000:
        return int(text)
    raise refuse(ErrorCode.INVALID, "top_k: must be a number from 1 to 1000")


def _describe(
    index: int, upload: Upload, result: Prediction | ImageError, model: ServedModel, top_k: int
) -> dict[str, object]:
    about: dict[str, object] = {"index": index} if upload.name is None else {"index": index, "name": upload.name}
    if upload.is_fetched:
        result = without_findings(result)
    if isinstance(result, ImageError):
        return {**about, "status": result.code.value, "message": str(result)}
    return {
        **about,
        "status": "ok",
        "width": result.width,
        "height": result.height,
        "predictions": [
            {"class_id": class_id, "label": model.class_names[class_id], "score": score}
            for class_id, score in best(result, top_k)
        ],
        "probability": result.probability,
        "decision": result.decision,
        "ood_score": result.ood_score,
    }


def best(result: Prediction, top_k: int) -> list[tuple[int, float]]:
    """Class ids and scores, best first; a batch may have been asked for more than this request."""
    ids, scores = result.class_ids[:top_k].tolist(), result.scores[:top_k].tolist()
    return list(zip(ids, scores, strict=True))


def _describe_lineup(lineup: Lineup, *, refused: bool) -> bytes:
    config = lineup.config
    beside = {
        role: {**_describe_model(model), "share": choice.share}
        for role, model, choice in (("canary", lineup.canary, config.canary), ("shadow", lineup.shadow, config.shadow))
        if model is not None and choice is not None
    }
    return encode({**_describe_model(lineup.stable), "canary": None, "shadow": None, **beside, "refused": refused})


def _describe_model(model: ServedModel) -> dict[str, object]:
    spec = model.folder.spec
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "class_names": list(spec.class_names),
        "preprocess": spec.model_dump(mode="json")["preprocess"],
        "metrics": spec.metrics,
    }


def summarise(chosen: Chosen, results: Sequence[Prediction | ImageError]) -> dict[str, object]:
    """What the log says of a request's images."""
    errors = [result.code.value for result in results if isinstance(result, ImageError)]
    return {
        "imgcls_model": chosen.model.fingerprint[:12],
        "imgcls_role": chosen.role,
        "imgcls_images": len(results),
        **({"imgcls_image_errors": sorted(set(errors))} if errors else {}),
    }

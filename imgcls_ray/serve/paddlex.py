"""PaddleX's protocol, for clients that speak it: ``POST /image-classification`` and ``GET /health``.

Requests and answers are those of PaddleX's image classification pipeline (3.0 and the beta before it: ``topk``, or
``inferenceParams.topK``). What its server gets wrong is put right: a bad image is 4xx and not 500, and ``topk`` may be
larger than five.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from imgcls_ray.errors import ImageError
from imgcls_ray.serve.admission.request import context_of
from imgcls_ray.serve.api import best, fetch_image, summarise
from imgcls_ray.serve.bodies import read_body
from imgcls_ray.serve.errors import ErrorCode, refuse, refuse_image
from imgcls_ray.serve.inputs import without_findings
from imgcls_ray.serve.json_bodies import decode_texts, read_json
from imgcls_ray.serve.responses import to_json
from imgcls_ray.serve.schemas import MAX_URL_CHARS, TopK, body_schema

if TYPE_CHECKING:
    from imgcls_ray.serve.service import Service

_URL = re.compile(r"https?://", re.IGNORECASE)


class PaddleXParams(BaseModel):
    """Parameters of a request in the protocol of PaddleX's beta."""

    top_k: TopK = Field(default=None, alias="topK")


class PaddleXRequest(BaseModel):
    """One image to label. Unknown keys are ignored, as PaddleX does."""

    model_config = ConfigDict(strict=True)

    image: str = Field(
        min_length=1, description="Image file in base64, or its http(s) address if the service allows the host."
    )
    topk: TopK = None
    params: PaddleXParams | None = Field(
        default=None, alias="inferenceParams", description="Parameters in the form of PaddleX's beta."
    )
    visualize: bool | None = Field(
        default=None,
        description="Send the picture back with its labels drawn on it. Default: the service's `visualize`.",
    )


class PaddleXCategory(BaseModel):
    """One class of the image."""

    id: int = Field(description="Number of the class in the model's order, from 0.")
    name: str = Field(description="Name of the class.")
    score: float = Field(description="Softmax score of the class, from 0 to 1.")


class PaddleXResult(BaseModel):
    """Labels of the image."""

    categories: list[PaddleXCategory] = Field(description="Classes of the image, best first.")
    image: str | None = Field(default=None, description="Picture with its labels drawn on it: a JPEG file in base64.")


class PaddleXResponse(BaseModel):
    """The answer to a request that succeeded."""

    log_id: str = Field(alias="logId", description="Id of the request, the same as in the header `X-Request-ID`.")
    error_code: int = Field(alias="errorCode", description="Code of the error, always 0 here.")
    error_msg: str = Field(alias="errorMsg", description="Text of the result, always `Success` here.")
    result: PaddleXResult = Field(description="Labels of the image, and the picture if it was asked for.")


class PaddleXError(BaseModel):
    """The answer to a request that failed."""

    log_id: str = Field(alias="logId", description="Id of the request, the same as in the header `X-Request-ID`.")
    error_code: int = Field(alias="errorCode", description="HTTP status of the error, from 400 on.")
    error_msg: str = Field(alias="errorMsg", description="Text of the error for people.")


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": PaddleXError} for status in (400, 401, 413, 415, 422, 500, 503, 504)
}


class PaddleXStatus(BaseModel):
    """The answer to a health check."""

    log_id: str = Field(alias="logId", description="Id of the request, the same as in the header `X-Request-ID`.")
    error_code: int = Field(alias="errorCode", description="Code of the error, always 0 here.")
    error_msg: str = Field(alias="errorMsg", description="Text of the result, always `Healthy` here.")


def make_router(service: Service) -> APIRouter:
    """The routes of this service."""
    router = APIRouter(tags=["paddlex"])

    @router.post(
        "/image-classification",
        response_model=PaddleXResponse,
        responses=_ERRORS,
        summary="PaddleX's protocol",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body_schema(PaddleXRequest)}},
            }
        },
    )
    async def classify(request: Request) -> Response:
        """Label one image. Request and answer are those of PaddleX's server."""
        return await _classify(service, request)

    @router.get("/health", response_model=PaddleXStatus, summary="PaddleX's health")
    async def health(request: Request) -> Response:
        """Liveness: the process answers."""
        return to_json({"logId": context_of(request.scope).request_id, "errorCode": 0, "errorMsg": "Healthy"})

    return router


async def _classify(service: Service, request: Request) -> Response:
    wanted, cut = await read_json(PaddleXRequest, await read_body(request))
    chosen = service.choose()
    is_fetched = _URL.match(wanted.image) is not None
    if is_fetched:
        if len(wanted.image) > MAX_URL_CHARS:
            raise refuse(ErrorCode.INVALID, f"image: an address has at most {MAX_URL_CHARS} characters")
        content = await fetch_image(request, wanted.image, service)
    else:
        [content] = await decode_texts([wanted.image], cut)
    top_k = wanted.topk or (wanted.params and wanted.params.top_k) or service.config.top_k
    [result] = await service.classify([content], chosen, top_k)
    context = context_of(request.scope)
    context.log_fields = summarise(chosen, [result])
    if isinstance(result, ImageError):
        raise refuse_image(without_findings(result) if is_fetched else result)
    categories = [
        {"id": class_id, "name": chosen.model.class_names[class_id], "score": score}
        for class_id, score in best(result, top_k)
    ]
    answer: dict[str, object] = {"categories": categories}
    if service.config.visualize if wanted.visualize is None else wanted.visualize:
        assert isinstance(content, bytes)
        lines = [f"{category['name']} {category['score']:.2f}" for category in categories[:5]]
        drawn = await service.draw(content, lines)
        if isinstance(drawn, ImageError):
            raise refuse_image(drawn)
        answer["image"] = drawn
    return to_json(
        {
            "logId": context.request_id,
            "errorCode": 0,
            "errorMsg": "Success",
            "result": answer,
        }
    )

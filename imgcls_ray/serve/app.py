"""The ASGI application of one replica: protocols, page, documentation, and admission before them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from imgcls_ray import __version__
from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.options import decode_limits, fetch_limits
from imgcls_ray.serve import api, kserve, paddlex
from imgcls_ray.serve.admission.replica import ReplicaAdmission
from imgcls_ray.serve.admission.request import context_of
from imgcls_ray.serve.admission.room import Room
from imgcls_ray.serve.bodies import in_thread
from imgcls_ray.serve.errors import ApiError, ErrorCode, error_body, failed, not_found, refuse
from imgcls_ray.serve.fleet import Fleet
from imgcls_ray.serve.garbage import leave_objects_to_themselves
from imgcls_ray.serve.inputs import UrlReader
from imgcls_ray.serve.model import ModelOptions
from imgcls_ray.serve.pipeline import Pipeline
from imgcls_ray.serve.responses import encode, json_response, to_json
from imgcls_ray.serve.service import Service
from imgcls_ray.serve.static import StaticFile

if TYPE_CHECKING:
    from imgcls_ray.config import ServeConfig
    from imgcls_ray.serve.keys import ApiKeys
    from imgcls_ray.serve.metrics import Metrics

_PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "page.js": "text/javascript",
    "docs.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_DOCS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def make_service(config: ServeConfig, *, num_cores: int, metrics: Metrics) -> Service:
    """What one replica works with, without a model yet. To be called in the event loop that will answer."""
    _leave_modules_to_themselves(uses_torch=config.uses_gpus or config.engine == "torch")
    decoding, fetching = decode_limits(config), fetch_limits(config)
    num_engines = 1 if config.uses_gpus else max(1, num_cores // config.num_threads)
    options = ModelOptions(
        engine=config.engine,
        device="gpu" if config.uses_gpus else "cpu",
        precision=config.precision,
        max_batch_size=config.max_batch_size,
        num_engines=num_engines,
        num_threads=config.num_threads,
        fetch_limits=fetching,
        decode_limits=decoding,
    )
    pipeline = Pipeline(
        num_cores=num_cores,
        num_engines=num_engines,
        max_batch_size=config.max_batch_size,
        max_queued_images=config.max_queued_images,
        max_queued_bytes=config.max_queued_bytes,
        limits=decoding,
        metrics=metrics,
    )
    return Service(config, Fleet(options, metrics), pipeline, UrlReader(config.url_hosts, fetching), metrics)


@functools.cache
def _leave_modules_to_themselves(*, uses_torch: bool) -> None:
    """Import what models need, and let Python's garbage collector not walk through it.

    On CPUs, networks run without torch, whose import takes seconds of the start. A model that was exported to
    ``torch_export`` brings it along later (``leaving_torch_to_itself``).
    """
    if uses_torch:
        import torch  # noqa: F401  # which the first model would import
    else:
        openvino_core()
    leave_objects_to_themselves()


def make_app(service: Service, keys: ApiKeys) -> ReplicaAdmission:
    """The application that asks this service."""
    config = service.config
    app = make_routes(service)
    room = Room(
        max_images=config.max_queued_images,
        max_bytes=config.max_queued_bytes,
        max_request_bytes=config.max_request_bytes,
        num_images=lambda: service.pipeline.num_ordinary,
        num_done=lambda: service.pipeline.num_done,
    )
    return ReplicaAdmission(
        app, keys=keys, room=room, request_timeout_s=config.request_timeout_s, metrics=service.metrics
    )


def make_routes(service: Service) -> FastAPI:
    """Everything that can be asked."""
    app = FastAPI(
        title="imgcls-ray",
        version=__version__,
        description="Label images. Errors are `{error: {code, message, request_id}}`; of several images each has a "
        "`status` of its own.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for router in (api.make_router(service), paddlex.make_router(service), kserve.make_router(service)):
        app.include_router(router)
    app.add_exception_handler(ApiError, _tell_api_error)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_failure)

    page = StaticFile(_PAGE / "page.html", "text/html", is_kept=False)
    docs = StaticFile(_PAGE / "docs.html", "text/html")
    assets = {name: StaticFile(_PAGE / name, kind) for name, kind in _ASSETS.items()}
    assets |= {name: StaticFile(_swagger() / name, kind) for name, kind in _DOCS.items()}
    described: dict[str, bytes] = {}

    @app.get("/", include_in_schema=False)
    async def get_page(request: Request) -> Response:
        return page.answer(request)

    @app.get("/docs", include_in_schema=False)
    async def get_docs(request: Request) -> Response:
        return docs.answer(request)

    @app.get("/assets/{name}", include_in_schema=False)
    async def get_asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise not_found()
        return assets[name].answer(request)

    @app.get("/openapi.json", include_in_schema=False)
    async def get_description(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        if root not in described:
            described[root] = await in_thread(_encode_description, app, root)
        return json_response(described[root])

    return app


def _encode_description(app: FastAPI, root: str) -> bytes:
    """The OpenAPI description, with the two ways to show a key; a service without keys asks for none.

    ``root`` is the path that the application is mounted at.
    """
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    schema["security"] = [{"bearer": []}, {"key": []}, {}]
    if root:
        schema["servers"] = [{"url": root}]
    return encode(schema)


def _swagger() -> Path:
    """Swagger UI as fastapi-offline brings it: the documentation needs no network either."""
    import fastapi_offline

    return Path(fastapi_offline.__file__).parent / "static"


async def _tell_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    context = context_of(request.scope)
    context.error_code = error.code
    response = to_json(error_body(error, context.path, context.request_id), error.status)
    response.headers.update(error.headers)
    return response


async def _tell_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])[:200]
    return await _tell_api_error(request, refuse(ErrorCode.INVALID, f"{where}: {problem['msg']}"))


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, ErrorCode.BAD_REQUEST)
    refused = not_found() if code is ErrorCode.NOT_FOUND else refuse(code, str(error.detail)[:200])
    refused.headers.update(error.headers or {})
    return await _tell_api_error(request, refused)


async def _tell_failure(request: Request, _error: Exception) -> Response:
    """In the form of every error; what happened goes on to ``ReplicaAdmission``, which logs it."""
    return await _tell_api_error(request, failed())

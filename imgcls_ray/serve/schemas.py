"""What travels over the house's own protocol."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_URL_CHARS = 4096
TopK = Annotated[int, Field(ge=1, le=1000, description="Labels per image, best first; at most all classes.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JsonImage(_Request):
    """One image: its bytes, or where they are."""

    base64: str | None = Field(default=None, description="The encoded file (JPEG, PNG, ...) in base64.")
    url: str | None = Field(
        default=None, max_length=MAX_URL_CHARS, description="http(s) address; only of hosts that this service allows."
    )
    name: str | None = Field(default=None, max_length=255, description="Comes back with the result.")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.base64 is None) == (self.url is None):
            raise ValueError("give base64 or url, one of them")
        return self


class ClassifyJson(_Request):
    """Several images in one request."""

    images: list[JsonImage] = Field(min_length=1, fail_fast=True)
    top_k: TopK | None = None


class Label(BaseModel):
    """One class of one image."""

    class_id: int
    label: str
    score: float = Field(ge=0, le=1, description="Softmax.")


class ImageResult(BaseModel):
    """What became of one image."""

    index: int = Field(description="Its place in the request, from 0.")
    name: str | None = None
    status: str = Field(description="`ok`, or the code of what is wrong with this image.")
    message: str | None = Field(default=None, description="What is wrong, for people.")
    width: int | None = Field(default=None, description="Of the upright picture, pixels.")
    height: int | None = None
    predictions: list[Label] = Field(default=[], description="Best first.")


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    fingerprint: str
    role: str = Field(description="`stable` or `canary`.")


class ClassifyResponse(BaseModel):
    """One result for each image, in the order of the request."""

    request_id: str
    model: ModelName
    results: list[ImageResult]


class PreprocessInfo(BaseModel):
    """How a picture becomes the network's input."""

    model_config = ConfigDict(extra="allow")

    resize_size: int
    crop_size: int


class LoadedModel(BaseModel):
    """One model of the service."""

    name: str
    fingerprint: str
    class_names: list[str]
    preprocess: PreprocessInfo
    metrics: dict[str, float]


class ShareInfo(LoadedModel):
    """A model that a share of the requests goes to."""

    share: float


class ModelInfo(LoadedModel):
    """The model that answers, and those beside it."""

    canary: ShareInfo | None = None
    shadow: ShareInfo | None = None
    refused: bool = Field(description="Whether the last change of models was refused and the old ones serve on.")


class ErrorDetail(BaseModel):
    """Why a request has no answer."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """Every error looks like this."""

    error: ErrorDetail


class Health(BaseModel):
    """Of the service."""

    status: str


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body that a route reads itself, complete in one piece: FastAPI does not know its parts."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def complete(value: Any) -> Any:
        if isinstance(value, list):
            return [complete(item) for item in value]
        if not isinstance(value, dict):
            return value
        part = parts[value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
        return {key: complete(item) for key, item in {**part, **value}.items() if key != "$ref"}

    completed: dict[str, Any] = complete(schema)
    return completed

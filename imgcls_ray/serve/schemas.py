"""Requests and answers of the service's own protocol, ``/v1``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_URL_CHARS = 4096
TopK = Annotated[
    int | None,
    Field(ge=1, le=1000, description="Number of labels per image, best first. Default: the service's `top_k`."),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JsonImage(_Request):
    """One image: its bytes, or where they are."""

    base64: str | None = Field(default=None, description="Image file (JPEG, PNG, ...), encoded in base64.")
    url: str | None = Field(
        default=None,
        max_length=MAX_URL_CHARS,
        description="Address of the image, http or https. Only hosts that the service allows are asked.",
    )
    name: str | None = Field(
        default=None, max_length=255, description="Any name for the image, which its result repeats."
    )

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.base64 is None) == (self.url is None):
            raise ValueError("give base64 or url, one of them")
        return self


class ClassifyJson(_Request):
    """Several images in one request."""

    images: list[JsonImage] = Field(min_length=1, fail_fast=True, description="Images to label, one or more.")
    top_k: TopK = None


class Label(BaseModel):
    """One class of one image."""

    class_id: int = Field(description="Number of the class in the model's order, from 0.")
    label: str = Field(description="Name of the class.")
    score: float = Field(ge=0, le=1, description="Softmax score of the class, from 0 to 1.")


class ImageResult(BaseModel):
    """The result of one image: its labels, or an error."""

    index: int = Field(description="Position of the image in the request, from 0.")
    name: str | None = Field(default=None, description="Name that the request gave the image.")
    status: str = Field(description="Result of the image: `ok`, or the code of its error, e.g. `truncated`.")
    message: str | None = Field(default=None, description="Text of the error for people, if there is one.")
    width: int | None = Field(default=None, description="Width of the upright picture in pixels.")
    height: int | None = Field(default=None, description="Height of the upright picture in pixels.")
    predictions: list[Label] = Field(default=[], description="Labels of the image, best first; none after an error.")
    probability: float | None = Field(
        default=None,
        description="Calibrated probability that the first label is correct; null for a model without a temperature.",
    )
    decision: Literal["accepted", "unsure"] | None = Field(
        default=None,
        description="Decision about the first label, by the thresholds that were fitted for a wanted precision; "
        "null for a model without thresholds.",
    )
    ood_score: float | None = Field(
        default=None,
        description="Out-of-distribution score: the higher, the less the image is like those of the training set.",
    )


class ModelName(BaseModel):
    """The model that answered."""

    name: str = Field(description="Name of the model that answered.")
    fingerprint: str = Field(
        description="Fingerprint of the model folder: network, weights, classes and preprocessing."
    )
    role: str = Field(description="Role of the model: `stable` or `canary`.")


class ClassifyResponse(BaseModel):
    """One result for each image, in the order of the request."""

    request_id: str = Field(description="Id of the request, the same as in the header `X-Request-ID`.")
    model: ModelName = Field(description="Model that answered the whole request.")
    results: list[ImageResult] = Field(description="Results of the images, in the order of the request.")


class PreprocessInfo(BaseModel):
    """Preprocessing that turns a picture into the network's input."""

    model_config = ConfigDict(extra="allow")

    resize_size: int = Field(description="Length of the picture's short side after resizing, in pixels.")
    crop_size: int = Field(description="Height and width of the network's input in pixels.")


class LoadedModel(BaseModel):
    """One model of the service."""

    name: str = Field(description="Name of the model.")
    fingerprint: str = Field(
        description="Fingerprint of the model folder: network, weights, classes and preprocessing."
    )
    class_names: list[str] = Field(description="Names of the classes, in the order of `class_id`.")
    preprocess: PreprocessInfo = Field(description="Preprocessing of the model: resize, crop and normalisation.")
    metrics: dict[str, float] = Field(description="Metrics in the model folder, e.g. of its last evaluation.")


class ShareInfo(LoadedModel):
    """A canary or shadow model."""

    share: float = Field(description="Share of the requests that this model labels, from 0 to 1.")


class ModelInfo(LoadedModel):
    """The stable model, with its canary and shadow."""

    canary: ShareInfo | None = Field(default=None, description="Model that answers a share of the requests.")
    shadow: ShareInfo | None = Field(
        default=None, description="Model that labels a share of the images for comparison only; it answers nobody."
    )
    refused: bool = Field(description="True if the last change of models was refused, so the old models answer.")


class ErrorDetail(BaseModel):
    """The error of a request."""

    code: str = Field(description="Code of the error for programs, e.g. `overloaded`.")
    message: str = Field(description="Text of the error for people.")
    request_id: str = Field(description="Id of the request, the same as in the header `X-Request-ID`.")


class ErrorResponse(BaseModel):
    """The answer to a request that failed."""

    error: ErrorDetail = Field(description="Code, text and request id of the error.")


class Health(BaseModel):
    """Health of the service."""

    status: str = Field(description="State of the service: `ok` or `ready`.")


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

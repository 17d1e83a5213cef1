"""What travels over KServe's protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imgcls_ray.serve.schemas import TopK


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class InferParameters(_Part):
    """Of a request."""

    binary_data_output: bool = False
    top_k: TopK | None = None


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

"""Requests and answers of KServe's protocol (Open Inference Protocol, v2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imgcls_ray.serve.schemas import TopK


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class InferParameters(_Part):
    """Parameters of a request."""

    binary_data_output: bool = Field(
        default=False, description="Send all outputs as binary data behind the JSON, unless an output says otherwise."
    )
    top_k: TopK = None


class InputParameters(_Part):
    """Parameters of an input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Number of bytes of this input behind the JSON, if it is sent as binary data."
    )


class OutputParameters(_Part):
    """Parameters of an output."""

    binary_data: bool | None = Field(
        default=None, description="Send this output as binary data. Default: `binary_data_output` of the request."
    )


class InferInput(_Part):
    """One input tensor."""

    name: Literal["image", "pixels"] = Field(
        description="Name of the input: `image` for encoded files, `pixels` for RGB pixels at the model's input size."
    )
    shape: list[Annotated[int, Field(ge=0, le=2**31)]] = Field(
        min_length=1,
        max_length=4,
        description="Shape of the input: [B] or [B, 1] for `image`, [B, H, W, 3] for `pixels`.",
    )
    datatype: Literal["BYTES", "UINT8"] = Field(
        description="Type of the elements: BYTES for `image`, UINT8 for `pixels`."
    )
    parameters: InputParameters = Field(default=InputParameters(), description="Parameters of this input.")
    data: list[Any] | None = Field(
        default=None,
        description="Content of the input: base64 texts for `image`, numbers for `pixels`. Left out for binary data.",
    )


class InferOutput(_Part):
    """One requested output tensor."""

    name: Literal["class_ids", "scores", "labels", "status"] = Field(description="Name of the requested output.")
    parameters: OutputParameters = Field(default=OutputParameters(), description="Parameters of this output.")


class InferRequest(_Part):
    """An inference request."""

    id: str | None = Field(
        default=None, max_length=128, description="Any id for the request, which the answer repeats."
    )
    parameters: InferParameters = Field(default=InferParameters(), description="Parameters of the request.")
    inputs: list[InferInput] = Field(
        min_length=1, max_length=1, description="Input of the request: exactly one tensor."
    )
    outputs: list[InferOutput] = Field(
        default=[], max_length=4, description="Outputs to include in the answer. Default: all of them."
    )


class Tensor(BaseModel):
    """One output tensor."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="Name of the output.")
    shape: list[int] = Field(description="Shape of the output: [B, k], or [B] for `status`.")
    datatype: str = Field(description="Type of the elements: INT32, FP32 or BYTES.")
    data: list[Any] | None = Field(
        default=None, description="Elements of the tensor, row by row, unless sent as binary data."
    )


class InferResponse(BaseModel):
    """Labels of all images: outputs are [B, k], `status` is [B]. The class ids of an image with an error are -1."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(description="Name of the model that answered.")
    model_version: str = Field(description="Version of the model: the first 12 digits of its fingerprint.")
    id: str | None = Field(default=None, description="Id that the request gave, if any.")
    outputs: list[Tensor] = Field(description="Output tensors that the request asked for.")


class TensorMetadata(BaseModel):
    """Name, type and shape of one input or output."""

    name: str = Field(description="Name of the tensor.")
    datatype: str = Field(description="Type of the elements, e.g. UINT8.")
    shape: list[int] = Field(description="Shape of the tensor; -1 stands for any length.")


class ModelMetadata(BaseModel):
    """Inputs and outputs of one model."""

    name: str = Field(description="Name of the model.")
    versions: list[str] = Field(description="Versions that can be asked: first 12 digits of each fingerprint.")
    platform: str = Field(description="Name of the software that runs the model.")
    inputs: list[TensorMetadata] = Field(description="Inputs that the model accepts; a request has one of them.")
    outputs: list[TensorMetadata] = Field(description="Outputs that the model can send.")


class ServerMetadata(BaseModel):
    """Name and version of the server."""

    name: str = Field(description="Name of the server software.")
    version: str = Field(description="Version of the server software.")
    extensions: list[str] = Field(description="Extensions of the protocol that the server supports.")


class ModelReady(BaseModel):
    """State of one model."""

    name: str = Field(description="Name of the model.")
    ready: bool = Field(description="True if the model answers requests.")


class KServeError(BaseModel):
    """The answer to a request that failed."""

    error: str = Field(description="Text of the error for people.")
    code: str = Field(description="Code of the error for programs, e.g. `overloaded`.")
    request_id: str = Field(description="Id of the request, the same as in the header `X-Request-ID`.")

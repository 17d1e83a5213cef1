"""A service: which models answer, and what one request may take."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.device import OnDevice
from imgcls_ray.config.limits import ReadLimits


class GoldenImage(StrictModel):
    """A picture whose label is known: a model that says another thing is refused."""

    image: str
    """Path, ``s3://`` object or http(s) address."""
    label: str
    """The class name that must come first."""


class ModelChoice(StrictModel):
    """One model that answers."""

    # "model_" is pydantic's own namespace and the field's word for what this describes.
    model_config = ConfigDict(protected_namespaces=())

    model: str
    """Model folder (local or ``s3://``), or a name of the zoo with pretrained weights."""
    fingerprint: str | None = Field(default=None, pattern="^[0-9a-f]{8,64}$")
    """What the folder's fingerprint must begin with, at least eight digits; a folder with another one is refused."""
    golden: tuple[GoldenImage, ...] = ()
    """Pictures that the model must label so before it answers anyone."""


class ModelShare(ModelChoice):
    """Another model, for a share of the requests."""

    share: float = Field(gt=0, le=1)
    """Of the requests, 0 to 1."""


class ModelsConfig(ModelChoice):
    """The models of a service: Serve's ``user_config``, which changes while requests are answered."""

    canary: ModelShare | None = None
    """Answers its share of the requests in place of ``model``."""
    shadow: ModelShare | None = None
    """Labels the same images as the model that answers, for a share of the requests; its labels are compared and
    counted, and nobody waits for them."""
    revision: str = ""
    """Any text. Another one reads folders again whose content changed under the same name."""

    @field_validator("revision", mode="before")
    @classmethod
    def _may_be_a_number(cls, revision: object) -> object:
        return str(revision) if isinstance(revision, int | float) else revision


class ServeConfig(ModelsConfig, ReadLimits, OnDevice):
    """One service: ``imgcls serve``, and ``args`` in ``serve_config.yaml``."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine's. Of ``imgcls serve``."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Of ``imgcls serve``."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where Prometheus finds the metrics, of ``imgcls serve``. Default: a free port."""
    num_replicas: PositiveInt | None = None
    """Processes that answer, of ``imgcls serve``; each has its share of the machine's cores, and the models in its
    memory. Default: one for each core; with GPUs one."""

    engine: Literal["auto", "openvino", "torch"] = "auto"
    """``auto``: OpenVINO on CPUs, torch on GPUs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """``auto``: bf16 where the processor computes it natively."""
    max_batch_size: PositiveInt = 8
    """Most images per forward pass. A free engine takes what waits; nobody waits for a batch to fill."""
    num_threads: PositiveInt = 1
    """Cores of one forward pass. A replica with more cores runs several passes at once, which answers more requests;
    more threads in each answer a single one sooner."""

    top_k: int = Field(default=5, ge=1, le=1000)
    """Labels per image, if the request does not say."""
    visualize: bool = True
    """Whether PaddleX's protocol sends the picture with its labels back, if the request does not say."""
    url_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, e.g. ``images.example.com``, or ``*.example.com`` for all under it. None:
    addresses in requests are refused."""
    max_request_bytes: PositiveInt = 32 * 2**20
    """Larger requests get 413, as soon as they say so or have sent so much."""
    max_images_per_request: PositiveInt = 64
    """Requests with more get 422."""
    max_queued_images: PositiveInt = 64
    """Images in a replica, waiting or in work; requests for which there is no room get 503 and when to try again."""
    max_queued_bytes: PositiveInt = 256 * 2**20
    """Of the requests in a replica; those for which there is no room get 503."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """Deadline of a request from its first byte, seconds; then it gets 504."""
    decode_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline for decoding one image, seconds; one that takes longer gets the code ``decode_timeout``."""
    fetch_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline for fetching one image from an address, seconds, redirects included."""
    grace_s: NonNegativeInt = 20
    """What a replica that is to end has to answer the requests in work, seconds."""

    @field_validator("url_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "/" in host or ":" in host or "*" in host.removeprefix("*.") or not host.removeprefix("*."):
                raise ValueError(f"{host!r} is no host; give images.example.com, or *.example.com for all under it")
        return hosts

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_images_per_request > self.max_queued_images:
            raise ValueError(
                f"max_images_per_request={self.max_images_per_request} can never be taken in with "
                f"max_queued_images={self.max_queued_images}; raise the second or lower the first"
            )
        if self.max_request_bytes > self.max_queued_bytes:
            raise ValueError(
                f"max_request_bytes={self.max_request_bytes} can never be taken in with "
                f"max_queued_bytes={self.max_queued_bytes}; raise the second or lower the first"
            )
        if self.uses_gpus and self.engine == "openvino":
            raise ValueError("engine=openvino answers on CPUs; use engine=torch (or auto) with device=gpu")
        if self.gpu_ids:
            raise ValueError(f"device={self.device}: Ray chooses a replica's GPU; give device=gpu")
        return self

    def models(self) -> ModelsConfig:
        """Which models answer at first."""
        return ModelsConfig(**{name: getattr(self, name) for name in ModelsConfig.model_fields})

"""A service: which models answer, and what one request may take."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.device import AUTO, RunsNetwork
from imgcls_ray.config.limits import ReadLimits


class GoldenImage(StrictModel):
    """A picture whose label is known: a model that says another thing is refused."""

    image: str
    """Picture with a known label: a path, an object (``s3://``, ``gs://``, ``az://``, ``hf://``) or an http(s)
    address."""
    label: str
    """Name of the class that must come first."""


class ModelChoice(StrictModel):
    """One model that answers."""

    # "model_" is pydantic's own namespace and the field's word for what this describes.
    model_config = ConfigDict(protected_namespaces=())

    model: str
    """Model folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``), or a name of the zoo with pretrained
    weights."""
    fingerprint: str | None = Field(default=None, pattern="^[0-9a-f]{8,64}$")
    """Fingerprint of the model folder, or at least its first eight digits; a folder with another one is refused. The
    network is then converted from its weights, because the fingerprint does not cover the converted one."""
    golden: tuple[GoldenImage, ...] = ()
    """Pictures with known labels. A model that labels one of them otherwise is refused."""


class ModelShare(ModelChoice):
    """Another model, for a share of the requests."""

    share: float = Field(gt=0, le=1)
    """Share of the requests that this model labels, above 0 and up to 1."""


class ModelsConfig(ModelChoice):
    """The models of a service: Serve's ``user_config``, which changes while requests are answered."""

    canary: ModelShare | None = None
    """Model that answers a share of the requests in place of ``model``."""
    shadow: ModelShare | None = None
    """Model that labels the images of a share of the requests for comparison. Its labels are only counted, and no
    request waits for them."""
    revision: str = ""
    """Text of any kind, e.g. a date. A new text makes the service read the model folders again, even if their names are
    the same."""

    @field_validator("revision", mode="before")
    @classmethod
    def _may_be_a_number(cls, revision: object) -> object:
        return str(revision) if isinstance(revision, int | float) else revision


class ServeConfig(ModelsConfig, RunsNetwork, ReadLimits):
    """One service: ``imgcls serve``, and ``args`` in ``serve_config.yaml``."""

    help_sections: ClassVar = {"max_batch_size": "Batches and answers", "url_hosts": "Limits of requests"}

    host: str = "127.0.0.1"
    """Address that ``imgcls serve`` listens on: 127.0.0.1 can be reached from this machine only, 0.0.0.0 from all."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port that ``imgcls serve`` listens on."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the metrics of ``imgcls serve`` for Prometheus. Default: a free port."""
    device: str = Field(default=AUTO, examples=[AUTO, "cpu", "gpu"])
    """Device that runs the network: ``cpu``, or ``gpu`` for one GPU in each replica. ``auto`` takes a GPU if
    ``imgcls serve`` finds one; in a file of ``serve deploy`` it means ``cpu``."""
    num_replicas: PositiveInt | None = None
    """Number of replicas of ``imgcls serve``, each a process. They share the machine's cores, and each loads the models
    into its memory. Default: one for each core; with GPUs one."""

    max_batch_size: PositiveInt = 8
    """Largest number of images per forward pass. A free engine takes the images that wait; it never waits for a full
    batch."""
    num_threads: PositiveInt = 1
    """Number of cores for one forward pass. A replica with more cores runs several passes at once: few threads give
    more throughput, more threads give a lower latency."""

    top_k: int = Field(default=5, ge=1, le=1000)
    """Number of labels per image, if the request gives none."""
    visualize: bool = True
    """Send the picture back with its labels in PaddleX's protocol, if the request does not say."""
    url_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, e.g. ``images.example.com``, or ``*.example.com`` for all its subdomains.
    Default: none, so addresses in requests are refused."""
    max_request_bytes: PositiveInt = 32 * 2**20
    """Largest size of a request in bytes. A larger one gets 413 as soon as its headers or the bytes received show
    it."""
    max_images_per_request: PositiveInt = 64
    """Largest number of images in one request; a request with more gets 422."""
    max_queued_images: PositiveInt = 64
    """Largest number of images in a replica, waiting or being processed. Further requests get 503 with Retry-After."""
    max_queued_bytes: PositiveInt = 256 * 2**20
    """Largest number of bytes of all requests in a replica. Further requests get 503 with Retry-After."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds from the first byte of a request to its answer; a request that takes longer gets 504."""
    decode_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds to decode one image, in decoder processes of CPU time; an image that takes longer gets the code
    ``decode_timeout``."""
    fetch_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds to fetch one image from an address, redirects included."""
    grace_s: NonNegativeInt = 20
    """Seconds that a replica has to answer its current requests when it must end."""

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
        if self.gpu_ids:
            raise ValueError(f"device={self.device}: Ray chooses a replica's GPU; give device=gpu")
        return self

    def models(self) -> ModelsConfig:
        """Which models answer at first."""
        return ModelsConfig(**{name: getattr(self, name) for name in ModelsConfig.model_fields})

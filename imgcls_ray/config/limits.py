"""What reading one image may take and reach: the same keys for every job that reads images."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt

from imgcls_ray.config.base import StrictModel
from imgcls_ray.defaults import DECODE_TIMEOUT_S, FETCH_TIMEOUT_S, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS


class ObjectStorage(StrictModel):
    """How ``s3://``, ``gs://``, ``az://`` and ``hf://`` URIs are reached."""

    help_sections: ClassVar = {"endpoint_url": "Object storage"}
    renamed_keys: ClassVar = {"s3_endpoint_url": "endpoint_url", "s3_anonymous": "anonymous"}

    endpoint_url: str | None = None
    """Address of the object storage's server, if it is not the cloud's own. Default: AWS_ENDPOINT_URL or that of the
    profile for ``s3://``, GOOGLE_BASE_URL for ``gs://``, AZURE_STORAGE_ENDPOINT for ``az://``. Credentials come from
    the environment, the cloud's files or a role, never from this configuration."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    requester_pays: bool = False
    """Pay for the requests in place of the bucket's owner; on ``gs://`` the project in GOOGLE_CLOUD_PROJECT pays."""
    kms_key: str | None = None
    """Key of AWS KMS that encrypts what is written to ``s3://``: its id or ARN. Default: as the bucket is set up."""


class ReadLimits(ObjectStorage):
    """Bounds on bytes, pixels, time and hosts; where object storage is."""

    help_sections: ClassVar = {"max_image_bytes": "Limits of one image"}

    max_image_bytes: PositiveInt = MAX_IMAGE_BYTES
    """Largest size of an image file in bytes; a larger file gets the code ``too_many_bytes``."""
    max_image_pixels: int = Field(default=MAX_IMAGE_PIXELS, ge=1, le=MAX_IMAGE_PIXELS)
    """Largest number of pixels of an image, width times height; a larger image gets the code ``too_many_pixels``. The
    default is Pillow's limit: 256 MiB as RGB."""
    fetch_timeout_s: float = Field(default=FETCH_TIMEOUT_S, gt=0)
    """Seconds to read one image over a network, retries included; then it gets the code ``fetch_failed``."""
    decode_timeout_s: float = Field(default=DECODE_TIMEOUT_S, gt=0)
    """Seconds to decode one image; an image that takes longer gets the code ``decode_timeout``."""
    allow_private_urls: bool = False
    """Let http(s) addresses of images reach loopback, private and link-local hosts."""

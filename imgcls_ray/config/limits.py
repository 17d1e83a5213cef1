"""What reading one image may take and reach: the same keys for every job that reads images."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt

from imgcls_ray.config.base import StrictModel


class ObjectStorage(StrictModel):
    """How ``s3://`` URIs are reached."""

    help_sections: ClassVar = {"s3_endpoint_url": "Object storage"}

    s3_endpoint_url: str | None = None
    """Server of ``s3://`` URIs, if it is not AWS. Default: AWS_ENDPOINT_URL, or the profile's. Credentials come from
    the usual places of AWS tools (environment, ~/.aws, role), never from here."""
    s3_anonymous: bool = False
    """Read public buckets without credentials."""


class ReadLimits(ObjectStorage):
    """Bounds on bytes, pixels, time and hosts; where object storage is."""

    help_sections: ClassVar = {"max_image_bytes": "Limits of one image"}

    max_image_bytes: PositiveInt = 100 * 2**20
    """Largest file of an image, in bytes; larger ones get the code ``too_many_bytes``."""
    max_image_pixels: int = Field(default=89_478_485, ge=1, le=89_478_485)
    """Largest image in pixels, width times height; larger ones get the code ``too_many_pixels``. The default is
    Pillow's limit: 256 MiB as RGB."""
    fetch_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to read one image over a network, retries included."""
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to decode one image; an image that takes longer gets the code ``decode_timeout``."""
    allow_private_urls: bool = False
    """Let http(s) addresses of images reach loopback, private and link-local hosts."""

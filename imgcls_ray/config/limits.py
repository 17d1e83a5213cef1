"""What reading one image may take and reach: the same keys for every job that reads images."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from imgcls_ray.config.base import StrictModel


class ReadLimits(StrictModel):
    """Bounds on bytes, pixels, time and hosts; where object storage is."""

    max_image_bytes: PositiveInt = 100 * 2**20
    """Larger files get the code ``too_many_bytes``."""
    max_image_pixels: int = Field(default=89_478_485, ge=1, le=89_478_485)
    """Larger pictures get the code ``too_many_pixels``. The default is Pillow's limit: 256 MiB as RGB."""
    fetch_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for reading one image over a network, retries included, seconds."""
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for decoding one image, seconds; one that takes longer gets the code ``decode_timeout``."""
    allow_private_urls: bool = False
    """Let http(s) images reach loopback, private and link-local addresses."""

    s3_endpoint_url: str | None = None
    """Server of ``s3://`` URIs, if not AWS. Default: AWS_ENDPOINT_URL, or the profile's. Credentials come from the
    usual places of AWS tools (environment, ~/.aws, role), never from here."""
    s3_anonymous: bool = False
    """Read public buckets without credentials."""

"""How storage is reached: what may be sent to workers and recorded."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from imgcls_ray.errors import ConfigError


@dataclass(frozen=True)
class StorageOptions:
    """How to reach the storage. It has no secret, so it may be sent to workers and recorded."""

    endpoint_url: str | None = None
    """Address of a server other than the cloud's own. Default: that of the environment, or of the profile."""
    anonymous: bool = False
    """Send no credentials, for public buckets."""
    requester_pays: bool = False
    """Requests are paid by who makes them, not by the bucket's owner."""
    kms_key: str | None = None
    """Key of AWS KMS that what is written to S3 is encrypted with."""

    def __post_init__(self) -> None:
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.username or parts.password:
            # It is recorded with every run, and what is recorded holds no secret.
            raise ConfigError(
                "endpoint_url: credentials do not belong there; put them where the cloud's own tools look for them"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"endpoint_url: expected http(s)://HOST[:PORT], got {self.endpoint_url!r}")

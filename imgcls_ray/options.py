"""What a configuration allows, as the plain values that reads and decoders take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.names import NameRules
from imgcls_ray.storage.options import StorageOptions

if TYPE_CHECKING:
    from imgcls_ray.config import LabelConfig, ObjectStorage, ReadLimits


def storage_options(config: ObjectStorage) -> StorageOptions:
    return StorageOptions(
        endpoint_url=config.endpoint_url,
        anonymous=config.anonymous,
        requester_pays=config.requester_pays,
        kms_key=config.kms_key,
    )


def fetch_limits(config: ReadLimits) -> FetchLimits:
    return FetchLimits(
        max_bytes=config.max_image_bytes,
        timeout_s=config.fetch_timeout_s,
        allow_private_urls=config.allow_private_urls,
        storage=storage_options(config),
    )


def decode_limits(config: ReadLimits) -> DecodeLimits:
    return DecodeLimits(
        max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels, timeout_s=config.decode_timeout_s
    )


def name_rules(config: LabelConfig) -> NameRules:
    """Which names of a listing are left out; an empty ``exclude`` takes all.

    Raises:
        ConfigError: a pattern is none.
    """
    return NameRules.given(config.include, config.exclude)

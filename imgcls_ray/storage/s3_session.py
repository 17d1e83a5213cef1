"""How s3fs's client is set up: no retries and no cache of its own, bounded waits, fast times of day."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3fs import S3FileSystem

    from imgcls_ray.storage.options import StorageOptions

_CONNECT_TIMEOUT_S = 5
# Silence on a connection that long is a stall; the whole of an object may take longer.
_READ_TIMEOUT_S = 10
_CONNECTIONS = 64


def open_filesystem(options: StorageOptions) -> S3FileSystem:
    """A file system whose client asks once; credentials come from the usual chain when the first request needs them."""
    from aiobotocore.session import AioSession
    from s3fs import S3FileSystem

    session = AioSession()
    # A page of a listing holds a thousand times of day; botocore's own parser takes 70 ms for them.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return S3FileSystem(
        session=session,
        anon=options.anonymous,
        endpoint_url=options.endpoint_url,
        # Its listing cache would hold every key and show a store as it was.
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "retries": {"total_max_attempts": 1},
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "max_pool_connections": _CONNECTIONS,
            # Servers other than AWS may not know the newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # in headers: "Thu, 26 Nov 2026 08:00:00 GMT"
        from botocore.utils import parse_timestamp

        parsed: datetime = parse_timestamp(text)
        return parsed

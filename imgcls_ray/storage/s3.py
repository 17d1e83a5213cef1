"""What an ``s3://`` address names; requests are ``storage/s3_requests.py``."""

from __future__ import annotations

from imgcls_ray.errors import InputError


def is_s3(uri: str) -> bool:
    return uri[:5].lower() == "s3://"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; nothing in a key is decoded.

    >>> split_uri("s3://bucket/photos/a%20b.jpg")
    ('bucket', 'photos/a%20b.jpg')

    Raises:
        InputError: it names no bucket.
    """
    bucket, _, key = uri[5:].partition("/")
    if not bucket:
        raise InputError(f"{uri}: names no bucket; write s3://BUCKET/PREFIX")
    return bucket, key

"""Which addresses are of object storage, and what they name; one table of schemes for every storage."""

from __future__ import annotations

from imgcls_ray.errors import InputError

KIND_OF_SCHEME = {"s3": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""Scheme of an address to the kind of its storage: Amazon S3 and its like, Google Cloud Storage, Azure Blob Storage."""
ADDRESSES = "s3://BUCKET/PREFIX (or gs://, az://)"
"""How a place on object storage is written, for messages."""
_PREFIXES = tuple(f"{scheme}://" for scheme in KIND_OF_SCHEME)
_LONGEST = max(map(len, _PREFIXES))


def is_object(uri: str) -> bool:
    """Whether an address is of object storage: not a path, a ``file://`` URI or an http(s) address.

    >>> is_object("gs://bucket/photos/"), is_object("photos/")
    (True, False)
    """
    return uri[:_LONGEST].lower().startswith(_PREFIXES)


def kind_of(uri: str) -> str:
    """The kind of object storage of an address, e.g. ``az`` of ``abfss://...``."""
    return KIND_OF_SCHEME[uri.partition("://")[0].lower()]


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an address of object storage; nothing in a key is decoded.

    >>> split_uri("S3://bucket/photos/a%20b.jpg")
    ('s3://bucket', 'photos/a%20b.jpg')

    Raises:
        InputError: it names no bucket.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InputError(f"{uri}: names no bucket; write {scheme.lower()}://BUCKET/PREFIX")
    return f"{scheme.lower()}://{bucket}", key


def bucket_name(bucket: str) -> str:
    """``photos`` of ``s3://photos``."""
    return bucket.partition("://")[2]

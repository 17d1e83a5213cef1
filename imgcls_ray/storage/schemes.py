"""Which addresses are of object storage, and what they name; one table of schemes for every storage."""

from __future__ import annotations

import re

from imgcls_ray.errors import InputError

KIND_OF_SCHEME = {"s3": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az", "hf": "hf"}
"""Scheme of an address to the kind of its storage: Amazon S3 and its like, Google Cloud Storage, Azure Blob Storage,
the Hugging Face Hub, which is only read."""
ADDRESSES = "s3://BUCKET/PREFIX (or gs://, az://)"
"""How a place on object storage is written, for messages."""
READABLE = "s3://, gs://, az:// or hf:// URI"
"""What can be read beside paths and web addresses, for messages."""
_PREFIXES = tuple(f"{scheme}://" for scheme in KIND_OF_SCHEME)
_LONGEST = max(map(len, _PREFIXES))
# A repository, as huggingface_hub writes it; only the Hub's own references have a slash in their names.
_TYPES = "(?:datasets|spaces|models)/"
_REPOSITORY = re.compile(
    rf"hf://((?:{_TYPES})?(?!{_TYPES})[^/@]+/[^/@]+(?:@(?:refs/(?:convert|pr)/[^/]+|[^/]+))?)(?:/(.*))?",
    re.IGNORECASE | re.DOTALL,
)


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
    if scheme.lower() == "hf":
        return _split_hub(uri)
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InputError(f"{uri}: names no bucket; write {scheme.lower()}://BUCKET/PREFIX")
    if bucket[:4].lower() == "arn:":
        raise InputError(
            f"{uri}: ARNs are not read as buckets; name an access point by its alias, s3://NAME-...-s3alias/PREFIX (as "
            "`aws s3control get-access-point` tells it)"
        )
    return f"{scheme.lower()}://{bucket}", key


def is_hub(uri: str) -> bool:
    """Whether an address is of the Hugging Face Hub, which is only read."""
    return uri[:5].lower() == "hf://"


def _split_hub(uri: str) -> tuple[str, str]:
    """Repository and path of an address of the Hub: what a bucket and a key are elsewhere.

    Raises:
        InputError: it names no repository.
    """
    if uri[5:13].lower() == "buckets/":
        raise InputError(f"{uri}: the Hub's buckets are not read, only its repositories; copy it with `hf` first")
    found = _REPOSITORY.fullmatch(uri)
    if found is None:
        raise InputError(f"{uri}: names no repository; write hf://datasets/OWNER/NAME/PATH")
    return f"hf://{found[1]}", found[2] or ""


def bucket_name(bucket: str) -> str:
    """``photos`` of ``s3://photos``."""
    return bucket.partition("://")[2]

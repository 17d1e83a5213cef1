"""What S3's client is asked for and what it answers, as far as it is used here; botocore has no such types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

Parameter: TypeAlias = "str | int | bytes | Mapping[str, str]"
"""A value of a request, under S3's own name for it."""


class ListedObject(TypedDict):
    """One object of a listing."""

    Key: str
    Size: int
    ETag: str
    LastModified: datetime


class ListedPrefix(TypedDict):
    """What several keys begin with, up to the delimiter."""

    Prefix: str


class Page(TypedDict, total=False):
    """Of ``list_objects_v2``."""

    Contents: list[ListedObject]
    CommonPrefixes: list[ListedPrefix]
    IsTruncated: bool
    NextContinuationToken: str


class Head(TypedDict, total=False):
    """What is told of an object; not every server tells all."""

    ContentLength: int
    ContentRange: str
    ETag: str
    LastModified: datetime
    Metadata: dict[str, str]


class BucketHead(TypedDict, total=False):
    """What is told of a bucket."""

    BucketRegion: str


class ObjectBody(Protocol):
    """An object's bytes on their way."""

    async def read(self, amt: int | None = None) -> bytes: ...

    def close(self) -> None: ...


class ObjectAnswer(Head):
    """Of ``get_object``."""

    Body: ObjectBody


class ClientMeta(Protocol):
    """Where a client sends its requests."""

    endpoint_url: str
    region_name: str | None


class AsyncClient(Protocol):
    """aiobotocore's client, which s3fs holds; runs in s3fs's event loop."""

    meta: ClientMeta

    async def get_object(self, **parameters: Parameter) -> ObjectAnswer: ...

    async def head_object(self, **parameters: Parameter) -> Head: ...

    async def head_bucket(self, **parameters: Parameter) -> BucketHead: ...

    async def list_objects_v2(self, **parameters: Parameter) -> Page: ...

    async def put_object(self, **parameters: Parameter) -> Head: ...

    async def delete_object(self, **parameters: Parameter) -> Head: ...

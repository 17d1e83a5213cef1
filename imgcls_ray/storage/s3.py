"""What obstore cannot do on S3: find credentials and endpoints as AWS tools do, list and ask for odd keys.

obstore reads a key as a path, and a listing with one such key (``a//b``, ``a/../b``) fails whole. Pages of listings and
odd keys are asked for with botocore's client, which takes keys as they are. No retries and no cache of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import imgcls_ray.storage.object_stores as object_stores
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.storage.object_failures import AskAgainError, Failure, ObjectError, check_version, explain
from imgcls_ray.storage.object_wire import WRITER, Answer, Head, Span
from imgcls_ray.storage.schemes import bucket_name

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

    from imgcls_ray.storage.options import StorageOptions

_CONNECTIONS = 64
_CLOSE_TIMEOUT_S = 1.0
CREDENTIALS_DEADLINE_S = 120.0
"""Of a program or server that gives them."""
_CHUNK_BYTES = 2**20
# botocore renews credentials 10 minutes before they expire, whenever it is asked. obstore asks 5 minutes before this
# life ends.
_CREDENTIALS_LIFE = timedelta(minutes=10)
# Where AWS has all buckets of a region; endpoints of a private network are not among them.
_OF_AWS = re.compile(r"https://s3(-fips)?(\.dualstack)?(?:\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?/?")


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


class _Body(Protocol):
    async def read(self, amt: int | None = None) -> bytes: ...

    def close(self) -> None: ...


class S3Requests:
    """One client of botocore, set up when it is first needed; coroutines run in the given event loop."""

    def __init__(self, options: StorageOptions, loop: asyncio.AbstractEventLoop) -> None:
        from aiobotocore.session import AioSession

        self._options, self._loop = options, loop
        self._session = AioSession()
        # A page of a listing holds a thousand times of day; botocore's own parser takes 70 ms for them.
        self._session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
        self._made: Any = None
        self._making = asyncio.Lock()
        self._until_the_end = AsyncExitStack()
        # aiohttp complains on stderr of connections that nobody closed.
        weakref.finalize(self, _close, self._until_the_end, loop, os.getpid())
        payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._reading, self._writing = payer, dict(payer)
        if options.kms_key is not None:
            self._writing |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": options.kms_key}
        self.is_anonymous = options.anonymous

    async def client(self) -> Any:
        """botocore's client.

        Raises:
            BotoCoreError: it cannot be set up, or there are no credentials.
        """
        from aiobotocore.config import AioConfig
        from botocore import UNSIGNED
        from botocore.exceptions import NoCredentialsError

        async with self._making:
            if self._made is None:
                if not self.is_anonymous and await self._session.get_credentials() is None:
                    raise NoCredentialsError
                config = AioConfig(
                    retries={"total_max_attempts": 1},
                    connect_timeout=object_stores.CONNECT_TIMEOUT_S,
                    read_timeout=object_stores.READ_TIMEOUT_S,
                    max_pool_connections=_CONNECTIONS,
                    # Servers other than AWS may not know the newer checksums.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    **({"signature_version": UNSIGNED} if self.is_anonymous else {}),
                )
                made = self._session.create_client("s3", endpoint_url=self._options.endpoint_url, config=config)
                self._made = await self._until_the_end.enter_async_context(made)
            return self._made

    async def config_of(self, name: str) -> S3Config:
        """How obstore reaches a bucket. Where buckets have regions, it is asked for its region."""
        from botocore.exceptions import ClientError

        client = await self.client()
        url, region = str(client.meta.endpoint_url), client.meta.region_name or "us-east-1"
        config: S3Config = {}
        if (of_aws := _OF_AWS.fullmatch(url)) is not None:
            try:
                region = (await client.head_bucket(Bucket=name))["BucketRegion"]
            except KeyError:
                pass
            except ClientError as error:
                if explain(error)[0] is Failure.PASSING:
                    raise
                # Who may not list is told the region all the same.
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                region = headers.get("x-amz-bucket-region", region)
            # As access points need it; a certificate of AWS covers no name with dots.
            is_in_host = config["virtual_hosted_style_request"] = "." not in name
            fips, dualstack, china = (part or "" for part in of_aws.groups())
            host = f"s3{fips}{dualstack}.{region}.amazonaws.com{china}"
            config["endpoint"] = f"https://{name}.{host}" if is_in_host else f"https://{host}"
        else:
            config |= {"endpoint": url, "virtual_hosted_style_request": False}
        config["region"] = region
        if self.is_anonymous:
            config["skip_signature"] = True
        if self._options.requester_pays:
            config["request_payer"] = True
        if self._options.kms_key is not None:
            config |= {"server_side_encryption": "aws:kms", "sse_kms_key_id": self._options.kms_key}
        return config

    async def root_certificate(self) -> bytes | None:
        """Certificates that are trusted beside the system's: ``AWS_CA_BUNDLE``, or that of the profile."""
        path = self._session.get_config_variable("ca_bundle")
        if not path:
            return None
        return await asyncio.to_thread(_read_file, str(path))

    def signing_keys(self) -> S3Credential:
        """Current credentials, renewed where they expire; called by obstore in a thread of its own."""
        return asyncio.run_coroutine_threadsafe(self._signing_keys(), self._loop).result(CREDENTIALS_DEADLINE_S)

    async def _signing_keys(self) -> S3Credential:
        found = await self._session.get_credentials()
        if found is None:
            raise PermissionError("there are no credentials")
        keys = await found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LIFE,
        }

    async def page(self, bucket: str, prefix: str, max_keys: int, **more: str) -> Page:
        client = await self.client()
        page: Page = await client.list_objects_v2(
            Bucket=bucket_name(bucket), Prefix=prefix, MaxKeys=max_keys, **more, **self._reading
        )
        return page

    async def get(
        self, bucket: str, key: str, *, etag: str | None, if_match: bool, span: Span, max_bytes: int | None
    ) -> Answer:
        more = {"IfMatch": f'"{etag}"'} if etag and if_match else {}
        if span is not None:
            more["Range"] = f"bytes=-{span}" if isinstance(span, int) else f"bytes={span[0]}-{span[1] - 1}"
        answer = await (await self.client()).get_object(Bucket=bucket_name(bucket), Key=key, **more, **self._reading)
        body: _Body = answer["Body"]
        try:
            if span is not None and "ContentRange" not in answer:
                raise ObjectError(Failure.STORAGE, "the server sends whole objects where a part is asked for")
            check_version(answer.get("ETag"), etag)
            data = await _read_body(body, answer.get("ContentLength"), max_bytes)
        finally:
            body.close()
        size = int(answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2])
        return Answer(data, Head(size, answer.get("ETag", ""), answer.get("LastModified")))

    async def head(self, bucket: str, key: str) -> Head:
        answer = await (await self.client()).head_object(Bucket=bucket_name(bucket), Key=key, **self._reading)
        moment = answer["LastModified"].astimezone(UTC)
        return Head(answer["ContentLength"], answer["ETag"], moment, answer["Metadata"].get(WRITER))

    async def put(self, bucket: str, key: str, data: bytes, *, writer: str | None) -> None:
        more = {"IfNoneMatch": "*", "Metadata": {WRITER: writer}} if writer is not None else {}
        client = await self.client()
        await client.put_object(Bucket=bucket_name(bucket), Key=key, Body=data, **more, **self._writing)

    async def delete(self, bucket: str, key: str) -> None:
        await (await self.client()).delete_object(Bucket=bucket_name(bucket), Key=key, **self._reading)

    async def upload(self, path: str, bucket: str, key: str) -> None:
        # In one request: who has 5 GB for such a key has a name that every tool reads in its own way.
        await self.put(bucket, key, await asyncio.to_thread(_read_file, path), writer=None)


def _close(client: AsyncExitStack, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if os.getpid() == pid:  # a forked process has no thread that would do it
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(_CLOSE_TIMEOUT_S)


async def _read_body(body: _Body, length: int | None, max_bytes: int | None) -> bytes:
    chunks, size = [], 0
    if max_bytes is not None and length is not None and length > max_bytes:
        raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{length:,} bytes, the limit is {max_bytes:,}")
    while chunk := await body.read(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if max_bytes is not None and size > max_bytes:
            raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"the limit is {max_bytes:,} bytes")
    if length is not None and size != length:
        raise AskAgainError(f"the answer ended after {size:,} of {length:,} bytes")
    return b"".join(chunks)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # in headers: "Thu, 26 Nov 2026 08:00:00 GMT"
        from botocore.utils import parse_timestamp

        parsed: datetime = parse_timestamp(text)
        return parsed

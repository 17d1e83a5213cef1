"""The images of one request: a raw body, files of a form, base64 or addresses in JSON.

What is wrong with one image is that image's result (an ``ImageError``); what is wrong with the request ends it.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.serve.bodies import INLINE_BYTES, in_thread, read_body
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.serve.forms import read_parts
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.http import fetch_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

T = TypeVar("T")
_MAX_NAME_CHARS = 255
_NUM_FETCHERS = 4


class Upload(NamedTuple):
    """One image of a request."""

    content: bytes | ImageError
    name: str | None = None
    """That the caller gave it."""
    is_fetched: bool = False
    """From an address: what was found there is not told, only whether it could be labelled."""


async def read_form(request: Request, *, max_images: int) -> tuple[list[Upload], str | None]:
    """The files of a multipart form, in its order, and its field ``top_k``.

    Raises:
        ApiError: it is no such form, or has too many parts.
    """
    body = await read_body(request)
    content_type = request.headers["content-type"]
    read = functools.partial(read_parts, body, content_type, max_files=max_images)
    parts = read() if len(body) <= INLINE_BYTES else await in_thread(read)
    uploads = [Upload(part.content, (part.filename or "")[:_MAX_NAME_CHARS] or None) for part in parts if part.is_file]
    told = [part.content for part in parts if part.name == "top_k" and not part.is_file]
    return uploads, told[-1].decode("ascii", "replace") if told else None


@dataclass
class UrlReader:
    """Fetches images from addresses in requests: of hosts that are allowed, and of no private network."""

    hosts: Sequence[str]
    """Names, or ``*.NAME`` for all under it; none: addresses are refused."""
    limits: FetchLimits
    _executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="fetch")
    )

    async def read(self, url: str) -> bytes | ImageError:
        """Fetch one image; a failure is a value.

        Raises:
            ApiError: this service fetches nothing.
        """
        if not self.hosts:
            raise refuse(ErrorCode.URLS_NOT_ALLOWED, "this service fetches no addresses; send the image itself")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, url)

    def _read(self, url: str) -> bytes | ImageError:
        try:
            return fetch_url(
                url,
                max_bytes=self.limits.max_bytes,
                timeout_s=self.limits.timeout_s,
                allow_private=self.limits.allow_private_urls,
                hosts=self.hosts,
            )
        except ImageError as error:
            # What was found out about hosts and networks is not the caller's business.
            detail = "its host is not allowed" if error.code is ImageErrorCode.ACCESS_DENIED else ""
            return ImageError(error.code, detail)


def without_findings(result: T | ImageError) -> T | ImageError:
    """The result of an image from an address, without what an error tells of its content: the first bytes of an
    internal page, say, or how large it is."""
    if isinstance(result, ImageError) and result.code is not ImageErrorCode.ACCESS_DENIED:
        return ImageError(result.code)
    return result

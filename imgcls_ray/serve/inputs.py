"""The images of one request: a raw body, files of a form, base64 or addresses in JSON.

What is wrong with one image is that image's result (an ``ImageError``); what is wrong with the request ends it.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pybase64
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.http import fetch_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w=.-]{1,100}){0,4},")
_BLANKS = str.maketrans("", "", " \t\r\n")
_MAX_NAME_CHARS = 255
_NUM_FETCHERS = 4
MAX_JSON_VALUES = 20_000


M = TypeVar("M", bound=BaseModel)


class Upload(NamedTuple):
    """One image of a request."""

    content: bytes | ImageError
    name: str | None = None
    """That the caller gave it."""


async def read_form(request: Request, *, max_images: int) -> tuple[list[Upload], str | None]:
    """The files of a multipart form, in its order, and its field ``top_k``.

    Raises:
        ApiError: it is no such form, or has too many parts.
    """
    parser = _FormParser(request.headers, request.stream(), max_files=max_images, max_fields=8, max_part_size=4096)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise refuse(ErrorCode.TOO_MANY_IMAGES, f"at most {max_images} images a request") from error
        raise refuse(ErrorCode.BAD_REQUEST, f"not a readable multipart form: {error.message[:200]}") from error
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise refuse(ErrorCode.BAD_REQUEST, "not a readable multipart form") from error
    try:
        if not parser.is_whole:
            raise refuse(ErrorCode.BAD_REQUEST, "not a readable multipart form: its end is missing")
        uploads = []
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                name = (value.filename or "")[:_MAX_NAME_CHARS] or None
                uploads.append(Upload(await value.read(), name))
        top_k = form.get("top_k")
        return uploads, top_k if isinstance(top_k, str) else None
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Notices a form that ends in the middle, whose last part Starlette leaves out without a word."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


def read_json(kind: type[M], body: bytes, *, max_values: int = MAX_JSON_VALUES) -> M:
    """Read and check a body in JSON.

    One of more values than any request needs is not looked at: each takes microseconds to check, and an error its
    kilobyte. Commas and brackets within strings count too.

    Raises:
        ApiError: with what is wrong, by the name of the first wrong key; never with values, which may be megabytes.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > max_values:
        raise refuse(ErrorCode.INVALID, f"the JSON has more than {max_values:,} values")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:200]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            raise refuse(ErrorCode.BAD_REQUEST, message[:200]) from error
        raise refuse(ErrorCode.INVALID, f"{where}: {message}"[:400] if where else message[:400]) from error


def decode_base64(text: str) -> bytes | ImageError:
    """One image in base64, also as a ``data:`` address; line breaks are allowed, junk is not."""
    if text[:5] == "data:" and (prefix := _DATA_URL.match(text)):
        text = text[prefix.end() :]
    try:
        # A tenth of the time that Python's own takes, in which nobody else gets the event loop.
        return pybase64.b64decode(text, validate=True)
    except ValueError:  # perhaps for line breaks alone
        with suppress(ValueError):
            return pybase64.b64decode(text.translate(_BLANKS), validate=True)
    return ImageError(ImageErrorCode.CORRUPT, "not base64")


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

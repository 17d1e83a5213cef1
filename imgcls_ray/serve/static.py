"""Files of the page and of the documentation, answered from memory."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from fastapi.responses import Response

from imgcls_ray.serve.errors import ApiError, ErrorCode, refuse

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import Request
    from starlette.types import Receive, Scope, Send


# What a connection that is read slowly may hold at a time: the server waits until it is on its way.
_CHUNK_BYTES = 65_536
_MAX_TAGS_CHARS = 1000
_RANGE = re.compile(r"bytes=([0-9]{0,12})-([0-9]{0,12})")


class StaticFile:
    """One file, read once."""

    def __init__(self, path: Path, media_type: str, *, is_kept: bool = True) -> None:
        self._body = path.read_bytes()
        self._headers = {
            "content-type": f"{media_type}; charset=utf-8",
            "etag": f'"{hashlib.sha256(self._body).hexdigest()[:32]}"',
            "accept-ranges": "bytes",
            # Browsers ask again each time, and get 304 while nothing has changed.
            **({} if is_kept else {"cache-control": "no-cache"}),
        }

    def answer(self, request: Request) -> Response:
        """The file, the part of it that is asked for, or that the caller has it already.

        Raises:
            ApiError: the range that is asked for is none, or none of this file.
        """
        etag = self._headers["etag"]
        known = request.headers.get("if-none-match", "")[:_MAX_TAGS_CHARS].split(",")
        known = [tag.strip().removeprefix("W/") for tag in known]
        if etag in known or "*" in known:
            return Response(status_code=304, headers=self._headers)
        asked = request.headers.get("range")
        if asked is None or request.headers.get("if-range", etag) != etag:
            return _InChunks(self._body, headers=self._headers)
        start, end = self._range(asked)
        found = {"content-range": f"bytes {start}-{end - 1}/{len(self._body)}"}
        return _InChunks(self._body[start:end], status_code=206, headers={**self._headers, **found})

    def _range(self, asked: str) -> tuple[int, int]:
        size = len(self._body)
        found = _RANGE.fullmatch(asked.replace(" ", ""))
        if found is None or found[1] == found[2] == "":
            raise refuse(ErrorCode.BAD_REQUEST, "Range must be one range of bytes, as in bytes=0-499")
        if found[1] == "":
            start, end = max(0, size - int(found[2])), size
        else:
            start, end = int(found[1]), min(size, int(found[2] or size) + 1)
            if found[2] and int(found[2]) < start:
                raise refuse(ErrorCode.BAD_REQUEST, "Range ends before it begins")
        if start >= size or start >= end:
            raise ApiError(
                ErrorCode.RANGE_NOT_SATISFIABLE.value,
                f"the file has {size:,} bytes",
                status=ErrorCode.RANGE_NOT_SATISFIABLE.status,
                headers={"content-range": f"bytes */{size}"},
            )
        return start, end


class _InChunks(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = bytes(self.body)
        for start in range(0, len(body) or 1, _CHUNK_BYTES):
            chunk = body[start : start + _CHUNK_BYTES]
            await send({"type": "http.response.body", "body": chunk, "more_body": start + _CHUNK_BYTES < len(body)})

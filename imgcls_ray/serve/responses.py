"""Answers in JSON."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from fastapi.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Some tenth of a millisecond of the encoder, and of the event loop where it is called there.
_BYTES_PER_TURN = 65_536
_VALUES_PER_STEP = 4096
# One for all: `json.dumps` makes a new one for each call that asks for anything else than its defaults.
_dump = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(content: object) -> bytes:
    """An answer as it stands: its form is the schemas', which the tests compare it with.

    Surrogates, which names of files may hold, stay escaped: they have no UTF-8.
    """
    return _dump(content).encode("ascii")


def json_response(body: bytes, status: int = 200) -> Response:
    """An answer that is encoded already."""
    return Response(body, status_code=status, media_type="application/json")


def to_json(content: object, status: int = 200) -> Response:
    """An answer that is small."""
    return json_response(encode(content), status)


async def in_pieces(head: Mapping[str, object], key: str, items: Iterable[object]) -> Response:
    """An answer with a list that may be long, made and encoded item by item: others get the event loop in between."""
    parts: list[str] = []
    num_chars = 0
    for item in items:
        parts.append(_dump(item))
        num_chars += len(parts[-1])
        if num_chars > _BYTES_PER_TURN:
            num_chars = 0
            await asyncio.sleep(0)
    return json_response(f"{_dump(head)[:-1]},{_dump(key)}:[{','.join(parts)}]}}".encode("ascii"))


def encode_list(values: Sequence[object]) -> bytes:
    """A list of numbers or texts, in steps that give the interpreter back."""
    starts = range(0, len(values), _VALUES_PER_STEP)
    return b"[%b]" % b",".join([encode(values[start : start + _VALUES_PER_STEP])[1:-1] for start in starts])

"""Answers in JSON."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import Response


def to_json(content: Any, status: int = 200) -> Response:
    """An answer as it stands: its form is the schemas', which the tests compare it with.

    Surrogates, which names of files may hold, stay escaped: they have no UTF-8.
    """
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Response(body, status_code=status, media_type="application/json")

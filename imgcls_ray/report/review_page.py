"""One page, which needs no other file, on which a person picks the right labels and saves the answers.

Its one script is allowed by its hash, so that no text of a store can be another one.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.report.page import as_markup, render_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_ITEMS = 1000
"""More pictures would be more than a browser opens at once."""


def render_review(about: Mapping[str, object], items: Sequence[Mapping[str, object]]) -> str:
    """The page as HTML.

    Args:
        about: ``store``, ``model``, ``fingerprint`` and ``classes``.
        items: of each image ``uri``, ``etag``, ``label``, ``labels``, ``confidence``, ``why``, ``num_alike``, and
            ``jpeg``, bytes.
    """
    script = (Path(__file__).parent / "review.js").read_text(encoding="utf-8")
    shown = [{**item, "jpeg": base64.b64encode(_bytes(item["jpeg"])).decode()} for item in items[:MAX_ITEMS]]
    told = "\0".join(f"{item['uri']}\0{item['etag']}" for item in shown)
    number = hashlib.sha256(f"{about['store']}\0{told}".encode(errors="backslashreplace")).hexdigest()[:16]
    return render_template(
        "review.html",
        num_items=len(shown),
        num_more=len(items) - len(shown),
        queue={**about, "id": number, "items": shown},
        script=as_markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value

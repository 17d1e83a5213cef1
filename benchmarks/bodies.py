"""What is sent to a service: JPEG files of a given size, forms of them, and what no service can label.

The pictures are drawn, and the same on every machine with the same Pillow.
"""

from __future__ import annotations

import io
import json
import random
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.http_load import Kind
from benchmarks.http_wire import make_request
from benchmarks.make_images import draw_photograph

CLASSIFY = "/v1/classify"
_TOLERANCE = 0.1
_BOUNDARY = "imgcls-benchmark-boundary"


class Size(NamedTuple):
    """How large a picture is."""

    num_bytes: int
    longer_side: int
    """Pixels."""
    grain: float
    """Noise of the camera, in grey values: small pictures lost it when they were made smaller."""


SIZES = {
    "10k": Size(10_000, 300, grain=0),
    "110k": Size(110_000, 500, grain=0),
    "1m": Size(1_000_000, 1800, grain=6),
}


def draw_jpeg(size: Size, seed: int) -> bytes:
    """A photograph of this many pixels whose file is within a tenth of this many bytes.

    Raises:
        ValueError: no quality of JPEG makes it so.
    """
    drawn = draw_photograph(seed)
    scale = size.longer_side / max(drawn.size)
    image = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.BICUBIC)
    if size.grain:
        noise = np.random.default_rng(seed).standard_normal((image.height, image.width, 1), dtype=np.float32)
        image = Image.fromarray(np.clip(np.asarray(image) + size.grain * noise, 0, 255).astype(np.uint8))
    lowest, highest = 10, 100
    while lowest <= highest:
        quality = (lowest + highest) // 2
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if abs(file.tell() - size.num_bytes) <= _TOLERANCE * size.num_bytes:
            return file.getvalue()
        lowest, highest = (quality + 1, highest) if file.tell() < size.num_bytes else (lowest, quality - 1)
    raise ValueError(f"no quality makes picture {seed} a file of {size.num_bytes:,} bytes")


def draw_jpegs(size: Size, count: int) -> list[bytes]:
    """Different photographs; those that are too calm or too busy for the size are left out."""
    jpegs: list[bytes] = []
    seed = 0
    while len(jpegs) < count:
        try:
            jpegs.append(draw_jpeg(size, seed))
        except ValueError:
            if seed > 10 * count:
                raise
        seed += 1
    return jpegs


def image_kinds(jpegs: list[bytes], *, path: str = CLASSIFY, weight: float = 1.0) -> list[Kind]:
    """Each picture as the body of a request; together they have the weight."""
    return [Kind("good", make_request(path, jpeg, "image/jpeg"), weight / len(jpegs)) for jpeg in jpegs]


def form_kind(jpegs: list[bytes], *, path: str = CLASSIFY, field: str = "files") -> Kind:
    """All pictures as files of one form."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{i}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + jpeg
        + b"\r\n"
        for i, jpeg in enumerate(jpegs)
    ]
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    return Kind("form", make_request(path, body, f"multipart/form-data; boundary={_BOUNDARY}"))


def bad_kinds(jpeg: bytes, *, max_request_bytes: int, weight: float) -> list[Kind]:
    """What cannot be labelled, in about equal parts; together they have the weight. Too large ones are rare."""
    noise = random.Random(0).randbytes(len(jpeg))
    junk = json.dumps({"images": [{"base64": "no base64!"}, {"base64": 7}], "top_k": "many", "else": [[[]]]}).encode()
    bodies = {
        "truncated": (jpeg[: len(jpeg) // 2], "image/jpeg"),
        "noise": (noise, "image/jpeg"),
        "noise after a JPEG's header": (jpeg[:1000] + noise[1000:], "image/jpeg"),
        "text": (b"not a picture " * 100, "image/jpeg"),
        "empty": (b"", "image/jpeg"),
        "65,500 x 65,500 pixels": (_with_sides(jpeg, 65_500), "image/jpeg"),
        "JSON that does not fit": (junk, "application/json"),
        "JSON that is none": (b'{"images": [' + noise[:1000], "application/json"),
        "form that is none": (noise[:1000], f"multipart/form-data; boundary={_BOUNDARY}"),
        "unknown type": (b"<image/>", "text/xml"),
    }
    kinds = [
        Kind(name, make_request(CLASSIFY, body, content_type), weight / len(bodies))
        for name, (body, content_type) in bodies.items()
    ]
    too_large = make_request(CLASSIFY, bytes(max_request_bytes + 1), "image/jpeg")
    return [*kinds, Kind("too large", too_large, weight / 200)]


def _with_sides(jpeg: bytes, pixels: int) -> bytes:
    """The same file, whose header claims other sides."""
    at = jpeg.index(b"\xff\xc0")  # baseline: marker, length, bits, height, width
    return jpeg[: at + 5] + struct.pack(">HH", pixels, pixels) + jpeg[at + 9 :]

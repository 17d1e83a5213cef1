"""Requests that cost a service far more than their size: hostile images in every envelope, and hostile envelopes.

Bodies are made once and kept as files, because some take seconds to make.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import hostile_images
from benchmarks.bodies import CLASSIFY
from benchmarks.hostile_images import HOSTILE_IMAGES, SIDE_88MP, png
from benchmarks.http_load import Kind
from benchmarks.http_wire import make_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PADDLEX = "/image-classification"
_MB = 1_000_000
_JSON = "application/json"
_BOUNDARY = "imgcls-hostile-boundary"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
# Just within what the service takes in, as shipped.
_LARGEST = 32 * 2**20 - 1000
_LARGEST_IN_BASE64 = _LARGEST * 3 // 4
# Every image goes through PaddleX's protocol too, which decodes it again to draw on it.
_VISUALIZE = "PaddleX, visualize"


class HostileBody(NamedTuple):
    """One request of an attack."""

    attack: str
    make: Callable[[], bytes]
    content_type: str
    path: str = CLASSIFY
    headers: tuple[str, ...] = ()


def hostile_bodies(model: str) -> list[HostileBody]:
    """All of them, for a service whose model has this name; several may belong to one attack."""
    infer = f"/v2/models/{model}/infer"
    images = [HostileBody(name, image.make, image.content_type) for name, image in HOSTILE_IMAGES.items()]
    drawn = [
        HostileBody(
            f"{_VISUALIZE}: PNG of 88 MP", lambda: for_paddlex(png(SIDE_88MP, SIDE_88MP, colour_type=6)), _JSON, PADDLEX
        ),
        *(HostileBody(f"{_VISUALIZE}: all", _drawn(image.make), _JSON, PADDLEX) for image in HOSTILE_IMAGES.values()),
    ]
    nested = b"[" * (_LARGEST // 2)
    envelopes = [
        HostileBody("base64 that is not ASCII", lambda: base64_not_ascii(30 * _MB), _JSON),
        HostileBody("KServe, empty strings", lambda: kserve_strings(990_000), _JSON, infer),
        HostileBody("form of tiny parts", lambda: form_of_tiny_parts(300_000), _FORM),
        HostileBody("form of huge headers", lambda: form_of_huge_headers(30 * _MB), _FORM),
        HostileBody("JSON of 32 MB", lambda: json_of_one_image(_LARGEST), _JSON),
        HostileBody("JSON of 32 MB", lambda: json_of_escapes(_LARGEST), _JSON),
        HostileBody("JSON of 32 MB", lambda: json_of_escapes(_LARGEST), _JSON, infer),
        HostileBody("JSON, nested", lambda: b'{"images": ' + nested, _JSON),
        HostileBody("JSON, nested", lambda: nested[:19_000], _JSON),
        HostileBody("JSON, nested", lambda: b'{"inputs": ' + nested[:990_000], _JSON, infer),
        HostileBody("JSON, nested", lambda: b'{"image": ' + nested, _JSON, PADDLEX),
    ]
    zipped = [
        HostileBody("gzip", lambda: gzip_of_zeros(1000 * _MB), kind, path, ("Content-Encoding: gzip",))
        for kind, path in (("image/jpeg", CLASSIFY), (_JSON, CLASSIFY), (_JSON, PADDLEX))
    ]
    return [*images, *drawn, *envelopes, *zipped]


def _drawn(make: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: for_paddlex(make())


def make_kinds(bodies: Sequence[HostileBody], folder: Path, key: str) -> dict[str, list[Kind]]:
    """The requests of each attack as they go over the wire, with a caller's key; bodies come from the folder.

    Those of one attack have the weight 1 together, so that in a mix of attacks each has its turn. All of them are to be
    given: files are named for their places in it.
    """
    version = _version()
    of_attack: dict[str, list[bytes]] = {}
    for body in bodies:
        requests = of_attack.setdefault(body.attack, [])
        words = re.sub(r"\W+", "-", body.attack)
        content = _kept(body, folder / f"{version}-{words}-{len(requests)}")
        headers = (*body.headers, f"X-API-Key: {key}")
        requests.append(make_request(body.path, content, body.content_type, headers=headers))
    return {
        attack: [Kind(attack, request, weight=1 / len(requests)) for request in requests]
        for attack, requests in of_attack.items()
    }


def _version() -> str:
    """Another one whenever what makes the bodies has changed."""
    sources = (Path(module).read_bytes() for module in (__file__, hostile_images.__file__))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


def _kept(body: HostileBody, file: Path) -> bytes:
    if not file.exists():
        # Complete or not there, also if a run is interrupted.
        part = file.with_suffix(".part")
        part.write_bytes(body.make())
        part.rename(file)
    return file.read_bytes()


def for_paddlex(image: bytes) -> bytes:
    """One image as PaddleX's clients send it, with the wish to have it back with its labels on it.

    Raises:
        ValueError: the service would not take in so much.
    """
    if len(image) > _LARGEST_IN_BASE64:
        raise ValueError(f"an image of {len(image):,} bytes is too large in base64")
    return json.dumps({"image": base64.b64encode(image).decode(), "visualize": True}).encode()


def base64_not_ascii(num_bytes: int) -> bytes:
    """The last letter of a long text in base64 is none of its alphabet."""
    return b'{"images": [{"base64": "' + b"A" * num_bytes + 'é"}]}'.encode()


def kserve_strings(count: int) -> bytes:
    """So many images of no bytes."""
    data = b",".join([b'""'] * count)
    return b'{"inputs": [{"name": "image", "shape": [%d], "datatype": "BYTES", "data": [%s]}]}' % (count, data)


def json_of_one_image(num_bytes: int) -> bytes:
    """One image, whose base64 is valid and no picture."""
    head, end = b'{"images": [{"base64": "', b'"}]}'
    return head + b"A" * ((num_bytes - len(head) - len(end)) // 4 * 4) + end


def json_of_escapes(num_bytes: int) -> bytes:
    """A text of which each letter is an escape."""
    head, end = b'{"id": "', b'"}'
    return head + b"\\u00e9" * ((num_bytes - len(head) - len(end)) // 6) + end


def form_of_tiny_parts(count: int) -> bytes:
    """So many files of one byte."""
    part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n'.encode()
    return part * min(count, _LARGEST // len(part)) + f"--{_BOUNDARY}--\r\n".encode()


def form_of_huge_headers(num_bytes: int) -> bytes:
    """One part that is all headers: half of it one long one, half of it many."""
    long = b"X-Long: " + b"a" * (num_bytes // 2) + b"\r\n"
    many = b"X: y\r\n" * (num_bytes // 12)
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n'.encode()
    return head + long + many + f"\r\nx\r\n--{_BOUNDARY}--\r\n".encode()


def gzip_of_zeros(num_bytes: int) -> bytes:
    """A thousandth of that."""
    return gzip.compress(bytes(num_bytes), mtime=0)

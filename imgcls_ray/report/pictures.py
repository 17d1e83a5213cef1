"""The pictures of a report: samples with their class names, thumbnails of findings.

A sentence replaces a picture that cannot be read. Only findings about images that were decoded, or whose bytes were
compared, have thumbnails: decoding another image could crash the process.
"""

from __future__ import annotations

import io
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.errors import ImageError, ImgclsError
from imgcls_ray.images.annotate import annotate_image, error_card
from imgcls_ray.images.decoder import DecodeLimits, decode_image
from imgcls_ray.packed.listing import fetch_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from PIL import Image

    from imgcls_ray.datasets.check_result import Sample
    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.storage import FetchLimits

THUMBNAIL_SIDE = 160
"""Longer side of a thumbnail in pixels."""
MAX_SAMPLE_SIDE = 1280

_NUM_WORKERS = 4  # each may hold a large picture; more than that helps only far storage
_PAIRS = frozenset(
    {FindingCode.CONFLICTING_LABELS, FindingCode.EXACT_DUPLICATE, FindingCode.NEAR_DUPLICATE, FindingCode.LEAKAGE}
)
_SINGLES = frozenset(
    {
        FindingCode.DARK,
        FindingCode.BRIGHT,
        FindingCode.BLURRED,
        FindingCode.UNIFORM,
        FindingCode.TINY,
        FindingCode.ODD_SHAPE,
        FindingCode.ROTATED,
        FindingCode.ODD_COLOURS,
    }
)
_NUM_PAIRS, _NUM_SINGLES = 3, 4  # per code: 56 pictures at most
_UNDECODABLE = frozenset({FindingCode.MISSING_IMAGE, FindingCode.UNREADABLE_IMAGE})
_MAX_STEM_BYTES = 120  # file systems take 255, of which a partial file needs 40 for itself


class Thumbnail(NamedTuple):
    """A small JPEG, or why there is none."""

    jpeg: bytes
    error: str = ""


class DrawnSample(NamedTuple):
    """One of the dataset's images as the report keeps it."""

    name: str
    """Name of the sample's file, e.g. ``train_00_IMG_1118.jpg``."""
    jpeg: bytes
    """Upright, with the class name below."""
    thumbnail: Thumbnail


def draw_samples(
    split: str, samples: Iterable[Sample], *, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> list[DrawnSample]:
    """Draw the samples of one split, in their order."""

    def draw(numbered: tuple[int, Sample]) -> DrawnSample:
        number, sample = numbered
        pixels = load_pixels(sample.uri, fetch_limits, decode_limits)
        if isinstance(pixels, str):
            picture = error_card(f"{sample.path}\n{pixels}")
            thumbnail = Thumbnail(b"", pixels)
        else:
            picture, thumbnail = annotate_image(pixels, [sample.class_name]), _thumbnail(pixels)
        # After the text is drawn, whose size grows with the picture.
        picture.thumbnail((MAX_SAMPLE_SIDE, MAX_SAMPLE_SIDE))
        return DrawnSample(_sample_name(split, number, sample.path), to_jpeg(picture, quality=90), thumbnail)

    with ThreadPoolExecutor(_NUM_WORKERS) as pool:
        return list(pool.map(draw, enumerate(samples)))


def pictured_findings(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first few findings of each code for which a picture is useful."""
    findings = list(findings)
    undecodable = {finding.uri for finding in findings if finding.code in _UNDECODABLE}
    num_pictured: dict[FindingCode, int] = {}
    for finding in findings:
        wanted = _NUM_PAIRS if finding.code in _PAIRS else _NUM_SINGLES if finding.code in _SINGLES else 0
        uris = pictures_of(finding)
        if num_pictured.get(finding.code, 0) < wanted and uris and undecodable.isdisjoint(uris):
            num_pictured[finding.code] = num_pictured.get(finding.code, 0) + 1
            yield finding


def pictures_of(finding: Finding) -> tuple[str, ...]:
    """URIs of the image, or of both of a pair."""
    return tuple(uri for uri in (finding.uri, finding.other_uri if finding.code in _PAIRS else "") if uri)


def load_pixels(uri: str, fetch_limits: FetchLimits, decode_limits: DecodeLimits) -> np.ndarray | str:
    """Upright pixels, or why there are none."""
    try:
        return decode_image(fetch_input(uri, None, fetch_limits), decode_limits)
    # All of them were read a moment ago; what fails now must not cost the report of all that was found.
    except (ImageError, ImgclsError) as error:
        return str(error)


def _thumbnail(pixels: np.ndarray) -> Thumbnail:
    return Thumbnail(small_jpeg(pixels, THUMBNAIL_SIDE))


def small_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """A picture as a JPEG whose longer side has at most so many pixels."""
    picture = annotate_image(pixels, [])
    picture.thumbnail((side, side))
    return to_jpeg(picture, quality=80)


def to_jpeg(picture: Image.Image, *, quality: int) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _sample_name(split: str, number: int, path: str) -> str:
    """A name that no other sample has, for any file system; letters of every script stay."""
    base = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    letters = unicodedata.normalize("NFC", stem)[:_MAX_STEM_BYTES]
    safe = "".join(c if unicodedata.category(c)[0] in "LNM" or c in "-_." else "_" for c in letters)
    safe = safe.encode()[:_MAX_STEM_BYTES].decode(errors="ignore").strip("._")
    return f"{split}_{number:02d}_{safe}.jpg" if safe else f"{split}_{number:02d}.jpg"

"""Split a TIFF page whose planes are stored apart into a grey page for each plane."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.orientation import UPRIGHT
from imgcls_ray.images.tiff_directory import SHORT, first_value, read_first_ifd, read_page
from imgcls_ray.images.tiff_tags import (
    BITS_PER_SAMPLE,
    BLACK_IS_ZERO,
    DATA_TAGS,
    EXTRA_SAMPLES,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR_CONFIGURATION,
    PLANES_APART,
    RGB,
    SAMPLE_FORMAT,
    SAMPLES_PER_PIXEL,
    SEPARATED,
    TAGS_OF_PLANES,
    WHITE_IS_ZERO,
)

if TYPE_CHECKING:
    from imgcls_ray.images.tiff_directory import Entries, Tags

_PLANES_OF_COLOURS = {WHITE_IS_ZERO: "L", BLACK_IS_ZERO: "L", RGB: "RGB", SEPARATED: "CMYK"}
_PREMULTIPLIED, _ALPHA = 1, 2


class Planes(NamedTuple):
    """A page with separate planes: first all red samples, then all green ones."""

    mode: str
    """Pillow's mode of the planes together, a letter a plane: ``RGB``, ``LA``, ``RGBa``, ``CMYK``, ..."""
    directories: list[Entries]
    """That of each plane as a grey page, and of no other samples than those of ``mode``; for ``keep_picture``."""
    orientation: int
    """1 to 8."""


def read_planes(tiff: bytes) -> Planes | None:
    """Split a page with separate planes into its planes; None for other pages and for damaged ones.

    Pillow reads planes of 8 bits only, and without a word those of 16 bits as if they were.

    Raises:
        ImageError: ``unsupported_format`` for samples of an unknown meaning.
    """
    try:
        tags, page = read_first_ifd(tiff), read_page(tiff)
    except (struct.error, ValueError, OverflowError):
        return None
    num_samples = first_value(tags, SAMPLES_PER_PIXEL, 1)
    if first_value(tags, PLANAR_CONFIGURATION) != PLANES_APART or num_samples < 2:
        return None
    offsets_tag, counts_tag = next((pair for pair in DATA_TAGS if pair[0] in tags), DATA_TAGS[0])
    per_plane, rest = divmod(len(tags.get(offsets_tag, ())), num_samples)
    if not per_plane or rest:
        return None
    mode, samples = _samples_to_read(tags, num_samples)
    is_inverted = mode == "L" and first_value(tags, PHOTOMETRIC) == WHITE_IS_ZERO
    photometric = struct.pack(page.layout.order + "H", WHITE_IS_ZERO if is_inverted else BLACK_IS_ZERO)
    orientation = first_value(tags, ORIENTATION, UPRIGHT)
    directories = []
    for sample in samples:
        plane = {tag: page.entries[tag] for tag in TAGS_OF_PLANES if tag in tags}
        plane[offsets_tag] = page.part(offsets_tag, sample * per_plane, per_plane)
        if len(tags.get(counts_tag, ())) == per_plane * num_samples:
            plane[counts_tag] = page.part(counts_tag, sample * per_plane, per_plane)
        for tag in (BITS_PER_SAMPLE, SAMPLE_FORMAT):
            if tag in tags and len(tags[tag]):
                plane[tag] = page.part(tag, min(sample, len(tags[tag]) - 1), 1)
        plane[PHOTOMETRIC] = (SHORT, 1, photometric.ljust(len(page.pack(0)), b"\0"))
        directories.append(plane)
    return Planes(mode, directories, orientation if 1 <= orientation <= 8 else UPRIGHT)


def _samples_to_read(tags: Tags, num_samples: int) -> tuple[str, list[int]]:
    """The same choice as Pillow's where the samples of a pixel lie together."""
    photometric = first_value(tags, PHOTOMETRIC)
    mode = _PLANES_OF_COLOURS.get(photometric, "")
    num_colours = len(mode)
    extra_samples = [int(kind) for kind in tags.get(EXTRA_SAMPLES, ())]
    if mode == "RGB" and num_samples == 4 and not extra_samples:
        extra_samples = [_ALPHA]
    if not mode or num_samples != num_colours + len(extra_samples):
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT,
            f"a TIFF of {num_samples} planes stored apart, photometric {photometric}, extra samples {extra_samples}",
        )
    samples = list(range(num_colours))
    alphas = [at for at, kind in enumerate(extra_samples) if kind in (_PREMULTIPLIED, _ALPHA)]
    if not alphas:
        return mode, samples
    if mode == "CMYK" or photometric == WHITE_IS_ZERO:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"a TIFF of photometric {photometric} with alpha")
    letter = "a" if extra_samples[alphas[0]] == _PREMULTIPLIED else "A"
    return mode + letter, [*samples, num_colours + alphas[0]]

"""Numbers of TIFF: tags, values of theirs, and which tags are looked at for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Set


def among_all(numbers: Set[int]) -> np.ndarray:
    """For each number of 16 bits, whether it is one of these."""
    return np.isin(np.arange(1 << 16), sorted(numbers))


BITS_PER_SAMPLE, PHOTOMETRIC, COLOR_MAP = 258, 262, 320
NEW_SUBFILE_TYPE, WIDTH, LENGTH, COMPRESSION, FILL_ORDER, ORIENTATION = 254, 256, 257, 259, 266, 274
SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, PLANES_APART = 277, 284, 2
ROWS_PER_STRIP, PREDICTOR = 278, 317
TILE_WIDTH, TILE_LENGTH, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 338, 339
STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS = 273, 279, 324, 325
SUB_IFDS, JPEG_TABLES, DNG_VERSION = 330, 347, 50706
# Those of a page that hold for each of its planes.
TAGS_OF_PLANES = (
    WIDTH,
    LENGTH,
    COMPRESSION,
    FILL_ORDER,
    ROWS_PER_STRIP,
    PREDICTOR,
    TILE_WIDTH,
    TILE_LENGTH,
    JPEG_TABLES,
)

WHITE_IS_ZERO = 0
BLACK_IS_ZERO, RGB, SEPARATED = 1, 2, 5
INK_SET = 332

DATA_TAGS = ((STRIP_OFFSETS, STRIP_BYTE_COUNTS), (TILE_OFFSETS, TILE_BYTE_COUNTS))
_TAGS = frozenset(
    {
        *TAGS_OF_PLANES,
        *(tag for pair in DATA_TAGS for tag in pair),
        *(BITS_PER_SAMPLE, PHOTOMETRIC, NEW_SUBFILE_TYPE, ORIENTATION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION),
        *(EXTRA_SAMPLES, SAMPLE_FORMAT, SUB_IFDS, DNG_VERSION, INK_SET),
    }
)
# What Pillow and libtiff look at to find the pixels: fax options, what a file of the old JPEG compression needs, YCbCr.
_FAX_TAGS = (292, 293, 326, 327, 328)
_OLD_JPEG_TAGS = (512, 513, 514, 515, 517, 518, 519, 520, 521)
_YCBCR_TAGS = (529, 530, 531, 532)
_INK_TAGS = (332, 333, 334, 336)
NEEDED_TAGS = among_all(
    {*_TAGS, COLOR_MAP, *_FAX_TAGS, *_OLD_JPEG_TAGS, *_YCBCR_TAGS, *_INK_TAGS} - {SUB_IFDS, DNG_VERSION}
)
TAGS_READ = among_all(_TAGS)
TAGS_OF_LAYOUT = frozenset({ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH})
TAGS_OF_PIECES = frozenset(tag for pair in DATA_TAGS for tag in pair)

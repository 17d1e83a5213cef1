"""Generated files of every kind: what other readers find in them, or a code. Never other pixels."""

from __future__ import annotations

import pytest

from benchmarks.decoder_agreement import compare
from imgcls_ray.errors import ImageErrorCode
from tests.images.generated import GENERATORS

REFUSED = {("BMP", ImageErrorCode.UNSUPPORTED_FORMAT), ("TIFF", ImageErrorCode.UNSUPPORTED_FORMAT)}


@pytest.mark.parametrize(
    ("num_files", "seed"),
    [(60 * len(GENERATORS), 0), pytest.param(1500 * len(GENERATORS), 1, marks=pytest.mark.slow)],
    ids=["some", "many"],
)
def test_files_are_read_as_other_readers_read_them_or_refused(num_files: int, seed: int) -> None:
    agreement = compare(num_files, seed)
    assert not agreement.wrong, "\n".join(agreement.wrong[:20])
    assert agreement.equal.total() + agreement.refused.total() == num_files
    # Every format is read; only kinds of TIFF and BMP without an agreed meaning, or that Pillow does not know, are not.
    assert set(agreement.equal) == {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JXL", "PNG", "TIFF", "WEBP"}
    assert set(agreement.refused) <= REFUSED
    assert agreement.equal.total() > 0.75 * num_files

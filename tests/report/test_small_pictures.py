"""Pictures of pages are decoded in processes of their own, which an image may end or hold for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.measure import views
from imgcls_ray.report.small_pictures import SmallPicture, small_pictures
from imgcls_ray.storage import FetchLimits
from tests.workers.survival import POISON, poison

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_an_image_that_ends_or_holds_the_decoder_costs_its_own_picture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(POISON)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.new("RGB", (400, 100), "red").save(path)
    poison(paths[1], "CRASH")
    poison(paths[2], "LOOP")
    paths[3].unlink()
    box = f"{paths[4]}#box=0,0,50,100"
    versions = [(str(path), None) for path in paths[:4]] + [(box, None)]
    good, crashed, late, gone, crop = small_pictures(versions, 40, FetchLimits(), DecodeLimits(timeout_s=1))
    assert isinstance(good, SmallPicture)
    assert isinstance(crop, SmallPicture)
    headers = [read_jpeg_header(one.jpeg) for one in (good, crop)]
    assert [(header.width, header.height) for header in headers] == [(40, 10), (20, 40)]
    assert np.array_equal(good.looks, views(decode_image(paths[0].read_bytes())))
    assert "signal 11" in str(crashed)
    assert "more than 1 s" in str(late)
    assert "there is no such file" in str(gone)


def test_of_nothing_there_are_no_pictures() -> None:
    assert list(small_pictures([], 40, FetchLimits(), DecodeLimits())) == []

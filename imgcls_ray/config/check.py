"""One check of a labelled dataset, and the split before it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.limits import ReadLimits


class SplitOptions(StrictModel):
    """How a check splits the dataset anew before it looks at it: as ``imgcls split`` does."""

    enable: bool = False
    """Split before checking. The lists that were there are kept as ``*.bak``."""
    train_percent: float | None = Field(default=None, gt=0, le=100)
    """Share of the images to train with."""
    val_percent: float | None = Field(default=None, gt=0, le=100)
    """Share to validate with; with the others it adds up to 100."""
    test_percent: float = Field(default=0, ge=0, le=100)
    """Share to test with; 0 makes no test split."""
    seed: int = 0
    """Of the shuffle."""
    group_by: str | None = None
    """Regular expression on paths: images for which its first group is the same stay in one split."""

    @model_validator(mode="after")
    def _has_its_shares(self) -> Self:
        if self.enable and (self.train_percent is None or self.val_percent is None):
            raise ValueError("split.enable needs split.train_percent and split.val_percent, e.g. 90 and 10")
        return self


class CheckConfig(ReadLimits):
    """One check of a labelled dataset: ``imgcls check`` and ``jobs/check_dataset.py``."""

    dataset: str
    """Folder (local or ``s3://``) with train.txt, val.txt and label.txt, or of class folders; or a .csv or .parquet
    file with the columns uri, label and maybe split."""
    output: str = "output"
    """Where the result goes: a folder or ``s3://bucket/prefix``."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Between path and class id of the lists. Default: spaces or a tab, whichever is last in a line."""
    split: SplitOptions = SplitOptions()
    """Split the dataset before checking it."""

    dark_below: float = Field(default=12.0, ge=0, le=255)
    """Mean brightness under which a picture is ``dark``: photographs at night are at 20 and more."""
    bright_above: float = Field(default=243.0, ge=0, le=255)
    """Mean brightness over which a picture is ``bright``: products on white are at 200 to 240."""
    uniform_below: float = Field(default=2.0, ge=0)
    """Standard deviation at 32 x 32 pixels under which a picture is ``uniform``: an 8-bit JPEG of one colour has less
    than 1, fog has 5."""
    blurred_below: float = Field(default=4.0, ge=0)
    """Variance of the Laplacian under which a picture is ``blurred``: only what was far out of focus, enlarged several
    times, or drawn without edges has so little."""
    tiny_below: int = Field(default=32, ge=1)
    """Short side in pixels under which a picture is ``tiny``: networks see 224, so nearly all pixels are made up."""
    odd_shape_above: float = Field(default=4.0, ge=1)
    """Long side by short side over which a picture has an ``odd_shape``: a square crop loses three quarters of it."""
    imbalance_above: float = Field(default=20.0, ge=1)
    """Images of the largest class by those of the smallest over which classes are out of balance; training without
    weights then sees the small ones hardly ever."""
    near_duplicate_bits: int = Field(default=6, ge=0, le=7)
    """Bits of 128 in which the perceptual hashes of nearly equal pictures may differ; up to 7 every pair is found among
    two million images."""
    near_duplicate_difference: float = Field(default=5.0, ge=0, le=255)
    """Mean difference of the pixels of nearly equal pictures at 32 x 32, 0 to 255: a picture saved again has 1 to 2."""
    max_findings: PositiveInt = 10_000
    """Findings of one code that are written down; all are counted."""
    seed: int = 0
    """Of the choice of pictures that the report shows."""

    num_workers: PositiveInt | None = None
    """Actors that fetch, decode and measure, one core each. Default: all the cores."""

"""One check of a labelled dataset, and the split before it."""

from __future__ import annotations

import math
from typing import ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.dataset import Labelled
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.config.workers import RunsBlocks


def refuse_shares(**percents: float | None) -> None:
    """Refuse percentages that add up to 1.

    Raises:
        ValueError: with the percentages that were meant.
    """
    given = {key: value for key, value in percents.items() if value}
    if math.isclose(sum(given.values()), 1, rel_tol=1e-6):
        told = " and ".join(f"{key}={value:g}" for key, value in given.items())
        meant = " and ".join(f"{100 * value:g}" for value in given.values())
        raise ValueError(f"{told} are shares of 1, and percentages are needed; give {meant}")


class SplitRules(StrictModel):
    """How a dataset is split, besides the shares that must be given."""

    test_percent: float = Field(default=0, ge=0, le=100)
    """Percentage of the images for testing; 0 makes no test split."""
    seed: int = 0
    """Random seed of the split."""
    group_by: str | None = None
    """Regular expression that is searched in every path. Images with the same first group (without a group: the same
    match) stay in one split. ``near-duplicates``: every image is read, and equal and nearly equal pictures stay in one
    split."""


class SplitOptions(SplitRules):
    """How a check splits the dataset anew before it looks at it: as ``imgcls split`` does."""

    enable: bool = False
    """Split the dataset before the check. Lists that are replaced are kept as ``*.bak``."""
    train_percent: float | None = Field(default=None, gt=0, le=100)
    """Percentage of the images for training."""
    val_percent: float | None = Field(default=None, gt=0, le=100)
    """Percentage of the images for validation; all percentages add up to 100."""

    @model_validator(mode="after")
    def _has_its_shares(self) -> Self:
        if self.enable and (self.train_percent is None or self.val_percent is None):
            raise ValueError("split.enable needs split.train_percent and split.val_percent, e.g. 90 and 10")
        refuse_shares(train_percent=self.train_percent, val_percent=self.val_percent, test_percent=self.test_percent)
        return self


class SplitConfig(Labelled, SplitRules, RunsBlocks, ReadLimits):
    """One split of a labelled dataset: ``imgcls split``."""

    help_sections: ClassVar = {"num_workers": "Reading images (--group-by near-duplicates)"}

    data: str = Field(examples=["DATASET"])
    """Labelled dataset: a folder (local, ``s3://``, ``gs://`` or ``az://``) with train.txt, val.txt, test.txt
    (``path id`` in each line), or of class folders; or a .csv or .parquet file with the columns uri and label."""
    train_percent: float
    """Percentage of the images for training."""
    val_percent: float
    """Percentage of the images for validation; all percentages add up to 100."""
    num_workers: PositiveInt | None = None
    """Number of workers that read images, one core each. Default: all cores."""

    @model_validator(mode="after")
    def _are_percentages(self) -> Self:
        refuse_shares(train_percent=self.train_percent, val_percent=self.val_percent, test_percent=self.test_percent)
        return self


class CheckConfig(Labelled, RunsBlocks, ReadLimits):
    """One check of a labelled dataset: ``imgcls check`` and ``jobs/check_dataset.py``."""

    help_sections: ClassVar = {"num_workers": "Workers", "dark_below": "Thresholds of warnings"}
    renamed_keys: ClassVar = {"dataset": "data", **ReadLimits.renamed_keys}

    output: str = "output"
    """Folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``) for the report."""
    split: SplitOptions = SplitOptions()
    """Split that is made before the check, a table: ``split.enable``, ``split.train_percent`` and so on."""
    max_findings: PositiveInt = 10_000
    """Largest number of findings of one code in the report; further ones are only counted."""
    seed: int = 0
    """Random seed for choosing the pictures in the report."""
    num_workers: PositiveInt | None = None
    """Number of workers that fetch, decode and measure, one core each. Default: all cores."""

    dark_below: float = Field(default=12.0, ge=0, le=255)
    """Mean brightness, 0 to 255, below which a picture is ``dark``. Photographs taken at night have 20 or more."""
    bright_above: float = Field(default=243.0, ge=0, le=255)
    """Mean brightness, 0 to 255, above which a picture is ``bright``. Products on a white background have 200 to
    240."""
    uniform_below: float = Field(default=2.0, ge=0)
    """Standard deviation of the pixels, at 32 x 32, below which a picture is ``uniform``. A JPEG of one colour has less
    than 1, fog has 5."""
    blurred_below: float = Field(default=4.0, ge=0)
    """Variance of the Laplacian below which a picture is ``blurred``. Such low values occur only in pictures that are
    far out of focus, enlarged several times, or drawn without edges."""
    tiny_below: int = Field(default=32, ge=1)
    """Short side in pixels below which a picture is ``tiny``. Networks see 224 pixels, so most pixels would be
    interpolated."""
    odd_shape_above: float = Field(default=4.0, ge=1)
    """Ratio of long to short side above which a picture has an ``odd_shape``. At 4, a square crop loses three quarters
    of the picture."""
    imbalance_above: float = Field(default=20.0, ge=1)
    """Ratio of the largest to the smallest class, in images, above which classes are out of balance. Training without
    class weights then hardly ever sees the small classes."""
    near_duplicate_bits: int = Field(default=6, ge=0, le=7)
    """Largest number of bits, of 128, in which the perceptual hashes of nearly equal pictures differ, or those of a
    picture and a view of the other one (mirrored, cropped, without its border). Among more than two million pictures,
    pairs that differ in more than 3 bits may be missed."""
    near_duplicate_difference: float = Field(default=5.0, ge=0, le=255)
    """Largest mean difference of the pixels (0 to 255, at 32 x 32) of nearly equal pictures, brought to the same
    brightness and contrast, without the tenth that differs most. A picture that was saved again differs by 1 to 2."""

"""One check of a labelled dataset, and the split before it."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.dataset import Labelled
from imgcls_ray.config.limits import ReadLimits


class SplitRules(StrictModel):
    """How a dataset is split, besides the shares that must be given."""

    test_percent: float = Field(default=0, ge=0, le=100)
    """Percentage of the images for testing; 0 makes no test split."""
    seed: int = 0
    """Random seed of the split."""
    group_by: str | None = None
    """Regular expression on paths. Images whose first group, or else whole match, is the same stay in one split."""


class SplitOptions(SplitRules):
    """How a check splits the dataset anew before it looks at it: as ``imgcls split`` does."""

    enable: bool = False
    """Split the dataset before checking it. The lists that were there are kept as ``*.bak``."""
    train_percent: float | None = Field(default=None, gt=0, le=100)
    """Percentage of the images for training."""
    val_percent: float | None = Field(default=None, gt=0, le=100)
    """Percentage of the images for validation; all percentages add up to 100."""

    @model_validator(mode="after")
    def _has_its_shares(self) -> Self:
        if self.enable and (self.train_percent is None or self.val_percent is None):
            raise ValueError("split.enable needs split.train_percent and split.val_percent, e.g. 90 and 10")
        return self


class SplitConfig(Labelled, SplitRules):
    """One split of a labelled dataset: ``imgcls split``."""

    data: str = Field(examples=["DATASET"])
    """Labelled dataset: a folder with train.txt, val.txt, test.txt (``path id`` in each line), or of class folders."""
    train_percent: float
    """Percentage of the images for training."""
    val_percent: float
    """Percentage of the images for validation; all percentages add up to 100."""


class CheckConfig(Labelled, ReadLimits):
    """One check of a labelled dataset: ``imgcls check`` and ``jobs/check_dataset.py``."""

    help_sections: ClassVar = {"dark_below": "What is worth a warning"}
    renamed_keys: ClassVar = {"dataset": "data"}

    output: str = "output"
    """Folder or ``s3://bucket/prefix`` for the report."""
    split: SplitOptions = SplitOptions()
    """Shares and seed of a split before the check; see its own keys."""
    max_findings: PositiveInt = 10_000
    """Largest number of findings of one code that are written down; all are counted."""
    seed: int = 0
    """Random seed that chooses the pictures in the report."""
    num_workers: PositiveInt | None = None
    """Number of actors that fetch, decode and measure, one core each. Default: all the cores."""

    dark_below: float = Field(default=12.0, ge=0, le=255)
    """Mean brightness under which a picture is ``dark``. Photographs at night have 20 and more."""
    bright_above: float = Field(default=243.0, ge=0, le=255)
    """Mean brightness over which a picture is ``bright``. Products on white have 200 to 240."""
    uniform_below: float = Field(default=2.0, ge=0)
    """Standard deviation at 32 x 32 pixels under which a picture is ``uniform``. An 8-bit JPEG of one colour has less
    than 1, fog has 5."""
    blurred_below: float = Field(default=4.0, ge=0)
    """Variance of the Laplacian under which a picture is ``blurred``. Only pictures that are far out of focus, enlarged
    several times, or drawn without edges have so little."""
    tiny_below: int = Field(default=32, ge=1)
    """Short side in pixels under which a picture is ``tiny``. Networks see 224, so nearly all pixels are made up."""
    odd_shape_above: float = Field(default=4.0, ge=1)
    """Ratio of long to short side over which a picture has an ``odd_shape``. A square crop loses three quarters of
    it."""
    imbalance_above: float = Field(default=20.0, ge=1)
    """Ratio of the largest to the smallest class, in images, over which classes are out of balance. Training without
    class weights then hardly ever sees the small ones."""
    near_duplicate_bits: int = Field(default=6, ge=0, le=7)
    """Number of bits, of 128, in which the perceptual hashes of nearly equal pictures may differ. Up to 7, every pair
    among two million images is found."""
    near_duplicate_difference: float = Field(default=5.0, ge=0, le=255)
    """Mean difference, 0 to 255, of the pixels of nearly equal pictures at 32 x 32. A picture saved again has 1 to
    2."""

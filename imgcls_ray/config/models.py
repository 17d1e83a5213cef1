"""What the commands that list networks and make model folders are told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from imgcls_ray.config.base import StrictModel
from imgcls_ray.config.limits import ObjectStorage


class ListModelsConfig(StrictModel):
    """Which networks of the zoo are listed: ``imgcls models``."""

    family: str | None = None
    """List only networks of this family, e.g. ResNet."""
    max_params: float | None = Field(default=None, ge=0)
    """List only networks of at most this many million parameters."""
    min_top1: float | None = Field(default=None, ge=0, le=100)
    """List only networks of at least this published accuracy, in percent."""
    pretrained: bool = False
    """List only networks that timm has pretrained weights for."""
    json_: bool = Field(default=False, alias="json")
    """Print JSON with every detail, for programs."""

    @field_validator("min_top1")
    @classmethod
    def _is_no_share(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < 1:
            raise ValueError(f"must be in percent, e.g. {100 * value:g}")
        return value


class NewModelConfig(ObjectStorage):
    """One model folder to make: ``imgcls models new``."""

    name: str
    """Name of the network, e.g. PP-LCNet_x1_0 (``imgcls models`` lists all), or timm:NAME for another one of timm's."""
    output: str
    """Folder to create for the model, on this machine."""
    num_classes: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of classes of the network. Default: as many as the weights have. Another number gives the network a random
    head that must be trained."""
    labels: str | None = None
    """File with the class names: a text with one in each line or ``id name`` (PaddleX's label.txt), a .csv file with
    the columns name and maybe id, or a .json file (a list, names by id, or Hugging Face's config.json)."""
    pretrained: bool = False
    """Use timm's pretrained weights. This is the default without ``weights`` and ``random``."""
    weights: str | None = None
    """Weights to use: a model folder, .safetensors, a state dict of torch or timm, or PaddleClas' .pdparams."""
    random: bool = False
    """Use random weights, for benchmarks."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Random seed of the random weights."""
    decode: Literal["full", "scaled"] | None = None
    """Decoding of the model's images. ``scaled``: large JPEGs at 1/2, 1/4 or 1/8 of their size, which is faster and
    changes the network's input slightly. Default: that of the model folder of ``weights``, else ``full``."""

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        if (self.weights is not None) + self.random + self.pretrained > 1:
            raise ValueError("--pretrained, --weights and --random exclude each other")
        if "://" in self.output and not self.output.lower().startswith("file://"):
            raise ValueError(f"{self.output}: a model folder is made on this machine; copy it to the bucket afterwards")
        return self

"""One export of a model to a format of other runtimes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.dataset import NamesSplits, SplitFolders
from imgcls_ray.config.limits import ReadLimits

_MIN_AGREEMENT = 0.995
_MIN_AGREEMENT_INT8 = 0.99
_LIMITS_OF_INT8 = frozenset({"max_accuracy_drop", "min_speedup"})


class ExportConfig(NamesSplits, ReadLimits):
    """One export: ``imgcls export`` and ``jobs/export.py``."""

    help_sections: ClassVar = {"images": "Comparison with the original"}

    model: str
    """Model folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``), or a name of the zoo with pretrained
    weights."""
    output: str
    """Folder to create for the exported model; it must not exist."""
    format: Literal["onnx", "openvino", "torch_export"]
    """Format to export to. ``onnx`` writes model.onnx, ``openvino`` model.xml and model.bin, ``torch_export``
    model.pt2."""
    int8: bool = False
    """Quantize weights and activations to 8 bits, calibrated on ``images``. Not for torch_export."""
    images: str | None = None
    """Real images for comparison and calibration: a dataset (its val split; its labels also give the accuracy), a
    folder, ``s3://bucket/prefix/`` (``gs://``, ``az://``, ``hf://``), a glob or a list. Default: the comparison uses
    generated pictures."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Text between path and class id in the lists, if ``images`` is a dataset. Default: the last run of spaces or the
    last tab of a line."""
    split_folders: SplitFolders | None = None
    """Folders of the splits, if ``images`` is a dataset of class folders, e.g. ``train=Training,val=a/Testing``;
    ``none`` if its first folders are the classes. Default: found by names such as train, Valid or testing."""
    num_images: PositiveInt = 512
    """Number of images to compare, taken evenly from all ``images``."""
    num_calibration_images: PositiveInt = 300
    """Number of images for calibrating ``int8``; of a dataset, from its train split. None of them is compared."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of images, 0 to 1, that must get the same top-1 label as from the original; below it nothing is
    exported. With ``int8``, only images with a score of at least 0.5 count. Default: 0.995; with ``int8`` 0.99, or none
    if the labels of a dataset give the accuracy."""
    max_accuracy_drop: float = Field(default=0.005, ge=0, le=1)
    """Largest loss of accuracy by ``int8``, 0 to 1, on the labelled images of a dataset; above it nothing is
    exported. It cannot be given without such labels."""
    min_speedup: float = Field(default=1.0, ge=0)
    """Smallest number of images/s with ``int8`` on this processor, as a multiple of the original's; below it nothing is
    exported. 0: export for another processor, or for the smaller files."""

    @property
    def needed_agreement(self) -> float:
        if self.min_agreement is not None:
            return self.min_agreement
        return _MIN_AGREEMENT_INT8 if self.int8 else _MIN_AGREEMENT

    @model_validator(mode="after")
    def _int8_needs_images(self) -> Self:
        if self.int8 and self.format == "torch_export":
            raise ValueError("int8 is for format=onnx and format=openvino")
        if self.int8 and self.images is None:
            raise ValueError("int8 is calibrated on real images; give images=DATASET or a folder of them")
        return self

    @model_validator(mode="after")
    def _limits_of_int8_need_it(self) -> Self:
        if not self.int8 and (given := sorted(_LIMITS_OF_INT8 & self.model_fields_set)):
            raise ValueError(f"{given[0]} is a limit of int8 alone; give int8=true, or leave it out")
        return self

"""The description of a model: everything in its folder but the weights, as ``model.json``.

Its ``fingerprint`` names the combination of weights, preprocessing and class names.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_serializer, model_validator

from imgcls_ray.config import StrictModel, clipped, shown_text
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture
from imgcls_ray.models.calibration import Calibration
from imgcls_ray.models.class_names import names_apart

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "model.json"
MAX_SPEC_BYTES = 16 * 2**20
"""Of ``model.json``: the 21,841 names of ImageNet take one."""
_MAX_CLASSES = 1_000_000
_MAX_FACTS = 1000

ExportFormat = Literal["onnx", "openvino", "torch_export"]
EXPORTED_FILES: Mapping[ExportFormat, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "torch_export": ("model.pt2",),
}


class Exported(StrictModel):
    """What stands in an exported folder in place of ``model.safetensors``."""

    format: ExportFormat
    """Format of the exported network."""
    precision: Literal["fp32", "int8"]
    """Precision of the exported weights and activations."""
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    """Hash (SHA-256) of each file of the network, by its name."""
    source_fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """Fingerprint of the model folder that was exported."""

    @model_validator(mode="after")
    def _files_are_those_of_the_format(self) -> Self:
        # Files are read and copied by these names: a name of someone's own could lead out of the folder.
        if sorted(self.files) != sorted(EXPORTED_FILES[self.format]):
            raise ValueError(f"{self.format} has the files {', '.join(EXPORTED_FILES[self.format])}")
        return self


class ModelSpec(StrictModel):
    """The content of ``model.json``."""

    # "model_" is pydantic's own namespace and the field's word for what this describes.
    model_config = ConfigDict(protected_namespaces=())

    format_version: Literal[1] = 1
    """Version of the format of ``model.json``."""
    name: str = Field(max_length=1000)
    """Name of the model: that of the zoo, or one that was given."""
    architecture: Architecture
    """Network that the weights belong to."""
    class_names: tuple[str, ...] = Field(min_length=1, max_length=_MAX_CLASSES)
    """Names of the classes, in the order of the network's outputs. Two classes may have one name."""
    preprocess: Preprocess
    """Preprocessing of every image before the network."""
    metrics: dict[str, float] = Field(default_factory=dict, max_length=_MAX_FACTS)
    """Metrics of training or of the last evaluation. The fingerprint does not cover them."""
    calibration: Calibration | None = None
    """Calibration that an evaluation fitted: temperature and thresholds. The fingerprint does not cover it either."""
    versions: dict[str, str] = Field(default_factory=dict, max_length=_MAX_FACTS)
    """Versions of the libraries that wrote the folder."""
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash (SHA-256) of ``model.safetensors``; in an exported folder, of the original's."""
    exported: Exported | None = None
    """Format and files of an exported network; null in other folders."""
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash (SHA-256) of what decides labels: network, weights, class names and preprocessing."""

    @field_serializer("preprocess")
    def _preprocess_of_before(self, preprocess: Preprocess) -> dict[str, Any]:
        # Folders of before have no such key, and a whole decoding must keep their fingerprint.
        values = asdict(preprocess)
        return values if preprocess.decode != "full" else {k: v for k, v in values.items() if k != "decode"}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def fitted(self) -> Calibration:
        """What was fitted to the model, if anything was."""
        # Earlier versions kept the temperature among the metrics.
        return self.calibration or Calibration(temperature=self.metrics.get("temperature"))

    @property
    def names_apart(self) -> tuple[str, ...]:
        """The class names for tables and pictures: where two classes share one, with their ids."""
        return names_apart(self.class_names)

    @property
    def files(self) -> dict[str, str]:
        """sha256 of each file that the folder has beside ``model.json``, by name."""
        return {WEIGHTS_FILE: self.weights_sha256} if self.exported is None else self.exported.files


def read_spec(path: Path) -> ModelSpec:
    """Read a ``model.json`` and check it in itself.

    Raises:
        ModelFolderError: it is unreadable, or was edited.
    """
    return parse_spec(read_spec_file(path), str(path))


def read_spec_file(path: Path) -> bytes:
    """What stands in a ``model.json``, at most ``MAX_SPEC_BYTES`` and one byte.

    Raises:
        ModelFolderError: it cannot be read, or is no file.
    """
    try:
        # A pipe without a writer would never open, and a device never end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ModelFolderError(f"{path}: is a pipe, device or socket, not a file")
            return file.read(MAX_SPEC_BYTES + 1)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error


def parse_spec(content: bytes, where: str) -> ModelSpec:
    """Check what stands in a ``model.json`` in itself.

    Raises:
        ModelFolderError: it is no model description, or was edited.
    """
    if len(content) > MAX_SPEC_BYTES:
        raise ModelFolderError(f"{where}: larger than {MAX_SPEC_BYTES >> 20} MiB, not a model description")
    try:
        spec = ModelSpec.model_validate_json(content)
    except ValidationError as error:
        raise ModelFolderError(clipped(f"{where}: {_told(error)}")) from None
    if spec.fingerprint != _fingerprint(spec.model_dump(mode="json")):
        raise ModelFolderError(
            f"{where}: weights, preprocessing, class names and fingerprint do not belong together: the file was "
            "edited; use the folder exactly as it was written"
        )
    return spec


def make_spec(*, architecture: Architecture, preprocess: Preprocess, weights_sha256: str, **parts: Any) -> ModelSpec:
    """Describe a model of these libraries; its other parts are fields of ``ModelSpec``.

    Raises:
        ModelFolderError: the parts do not fit together.
    """
    values = {
        "format_version": 1,
        **parts,
        "architecture": asdict(architecture),
        "preprocess": asdict(preprocess),
        "weights_sha256": weights_sha256,
        "versions": {package: version(package) for package in ("imgcls-ray", "torch", "timm")},
    }
    try:
        draft = ModelSpec.model_validate({**values, "fingerprint": "0" * 64})
        return ModelSpec.model_validate({**values, "fingerprint": _fingerprint(draft.model_dump(mode="json"))})
    except ValidationError as error:
        raise ModelFolderError(clipped(_told(error))) from error


def fingerprint_with(spec: ModelSpec, preprocess: Preprocess) -> str:
    """The fingerprint of the same network and classes with another preprocessing."""
    return _fingerprint(spec.model_copy(update={"preprocess": preprocess}).model_dump(mode="json"))


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Write a folder's ``model.json``."""
    (folder / SPEC_FILE).write_bytes(spec_json(spec))


def spec_json(spec: ModelSpec) -> bytes:
    """The content of ``model.json``."""
    # Without what is not there: the folder of an ordinary model says nothing of exports.
    return spec.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"


def _fingerprint(spec: dict[str, Any]) -> str:
    """Hash what decides labels: network, weights, preprocessing and class names in order."""
    parts = {key: spec[key] for key in ("architecture", "weights_sha256", "preprocess", "class_names")}
    # The same network in another runtime is another one: other arithmetic may give other labels.
    if spec.get("exported") is not None:
        parts["exported"] = spec["exported"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _told(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(shown_text(str(part)) for part in problem["loc"])
    return f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}"

"""The model folder: the only thing that training hands to the rest.

``model.safetensors`` (weights, never pickle) and ``model.json`` (everything else). Its ``fingerprint`` names the
combination of weights, preprocessing and class names; two folders with one fingerprint give the same labels. Loading
refuses, with the reason, whatever does not fit together.

An exported folder (``imgcls export``) has the network of another runtime in place of the weights, a fingerprint of its
own, and the same strictness.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_serializer, model_validator

from imgcls_ray.config import StrictModel, clipped, shown, shown_text
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture, build_network, no_memory
from imgcls_ray.models.class_names import names_apart
from imgcls_ray.models.foreign import foreign_file, foreign_folder
from imgcls_ray.storage import DEFAULT_S3, open_directory
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from imgcls_ray.storage.s3 import S3Options

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "model.json"
MAX_SPEC_BYTES = 16 * 2**20
"""Of ``model.json``: the 21,841 names of ImageNet take one."""
_MAX_NETWORK_BYTES = 16 * 2**30
"""Of one file of a network: the largest of timm take 8 GiB. Files with holes may claim any size, and cost their reader
as much."""
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
    """Metrics of training or of the last evaluation, and its temperature. The fingerprint does not cover them."""
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
    def names_apart(self) -> tuple[str, ...]:
        """The class names for tables and pictures: where two classes share one, with their ids."""
        return names_apart(self.class_names)

    @property
    def files(self) -> dict[str, str]:
        """sha256 of each file that the folder has beside ``model.json``, by name."""
        return {WEIGHTS_FILE: self.weights_sha256} if self.exported is None else self.exported.files


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was read and fits together."""

    path: Path
    spec: ModelSpec
    takes_bundle: bool = True
    """Whether the converted network that lies in it may run: its fingerprint does not cover that one."""

    @property
    def num_bytes(self) -> int:
        """Of the network, as stored."""
        return sum((self.path / name).stat().st_size for name in self.spec.files)

    def load_network(self) -> nn.Module:
        """Build the network with the folder's weights, in eval mode, on the CPU.

        Raises:
            ModelFolderError: the weights do not fit the network, or are not finite; an exported folder has none.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        spec = self.spec
        if spec.exported is not None:
            raise ModelFolderError(
                f"{self.path}: was exported to {spec.exported.format} and has no weights for training or another "
                "export; give the model folder that it was exported from"
            )
        try:
            # Compared without memory first: a network of as many outputs as model.json likes must be in the file, too.
            with no_memory():
                skeleton = build_network(spec.architecture, num_classes=spec.num_classes)
            _check_weights_fit(self, skeleton, _stored_weights(self.path / WEIGHTS_FILE))
            weights = load_file(self.path / WEIGHTS_FILE)
            network = build_network(spec.architecture, num_classes=spec.num_classes)
        # The builders of some networks refuse sizes that are none with an error of their own kind.
        except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
            raise ModelFolderError(clipped(f"{self.path}: the network cannot be built: {error}")) from error
        except SafetensorError as error:
            raise ModelFolderError(clipped(f"{self.path / WEIGHTS_FILE}: not a safetensors file: {error}")) from error
        _check_values(self, weights)
        network.load_state_dict(weights)
        return network


def save_model_folder(
    path: Path,
    network: nn.Module,
    *,
    name: str,
    architecture: Architecture,
    class_names: Sequence[str],
    preprocess: Preprocess,
    metrics: Mapping[str, float] | None = None,
) -> ModelFolder:
    """Write a model folder in one step: it is there whole or not at all.

    Raises:
        ModelFolderError: the path is taken, or the parts do not fit together.
    """
    from safetensors.torch import save_file

    with new_folder(path) as partial:
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, partial / WEIGHTS_FILE)
        (partial / WEIGHTS_FILE).chmod(0o666 & ~_umask())
        spec = _make_spec(
            name=name,
            architecture=architecture,
            class_names=tuple(class_names),
            preprocess=preprocess,
            metrics=dict(metrics or {}),
            weights_sha256=sha256_file(partial / WEIGHTS_FILE),
        )
        _write_spec(partial, spec)
        _check_weights_fit(ModelFolder(path, spec), network, state)
        _check_values(ModelFolder(path, spec), state)
        ModelFolder(partial, spec).load_network()
    return ModelFolder(path, spec)


def describe_exported_folder(partial: Path, source: ModelSpec, fmt: ExportFormat, *, is_int8: bool) -> ModelFolder:
    """Write the ``model.json`` of a network that was exported to ``partial``.

    Raises:
        ModelFolderError: a file of the format is missing.
    """
    if missing := [name for name in EXPORTED_FILES[fmt] if not (partial / name).is_file()]:
        raise ModelFolderError(f"{partial}: the export left no {missing[0]}")
    exported = Exported(
        format=fmt,
        precision="int8" if is_int8 else "fp32",
        files={name: sha256_file(partial / name) for name in EXPORTED_FILES[fmt]},
        source_fingerprint=source.fingerprint,
    )
    spec = _make_spec(
        name=source.name,
        architecture=source.architecture,
        class_names=source.class_names,
        preprocess=source.preprocess,
        # What was measured before holds for the same numbers, not for others.
        metrics={} if is_int8 else source.metrics,
        weights_sha256=source.weights_sha256,
        exported=exported.model_dump(),
    )
    _write_spec(partial, spec)
    return ModelFolder(partial, spec)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which stands at ``path`` when the block ends well, and nowhere otherwise.

    Raises:
        ModelFolderError: the path is taken, or cannot be written.
    """
    check_is_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def update_metrics(model: str, fingerprint: str, metrics: Mapping[str, float], s3: S3Options = DEFAULT_S3) -> None:
    """Put metrics into a folder's ``model.json``, over those of the same names, in one step.

    They are no part of the fingerprint: the folder stays the same model.

    Args:
        model: path or ``s3://`` URI of the folder.
        fingerprint: of the model that was measured.

    Raises:
        ModelFolderError: another model is there now, or it was exported: then the folder that it was exported from is
            the place.
        StorageError: it cannot be written.
    """
    directory = open_directory(model, s3)
    try:
        spec = ModelSpec.model_validate_json(directory.read(SPEC_FILE))
    except (OSError, ValidationError) as error:
        raise ModelFolderError(f"{model}: {SPEC_FILE} cannot be read any more") from error
    if spec.fingerprint != fingerprint:
        raise ModelFolderError(f"{model}: was replaced by another model meanwhile")
    if spec.exported is not None:
        raise ModelFolderError(f"{model}: is an exported folder; evaluate the one that it was exported from")
    updated = spec.model_copy(update={"metrics": {**spec.metrics, **metrics}})
    directory.replace(SPEC_FILE, _spec_json(updated))


def check_is_free(path: Path) -> None:
    """Refuse a place where a model folder cannot be made, before the work is done.

    Raises:
        ModelFolderError: it is taken, or no place for a folder.
    """
    try:
        is_taken = path.is_symlink() or (os.path.exists(path) and (not path.is_dir() or any(path.iterdir())))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    if is_taken:
        raise ModelFolderError(f"{path}: already exists and is not empty; give another --output, or remove it")


def open_model_folder(path: Path) -> ModelFolder:
    """Read and check a model folder, the weights' hash included.

    Raises:
        ModelFolderError: what is missing or does not fit together.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_folder:
        none = "there is no such model folder; `imgcls models new` makes one"
        raise ModelFolderError(f"{path}: {foreign_file(path) if path.exists() else none}")
    if not os.path.lexists(path / SPEC_FILE):
        raise ModelFolderError(f"{path}: {foreign_folder(path)}")
    spec = read_spec(path / SPEC_FILE)
    for name, expected in spec.files.items():
        check_file(path, name, expected)
    return ModelFolder(path, spec)


def check_file(folder: Path, name: str, expected: str) -> None:
    """Compare a file of a network with its hash (SHA-256).

    Raises:
        ModelFolderError: it is missing, too large, unreadable or another one.
    """
    path = folder / name
    if not path.is_file():
        raise ModelFolderError(f"{folder}: has no {name}; use the folder exactly as it was written")
    try:
        if (num_bytes := path.stat().st_size) > _MAX_NETWORK_BYTES:
            raise ModelFolderError(
                f"{path}: {num_bytes:,} bytes; the file of a network has at most {_MAX_NETWORK_BYTES >> 30} GiB"
            )
        found = sha256_file(path)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error
    if found != expected:
        raise ModelFolderError(
            f"{folder}: {name} is not the file that {SPEC_FILE} describes "
            f"(sha256 {found[:12]}…, expected {expected[:12]}…); use the folder exactly as it was written"
        )


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


def _told(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(shown_text(str(part)) for part in problem["loc"])
    return f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}"


def _make_spec(*, architecture: Architecture, preprocess: Preprocess, weights_sha256: str, **parts: Any) -> ModelSpec:
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


def _fingerprint(spec: dict[str, Any]) -> str:
    """Hash what decides labels: network, weights, preprocessing and class names in order."""
    parts = {key: spec[key] for key in ("architecture", "weights_sha256", "preprocess", "class_names")}
    # The same network in another runtime is another one: other arithmetic may give other labels.
    if spec.get("exported") is not None:
        parts["exported"] = spec["exported"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def fingerprint_with(spec: ModelSpec, preprocess: Preprocess) -> str:
    """The fingerprint of the same network and classes with another preprocessing."""
    return _fingerprint(spec.model_copy(update={"preprocess": preprocess}).model_dump(mode="json"))


@dataclass(frozen=True)
class _Stored:
    """A tensor of a safetensors file, not yet read."""

    shape: tuple[int, ...]
    dtype: str

    def is_floating_point(self) -> bool:
        return "F" in self.dtype


def _stored_weights(path: Path) -> dict[str, _Stored]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: _Stored(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def _check_weights_fit(folder: ModelFolder, network: nn.Module, weights: Mapping[str, torch.Tensor | _Stored]) -> None:
    """Compare names, shapes and kinds; values are not looked at."""
    expected = network.state_dict()
    if missing := sorted(set(expected) - set(weights)):
        raise ModelFolderError(f"{folder.path}: lacks {counted(len(missing), 'weight')}, first {missing[0]!r}")
    if extra := sorted(set(weights) - set(expected)):
        raise ModelFolderError(
            f"{folder.path}: has {counted(len(extra), 'weight')} not of this network, first {shown(extra[0])}"
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise ModelFolderError(
                f"{folder.path}: {key} has shape {tuple(tensor.shape)}, but the network with the "
                f"{folder.spec.num_classes} classes of {SPEC_FILE} needs {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise ModelFolderError(f"{folder.path}: {key} holds {tensor.dtype}, the network has {expected[key].dtype}")


def _check_values(folder: ModelFolder, weights: Mapping[str, torch.Tensor]) -> None:
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelFolderError(f"{folder.path}: {key} holds values that are not finite numbers")


def _write_spec(folder: Path, spec: ModelSpec) -> None:
    (folder / SPEC_FILE).write_bytes(_spec_json(spec))


def _spec_json(spec: ModelSpec) -> bytes:
    # Without what is not there: the folder of an ordinary model says nothing of exports.
    return spec.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"


def sha256_file(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

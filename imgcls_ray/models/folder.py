"""The model folder: the only thing that training hands to the rest.

``model.safetensors`` (weights, never pickle) and ``model.json`` (everything else). Its ``fingerprint`` names the
combination of weights, preprocessing and class names; two folders with one fingerprint give the same labels. Loading
refuses, with the reason, whatever does not fit together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from imgcls_ray.config import StrictModel
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture, build_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "model.json"
_MAX_SPEC_BYTES = 64 * 2**20


class ModelSpec(StrictModel):
    """The content of ``model.json``."""

    # "model_" is pydantic's own namespace and the field's word for what this describes.
    model_config = ConfigDict(protected_namespaces=())

    format_version: Literal[1] = 1
    name: str
    """Zoo name, or the name the model was given."""
    architecture: Architecture
    class_names: tuple[str, ...] = Field(min_length=1)
    """In the order of the network's outputs."""
    preprocess: Preprocess
    metrics: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the libraries that wrote the folder."""
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("class_names")
    @classmethod
    def _names_are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ValueError(f"class name {name!r} stands twice")
            seen.add(name)
        return names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was read and fits together."""

    path: Path
    spec: ModelSpec

    def load_network(self) -> nn.Module:
        """Build the network with the folder's weights, in eval mode, on the CPU.

        Raises:
            ModelFolderError: the weights do not fit the network, or are not finite.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        spec = self.spec
        try:
            network = build_network(spec.architecture, num_classes=spec.num_classes)
        except (ValueError, TypeError) as error:
            raise ModelFolderError(f"{self.path}: the network cannot be built: {error}") from error
        try:
            weights = load_file(self.path / WEIGHTS_FILE)
        except SafetensorError as error:
            raise ModelFolderError(f"{self.path / WEIGHTS_FILE}: not a safetensors file: {error}") from error
        _check_weights_fit(self, network, weights)
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

    check_is_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, partial / WEIGHTS_FILE)
        (partial / WEIGHTS_FILE).chmod(0o666 & ~_umask())
        spec = _make_spec(
            name=name,
            architecture=architecture,
            class_names=tuple(class_names),
            preprocess=preprocess,
            metrics=dict(metrics or {}),
            weights_sha256=_sha256_file(partial / WEIGHTS_FILE),
        )
        (partial / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _check_weights_fit(ModelFolder(path, spec), network, state)
        ModelFolder(partial, spec).load_network()
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ModelFolder(path, spec)


def check_is_free(path: Path) -> None:
    """Refuse a place where a model folder cannot be made, before the work is done.

    Raises:
        ModelFolderError: it is taken, or no place for a folder.
    """
    try:
        is_taken = path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir())))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be written: {error.strerror}") from error
    if is_taken:
        raise ModelFolderError(f"{path}: already exists and is not empty; give another --output, or remove it")


def open_model_folder(path: Path) -> ModelFolder:
    """Read and check a model folder, the weights' hash included.

    Raises:
        ModelFolderError: what is missing or does not fit together.
    """
    if not path.is_dir():
        what = "is a file, not a model folder" if path.exists() else "there is no such model folder"
        raise ModelFolderError(f"{path}: {what}; `imgcls models new` makes one")
    spec = _read_spec(path / SPEC_FILE)
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise ModelFolderError(f"{path}: has no {WEIGHTS_FILE}; use the folder exactly as it was written")
    try:
        found = _sha256_file(weights)
    except OSError as error:
        raise ModelFolderError(f"{weights}: cannot be read: {error.strerror}") from error
    if found != spec.weights_sha256:
        raise ModelFolderError(
            f"{path}: {WEIGHTS_FILE} is not the file that {SPEC_FILE} describes "
            f"(sha256 {found[:12]}…, expected {spec.weights_sha256[:12]}…); use the folder exactly as it was written"
        )
    return ModelFolder(path, spec)


def _read_spec(path: Path) -> ModelSpec:
    try:
        if path.stat().st_size > _MAX_SPEC_BYTES:
            raise ModelFolderError(f"{path}: larger than {_MAX_SPEC_BYTES >> 20} MiB, not a model description")
        spec = ModelSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}; is this a model folder?") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ModelFolderError(f"{path}: {where + ': ' if where else ''}{problem['msg']}") from error
    if spec.fingerprint != _fingerprint(spec.model_dump(mode="json")):
        raise ModelFolderError(
            f"{path}: weights, preprocessing, class names and fingerprint do not belong together: the file was edited; "
            "use the folder exactly as it was written"
        )
    return spec


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
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ModelFolderError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error


def _fingerprint(spec: dict[str, Any]) -> str:
    """Hash what decides labels: network, weights, preprocessing and class names in order."""
    parts = {key: spec[key] for key in ("architecture", "weights_sha256", "preprocess", "class_names")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _check_weights_fit(folder: ModelFolder, network: nn.Module, weights: Mapping[str, Any]) -> None:
    expected = network.state_dict()
    if missing := sorted(set(expected) - set(weights)):
        raise ModelFolderError(f"{folder.path}: {len(missing)} weights are missing, first {missing[0]!r}")
    if extra := sorted(set(weights) - set(expected)):
        raise ModelFolderError(f"{folder.path}: {len(extra)} weights are not of this network, first {extra[0]!r}")
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise ModelFolderError(
                f"{folder.path}: {key} has shape {tuple(tensor.shape)}, but the network with the "
                f"{folder.spec.num_classes} classes of {SPEC_FILE} needs {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise ModelFolderError(f"{folder.path}: {key} holds {tensor.dtype}, the network has {expected[key].dtype}")
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelFolderError(f"{folder.path}: {key} holds values that are not finite numbers")


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

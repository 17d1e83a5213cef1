"""The model folder: the only thing that training hands to the rest.

``model.safetensors`` (weights, never pickle) and ``model.json`` (everything else). Its ``fingerprint`` names the
combination of weights, preprocessing and class names; two folders with one fingerprint give the same labels. Loading
refuses, with the reason, whatever does not fit together.

An exported folder (``imgcls export``) has the network of another runtime in place of the weights, a fingerprint of its
own, and the same strictness.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from imgcls_ray.config import clipped
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.architecture import Architecture, build_network, no_memory
from imgcls_ray.models.calibration import Calibration
from imgcls_ray.models.fit import check_values, check_weights_fit, stored_weights
from imgcls_ray.models.foreign import foreign_file, foreign_folder
from imgcls_ray.models.spec import (
    EXPORTED_FILES,
    SPEC_FILE,
    WEIGHTS_FILE,
    Exported,
    ModelSpec,
    make_spec,
    read_spec,
    spec_json,
    write_spec,
)
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.spec import ExportFormat
    from imgcls_ray.storage.options import StorageOptions

_MAX_NETWORK_BYTES = 16 * 2**30
"""Of one file of a network: the largest of timm take 8 GiB. Files with holes may claim any size, and cost their reader
as much."""


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
            check_weights_fit(self.path, spec.num_classes, skeleton, stored_weights(self.path / WEIGHTS_FILE))
            weights = load_file(self.path / WEIGHTS_FILE)
            network = build_network(spec.architecture, num_classes=spec.num_classes)
        # The builders of some networks refuse sizes that are none with an error of their own kind.
        except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
            raise ModelFolderError(clipped(f"{self.path}: the network cannot be built: {error}")) from error
        except SafetensorError as error:
            raise ModelFolderError(clipped(f"{self.path / WEIGHTS_FILE}: not a safetensors file: {error}")) from error
        check_values(self.path, weights)
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
        spec = make_spec(
            name=name,
            architecture=architecture,
            class_names=tuple(class_names),
            preprocess=preprocess,
            metrics=dict(metrics or {}),
            weights_sha256=sha256_file(partial / WEIGHTS_FILE),
        )
        write_spec(partial, spec)
        check_weights_fit(path, spec.num_classes, network, state)
        check_values(path, state)
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
    spec = make_spec(
        name=source.name,
        architecture=source.architecture,
        class_names=source.class_names,
        preprocess=source.preprocess,
        # What was measured before holds for the same numbers, not for others.
        metrics={} if is_int8 else source.metrics,
        calibration=None if is_int8 else source.calibration,
        weights_sha256=source.weights_sha256,
        exported=exported.model_dump(),
    )
    write_spec(partial, spec)
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


def update_model(
    model: str,
    fingerprint: str,
    metrics: Mapping[str, float],
    fitted: Mapping[str, object],
    storage: StorageOptions = DEFAULT_STORAGE,
) -> None:
    """Put metrics and what was fitted into a folder's ``model.json``, over those of the same names, in one step.

    They are no part of the fingerprint: the folder stays the same model.

    Args:
        model: path or URI of the folder.
        fingerprint: of the model that was measured.
        metrics: by name.
        fitted: fields of ``Calibration``; the others stay as they are.

    Raises:
        ModelFolderError: another model is there now.
        StorageError: it cannot be written.
    """
    directory = open_directory(model, storage)
    try:
        spec = ModelSpec.model_validate_json(directory.read(SPEC_FILE))
    except (OSError, ValidationError) as error:
        raise ModelFolderError(f"{model}: {SPEC_FILE} cannot be read any more") from error
    if spec.fingerprint != fingerprint:
        raise ModelFolderError(f"{model}: was replaced by another model meanwhile")
    calibration = spec.fitted.model_copy(update=dict(fitted))
    # Earlier versions kept the temperature among the metrics.
    kept = {name: value for name, value in {**spec.metrics, **metrics}.items() if name != "temperature"}
    changes = {"metrics": kept, "calibration": None if calibration == Calibration() else calibration}
    updated = spec.model_copy(update=changes)
    directory.replace(SPEC_FILE, spec_json(updated))


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


def check_file(folder: Path, name: str, expected: str, *, record: str = SPEC_FILE) -> None:
    """Compare a file of a network with its hash (SHA-256).

    Args:
        folder, name: of the file.
        expected: its hash.
        record: name of the file that has the hash.

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
            f"{folder}: {name} is not the file that {record} describes "
            f"(sha256 {found[:12]}…, expected {expected[:12]}…); use the folder exactly as it was written"
        )


def sha256_file(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

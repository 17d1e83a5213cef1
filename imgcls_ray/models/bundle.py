"""The converted network in a model folder: with it, the first use of the folder on a machine converts nothing.

``openvino/`` holds the network in OpenVINO's format and ``network.json``, which says of which weights it was made, and
what the network says of known pictures in float32. It is no part of the model: the fingerprint does not cover it, a
folder is whole without it, and where it does not fit it is left aside. Reading it runs no code.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from imgcls_ray.config import StrictModel, clipped
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.engines.conversion import NETWORK_FILES, conversion_key, conversion_versions
from imgcls_ray.models.folder import check_file, sha256_file
from imgcls_ray.models.known_pictures import NUM_BUNDLED
from imgcls_ray.models.spec import read_spec_file

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.spec import ModelSpec

logger = logging.getLogger(__name__)

BUNDLE = "openvino"
"""Name of the folder."""
RECORD_FILE = "network.json"
BUNDLE_FILES = (*NETWORK_FILES, RECORD_FILE)
"""The record last: whoever reads it finds what it describes."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BundleRecord(StrictModel):
    """The content of ``network.json``."""

    format_version: Literal[1] = 1
    """Version of the format of ``network.json``."""
    weights_sha256: Sha256
    """Hash (SHA-256) of the ``model.safetensors`` that was converted."""
    conversion: Sha256
    """Hash of what decides the files, the versions of the libraries included."""
    files: dict[str, Sha256]
    """Hash (SHA-256) of each file of the network, by its name."""
    versions: dict[str, str] = Field(max_length=100)
    """Versions of the libraries that converted, for people."""
    logits: str
    """Logits of the first known pictures by the network in float32: (2, num_classes), little-endian, in base64."""


@dataclass(frozen=True)
class Bundle:
    """A converted network whose files are those that its record describes."""

    path: Path
    """Of the network's graph."""
    logits: np.ndarray
    """float32 (NUM_BUNDLED, num_classes)."""
    record_sha256: str
    """Hash (SHA-256) of the record, which has those of the other files."""


def read_bundle(folder: ModelFolder) -> Bundle | None:
    """The converted network of a model folder, if it was made of its weights with the versions of this machine.

    Returns:
        None if there is none for this machine; a warning says so where one is damaged.
    """
    place = folder.path / BUNDLE
    if folder.spec.exported is not None or not folder.takes_bundle or not os.path.lexists(place / RECORD_FILE):
        return None
    try:
        content = read_spec_file(place / RECORD_FILE)
        if (record := parse_record(content, folder.spec)) is None:
            return None
        for name, sha256 in record.files.items():
            check_file(place, name, sha256, record=RECORD_FILE)
        return Bundle(place / NETWORK_FILES[0], _logits(record, folder.spec), hashlib.sha256(content).hexdigest())
    except (ModelFolderError, OSError, ValueError) as error:
        _tell_left_aside(place, str(error))
        return None


@cache
def _tell_left_aside(place: Path, reason: str) -> None:
    """Once in a process, which looks for the converted network several times."""
    logger.warning("%s: the converted network is left aside: %s", place, reason)


def parse_record(content: bytes, spec: ModelSpec) -> BundleRecord | None:
    """Check what stands in a ``network.json``.

    Args:
        content: of the file.
        spec: of the model folder that it lies in.

    Returns:
        None if it is of other weights, or of other versions than this machine would convert with.

    Raises:
        ValueError: it is no such record.
    """
    try:
        record = BundleRecord.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(clipped(f"{RECORD_FILE}: {error.errors()[0]['msg']}")) from error
    if sorted(record.files) != sorted(NETWORK_FILES):
        raise ValueError(f"{RECORD_FILE}: the files of a network are {', '.join(NETWORK_FILES)}")
    if record.weights_sha256 != spec.weights_sha256 or record.conversion != conversion_key(spec, embedding=False):
        return None
    _logits(record, spec)
    return record


def _logits(record: BundleRecord, spec: ModelSpec) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(record.logits, validate=True), "<f4")
    if values.size != NUM_BUNDLED * spec.num_classes or not np.isfinite(values).all():
        raise ValueError(f"{RECORD_FILE}: the logits are not {NUM_BUNDLED} x {spec.num_classes} finite numbers")
    return values.reshape(NUM_BUNDLED, spec.num_classes).astype(np.float32)


def write_record(place: Path, spec: ModelSpec, logits: np.ndarray) -> None:
    """Describe the converted network whose files lie in ``place``.

    Args:
        place: the folder to be ``openvino/``.
        spec: of the model.
        logits: float32 (NUM_BUNDLED, num_classes).

    Raises:
        OSError: it cannot be written.
    """
    record = BundleRecord(
        weights_sha256=spec.weights_sha256,
        conversion=conversion_key(spec, embedding=False),
        files={name: sha256_file(place / name) for name in NETWORK_FILES},
        versions=conversion_versions(),
        logits=base64.b64encode(logits.astype("<f4").tobytes()).decode(),
    )
    (place / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n")

"""Converted networks that are kept on this machine, for model folders that come without theirs.

They are for this user only, with the hashes of their files, which are compared each time before they are read.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import StorageError
from imgcls_ray.models.cache import cache_dir, is_own, private_folder, replace_folder
from imgcls_ray.models.engines.conversion import NETWORK_FILES, conversion_key, convert_network
from imgcls_ray.models.engines.torch_engine import from_uint8
from imgcls_ray.models.folder import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.models.folder import ModelFolder

logger = logging.getLogger(__name__)

_HASHES_FILE = "SHA256SUMS"


def cached_path(folder: ModelFolder, *, embedding: bool) -> Path:
    """Where the converted network is, or will be."""
    key = conversion_key(folder.spec, embedding=embedding)[:32]
    return cache_dir() / "openvino" / key / NETWORK_FILES[0]


def cached_network(folder: ModelFolder, *, embedding: bool) -> Path:
    """The network as OpenVINO IR, converted once per node and kept: conversion takes seconds, loading 0.3 s.

    Raises:
        StorageError: there is no place to keep it.
        ModelFolderError: the folder's weights do not fit.
    """
    network = cached_path(folder, embedding=embedding)
    if _is_whole(network.parent):
        return network
    try:
        # All actors of a new node start at once, and each conversion takes most of a gigabyte.
        with _locked(network.parent.with_suffix(".lock")):
            if not _is_whole(network.parent):
                _convert(folder, network.parent, embedding=embedding)
    except OSError as error:
        raise StorageError(
            f"{cache_dir()}: the converted network cannot be saved there: {error.strerror or error}; "
            "set IMGCLS_CACHE to a folder that you can write to and that has space"
        ) from error
    return network


def _is_whole(kept: Path) -> bool:
    """Whether a kept network is this user's own and still what was written: it is run without further questions."""
    try:
        if not is_own(kept) or not all(is_own(kept / name) for name in (*NETWORK_FILES, _HASHES_FILE)):
            return False
        if (kept / _HASHES_FILE).read_text() != _hashes(kept):
            raise ValueError
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        logger.warning("%s: the converted network was changed or damaged; it is converted again", kept)
        return False
    return True


def _hashes(kept: Path) -> str:
    """As ``sha256sum`` writes and checks them."""
    return "".join(f"{sha256_file(kept / name)}  {name}\n" for name in NETWORK_FILES)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; a process that dies lets go of it."""
    private_folder(path.parent)
    with path.open("a") as file:
        # A file system without locks costs a conversion per process; whoever is first keeps the network.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(folder: ModelFolder, kept: Path, *, embedding: bool) -> None:
    """Convert and keep, in one step: the name is there whole or not at all."""
    network = from_uint8(folder, embedding=embedding)
    partial = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    try:
        convert_network(network, folder.spec.preprocess.crop_size, partial)
        (partial / _HASHES_FILE).write_text(_hashes(partial))
        for name in (*NETWORK_FILES, _HASHES_FILE):
            (partial / name).chmod(0o600)
        replace_folder(partial, kept, is_good=lambda: _is_whole(kept))
    finally:
        shutil.rmtree(partial, ignore_errors=True)

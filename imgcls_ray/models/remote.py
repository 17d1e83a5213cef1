"""Model folders on object storage: copied once to this machine, and opened like any other.

Every file is kept under the hash of its content, and no copy is read before its content was compared with that hash.
So two folders share what is equal in them, and none can take the place of another's copy, not even with its
fingerprint. A copy that was damaged is fetched again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImgclsError, ModelFolderError
from imgcls_ray.models.bundle import BUNDLE, RECORD_FILE, parse_record
from imgcls_ray.models.cache import cache_dir, private_folder, replace_folder
from imgcls_ray.models.folder import ModelFolder, open_model_folder, sha256_file
from imgcls_ray.models.spec import MAX_SPEC_BYTES, SPEC_FILE, parse_spec
from imgcls_ray.storage import open_directory, open_file

if TYPE_CHECKING:
    from imgcls_ray.models.spec import ModelSpec
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)


def open_remote_folder(uri: str, storage: StorageOptions) -> ModelFolder:
    """Open the model folder on object storage; its copy is kept under the cache, by its content.

    Raises:
        ModelFolderError: there is none, or it does not fit together.
        StorageError: the storage cannot be read.
    """
    try:
        with open_directory(uri, storage, only_read=True).open(SPEC_FILE) as file:
            content = file.read(MAX_SPEC_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{uri}: holds no {SPEC_FILE}, so it is no model folder; copy one there that `imgcls models new` made"
        ) from error
    spec = parse_spec(content, f"{uri}/{SPEC_FILE}")
    # By the whole description: metrics and names change where the fingerprint does not.
    kept = cache_dir() / "remote" / hashlib.sha256(content).hexdigest()
    if (folder := _opened(kept, content)) is not None:
        return folder
    try:
        _copy(uri, content, spec, kept, storage)
    except OSError as error:
        raise ModelFolderError(f"{uri}: cannot be copied to {kept}: {error.strerror or error}") from error
    return open_model_folder(kept)


def _opened(kept: Path, content: bytes) -> ModelFolder | None:
    """The copy, if it is there, says what the original says, and holds the files that it says."""
    try:
        with (kept / SPEC_FILE).open("rb") as file:
            if file.read(len(content) + 1) != content:
                return None
        return open_model_folder(kept)
    except (OSError, ModelFolderError):
        return None


def _copy(uri: str, content: bytes, spec: ModelSpec, kept: Path, storage: StorageOptions) -> None:
    """Copy in one step: of several workers that start at once, one puts its copy there."""
    private_folder(kept.parent)
    partial = Path(tempfile.mkdtemp(prefix=".copy-", dir=kept.parent))
    try:
        (partial / SPEC_FILE).write_bytes(content)
        for name, sha256 in spec.files.items():
            _link(_kept_file(f"{uri.rstrip('/')}/{name}", sha256, storage), partial / name)
        _copy_bundle(f"{uri.rstrip('/')}/{BUNDLE}", spec, partial, storage)
        replace_folder(partial, kept, is_good=lambda: _opened(kept, content) is not None)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_bundle(uri: str, spec: ModelSpec, partial: Path, storage: StorageOptions) -> None:
    """Copy the converted network if this machine would read it; a model folder is whole without it."""
    if spec.exported is not None:
        return
    place = partial / BUNDLE
    try:
        with open_directory(uri, storage, only_read=True).open(RECORD_FILE) as file:
            content = file.read(MAX_SPEC_BYTES)
        if (record := parse_record(content, spec)) is None:
            return
        place.mkdir()
        for name, sha256 in record.files.items():
            _link(_kept_file(f"{uri}/{name}", sha256, storage), place / name)
        (place / RECORD_FILE).write_bytes(content)
    except FileNotFoundError:
        return
    except (ImgclsError, OSError, ValueError) as error:
        logger.warning("%s: the converted network is left aside: %s", uri, error)


def _kept_file(uri: str, sha256: str, storage: StorageOptions) -> Path:
    """The file of this content, fetched if it is not here or is another one by now.

    Raises:
        ModelFolderError: what is there is not of this content.
    """
    files = private_folder(cache_dir() / "remote" / "files")
    kept = files / sha256
    if kept.is_file() and sha256_file(kept) == sha256:
        return kept
    handle, name = tempfile.mkstemp(prefix=".fetch-", dir=files)
    partial = Path(name)
    try:
        with open_file(uri, storage) as source, open(handle, "wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
        if (found := sha256_file(partial)) != sha256:
            raise ModelFolderError(
                f"{uri}: is not the file that {SPEC_FILE} describes (sha256 {found[:12]}…, expected {sha256[:12]}…); "
                "use the folder exactly as it was written"
            )
        os.replace(partial, kept)
    finally:
        partial.unlink(missing_ok=True)
    return kept


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, place)

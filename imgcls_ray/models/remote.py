"""Model folders on object storage: copied once to this machine, and opened like any other."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.cache import cache_dir
from imgcls_ray.models.folder import SPEC_FILE, open_model_folder, read_spec
from imgcls_ray.storage import open_directory, open_file

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.storage.s3 import S3Options


def open_remote_folder(uri: str, s3: S3Options) -> ModelFolder:
    """Open the model folder under an ``s3://`` prefix; its copy is kept under the cache, by fingerprint.

    Raises:
        ModelFolderError: there is none, or it does not fit together.
        StorageError: the storage cannot be read.
    """
    try:
        spec = open_directory(uri, s3).read(SPEC_FILE)
        fingerprint = str(json.loads(spec)["fingerprint"])
    except FileNotFoundError as error:
        raise ModelFolderError(f"{uri}: has no {SPEC_FILE}; is this a model folder?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{uri}/{SPEC_FILE}: is not a model description") from error
    if not fingerprint.isalnum():
        raise ModelFolderError(f"{uri}/{SPEC_FILE}: is not a model description")
    kept = cache_dir() / "remote" / fingerprint
    if not kept.exists():
        _copy(uri, spec, kept, s3)
    elif (kept / SPEC_FILE).read_bytes() != spec:
        # Metrics change and the fingerprint does not: an evaluation writes them beside the weights.
        open_directory(str(kept)).replace(SPEC_FILE, spec)
    return open_model_folder(kept)


def _copy(uri: str, spec: bytes, target: Path, s3: S3Options) -> None:
    """Copy in one step: of several workers that start at once, one puts its copy there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
    try:
        (partial / SPEC_FILE).write_bytes(spec)
        for name in read_spec(partial / SPEC_FILE).files:
            with open_file(f"{uri.rstrip('/')}/{name}", s3) as source, (partial / name).open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**20)
        open_model_folder(partial)  # what does not fit together is not kept
        os.replace(partial, target)
    except OSError as error:
        if not target.exists():
            raise ModelFolderError(f"{uri}: cannot be copied to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

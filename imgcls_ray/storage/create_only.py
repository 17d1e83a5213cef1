"""Test that a storage creates a name only once, which keeps two writers of a label store apart."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.errors import LabelStoreError, StorageError

if TYPE_CHECKING:
    from imgcls_ray.storage import Directory

# A name that begins with a dot is no part of a store.
_PROOF_FILE = ".create-only"
_NUM_PROOFS = 3


def prove_create_only(directory: Directory) -> None:
    """Test that the storage keeps the first content when a name is created again; the safety of rows depends on it.

    Every command tests it, because a store may have been moved and an endpoint may have changed.

    Raises:
        LabelStoreError: the storage overwrites the first content. The test file is removed.
        StorageError: the test cannot be made.
    """
    # The second name is nobody else's: under the first one, another command that tries at the same time may have
    # removed the file between two steps. Where nothing may be removed, only the first one stays.
    if not (_is_kept(directory, _PROOF_FILE) or _is_kept(directory, f"{_PROOF_FILE}-{uuid.uuid4().hex}")):
        raise LabelStoreError(
            f"{directory.uri}: this storage writes over what is there although it is asked not to "
            "(If-None-Match); a label store cannot be kept on it"
        )


def _is_kept(directory: Directory, name: str) -> bool:
    content = uuid.uuid4().bytes
    is_new = directory.create(name, content)
    try:
        before = content if is_new else directory.read(name)
        # Several times: of the servers behind one address some may be older than others.
        is_kept = not any(directory.create(name, uuid.uuid4().bytes) for _ in range(_NUM_PROOFS))
        is_kept = is_kept and directory.read(name) == before
    except FileNotFoundError:
        return False
    if is_new:
        # Whoever may write and not remove can still keep a store.
        with suppress(StorageError):
            directory.remove(name)
    return is_kept

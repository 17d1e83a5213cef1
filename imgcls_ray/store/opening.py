"""Open or create a label store, and refuse one of another model, with other columns, or that is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from imgcls_ray.errors import LabelStoreError, StorageError
from imgcls_ray.json_files import encode_json
from imgcls_ray.storage.create_only import prove_create_only
from imgcls_ray.storage.taken import foreign_name
from imgcls_ray.store.label_store import LabelStore
from imgcls_ray.store.records import IDENTITY_FILE, StoreIdentity, now

if TYPE_CHECKING:
    from imgcls_ray.storage import Directory


def create_or_open_store(directory: Directory, identity: StoreIdentity) -> LabelStore:
    """Open the store for a run of this identity, or create it.

    Raises:
        LabelStoreError: the directory has other files, is a store of another model or with other columns, or is on a
            storage that overwrites existing names.
    """
    if is_store(directory):
        store = open_store(directory)
        check_identity(store, identity)
        prove_create_only(directory)
        return store
    prove_create_only(directory)
    # Of two runs that make the store at once, one wins; both then check what is there.
    directory.create(IDENTITY_FILE, encode_json({**identity.model_dump(), "created": now()}))
    store = open_store(directory)
    check_identity(store, identity)
    return store


def is_store(directory: Directory) -> bool:
    """Whether there is a store; ``False`` means that one can be created.

    Raises:
        LabelStoreError: the directory has other files.
    """
    try:
        if directory.exists(IDENTITY_FILE):
            return True
        taken = foreign_name(directory, IDENTITY_FILE)
    except StorageError as error:
        # A wrong --output, rather than a storage that fails.
        if isinstance(error.__cause__, PermissionError | NotADirectoryError):
            reason = error.__cause__.strerror
            raise LabelStoreError(
                f"{directory.uri}: cannot be looked into ({reason}); give --output a directory"
            ) from error
        raise
    if taken is not None:
        raise LabelStoreError(
            f"{directory.uri}: is not a label store (it holds {taken!r} and no {IDENTITY_FILE}); "
            "give --output a new or empty directory"
        )
    return directory.exists(IDENTITY_FILE)


def check_identity(store: LabelStore, identity: StoreIdentity, *, top_k: int | None = None) -> None:
    """Refuse a run whose model or columns differ from the store's.

    Args:
        store: that is there.
        identity: of the run.
        top_k: number of labels that was asked for, as it is told; an identity has at most one for each class.

    Raises:
        LabelStoreError: naming the first difference and the way out.
    """
    have, want = store.identity, identity
    if have.fingerprint != want.fingerprint:
        raise LabelStoreError(
            f"{store.uri}: belongs to another model ({have.model}, fingerprint {have.fingerprint[:12]}; this one is "
            f"{want.model}, {want.fingerprint[:12]}); use that model, or another --output"
        )
    for key in ("top_k", "embedding", "logits", "tta"):
        if getattr(have, key) != getattr(want, key):
            asked = top_k if key == "top_k" and top_k is not None else getattr(want, key)
            raise LabelStoreError(
                f"{store.uri}: was made with {key}={getattr(have, key)}, this run has {key}={asked}; "
                "use the same, or another --output"
            )


def open_store(directory: Directory) -> LabelStore:
    """Open an existing store.

    Raises:
        LabelStoreError: there is no store, or its identity cannot be read.
    """
    try:
        content = json.loads(directory.read(IDENTITY_FILE))
        content.pop("created", None)
        return LabelStore(directory, StoreIdentity.model_validate(content))
    except OSError as error:
        raise LabelStoreError(
            f"{directory.uri}: is not a label store (no readable {IDENTITY_FILE}); give the output of `imgcls predict`"
        ) from error
    except (ValueError, AttributeError, TypeError, RecursionError, ValidationError) as error:
        raise LabelStoreError(f"{directory.uri}: {IDENTITY_FILE} is damaged, or of another version") from error

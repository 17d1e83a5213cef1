"""Whether a directory already holds somebody else's files: a job that writes into it would mix with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from imgcls_ray.storage import Directory


def foreign_name(directory: Directory, marker: str, known: AbstractSet[str] = frozenset()) -> str | None:
    """A file or folder in a directory without the file ``marker``; None if the marker is there, or nothing else is.

    Args:
        directory: that a job is about to write into; it need not exist.
        marker: file of an earlier run of the same job.
        known: names that are no obstacle, as are those that begin with a dot.

    Raises:
        StorageError: it cannot be listed.
    """
    if directory.exists(marker):
        return None
    names = (name.rstrip("/") for name in directory.entries())
    found = next((name for name in names if not name.startswith(".") and name not in known), None)
    # Looked for again: another run may have written it between the two looks.
    return found if found is not None and not directory.exists(marker) else None

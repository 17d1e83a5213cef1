"""Replace the lists of a dataset together, in a local folder or in object storage, and keep what was replaced.

An original is copied to the first free name of ``NAME.bak``, ``NAME.bak.1``, ``NAME.bak.2``, ... before anything is
replaced. During the replacement there is a journal file beside the lists. It stops a second run, and after a crash it
says which lists are new and where the old ones are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.datasets import rewrite_local, rewrite_objects
from imgcls_ray.storage.local import LocalDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.storage import Directory


def refuse_if_unfinished(directory: Directory) -> None:
    """Refuse a place whose lists are being replaced, or were left half replaced.

    Raises:
        UsageError: says which files are old and new, and how to repair it.
    """
    if isinstance(directory, LocalDirectory):
        rewrite_local.refuse_if_unfinished(_folder(directory))
    else:
        rewrite_objects.refuse_if_unfinished(directory)


def replace_lists(
    directory: Directory, contents: Mapping[str, bytes | None], originals: Mapping[str, bytes]
) -> dict[str, str]:
    """Replace lists by new ones.

    Args:
        directory: where all lists are.
        contents: new contents by name; ``None`` deletes the list.
        originals: the present contents by name, as they were read. If one has changed since, nothing is replaced.

    Returns:
        The name of its backup by the name of each original.

    Raises:
        UsageError: another run is at work, or a list has changed.
        StorageError: something cannot be written; says in which state the place is.
    """
    if isinstance(directory, LocalDirectory):
        return rewrite_local.replace_lists(_folder(directory), contents, originals)
    return rewrite_objects.replace_lists(directory, contents, originals)


def _folder(directory: LocalDirectory) -> Path:
    return Path(directory.uri)

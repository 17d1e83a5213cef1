"""What an INPUT of the command line is, and whether it can be listed; asked before anything is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.boxes import is_box
from imgcls_ray.inputs.inventories import is_inventory
from imgcls_ray.inputs.list_rows import URI_COLUMN
from imgcls_ray.inputs.list_tables import is_of_parts, parquet_parts
from imgcls_ray.inputs.lists import is_list, read_list, refuse_other_lists
from imgcls_ray.inputs.members import is_member, packed_parquet, refuse_compressed
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.crops import picture_of
from imgcls_ray.storage.files import check_address, path_from_uri, scheme_of
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.members import is_packed_file
from imgcls_ray.storage.object_inputs import check_place, find_object
from imgcls_ray.storage.patterns import has_magic
from imgcls_ray.storage.schemes import READABLE, is_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.storage.options import StorageOptions


def is_single_file(source: str, storage: StorageOptions = DEFAULT_STORAGE) -> bool:
    """Whether INPUT is one image, not a folder, prefix, list, pattern or packed file."""
    if is_box(source, storage):
        return True
    if is_url(source):
        return not is_list(source)
    if is_member(source, storage):
        return True
    if is_list(source) or is_packed_file(source):
        return False
    return find_object(source, storage) is not None if is_object(source) else _is_file(path_from_uri(source))


def is_any_list(source: str, storage: StorageOptions = DEFAULT_STORAGE, *, uri_column: str = URI_COLUMN) -> bool:
    """Whether INPUT names its inputs one by one: a list, or a folder of Parquet files that is one."""
    if is_url(source) or packed_parquet(source, storage, uri_column, parts := parquet_in(source, storage)):
        return False
    return is_list_here(source, storage) or is_of_parts(parts, source, uri_column, storage)


def is_list_here(source: str, storage: StorageOptions) -> bool:
    """Whether a list is at this place: not a pattern, or a folder, of such a name."""
    if not is_list(source) or is_url(source):
        return False
    if is_object(source):
        return find_object(source, storage) is not None
    return _is_file(path_from_uri(source))


def parquet_in(source: str, storage: StorageOptions) -> list[str]:
    """The files of a folder that holds Parquet and nothing else; none if it is a folder of images, or no folder."""
    if is_object(source):
        if has_magic(source) or find_object(source, storage) is not None:
            return []
    elif not os.path.isdir(path_from_uri(source)):
        return []
    return parquet_parts(source, storage)


def _is_file(path: str) -> bool:
    # Also a link that leads nowhere, or a pipe: one image that cannot be read.
    return os.path.lexists(path) and not os.path.isdir(path)


def check_inputs(
    sources: Sequence[str],
    storage: StorageOptions = DEFAULT_STORAGE,
    *,
    uri_column: str = URI_COLUMN,
    kept: Kept | None = None,
) -> None:
    """Refuse INPUTs that cannot be listed, and lists on this machine that cannot be read, before anything is started.

    Raises:
        InputError: which one it is, and what is expected.
        StorageError: its storage cannot be asked.
    """
    for source in sources:
        check_input(source, storage)
        # What is in a bucket would be copied as a whole; it is refused when it is planned, before the first row.
        if is_object(source) or is_url(source) or is_inventory(source):
            continue
        parts = parquet_in(source, storage)
        if packed_parquet(source, storage, uri_column, parts):
            continue
        if is_list_here(source, storage):
            next(read_list(source, storage, uri_column=uri_column, kept=kept), None)
        else:
            is_of_parts(parts, source, uri_column, storage)
    check_mixture(sources)
    # Among several, it is one of the names that a shell found.
    if len(sources) == 1 and not is_object(sources[0]) and _is_file(path_from_uri(sources[0])):
        refuse_other_lists(sources[0])
    if len(sources) == 1 and not is_url(sources[0]):
        refuse_compressed(sources[0])


def check_input(source: str, storage: StorageOptions = DEFAULT_STORAGE) -> None:
    """Refuse an INPUT that cannot be listed.

    Raises:
        InputError: what it is and what is expected.
        StorageError: its storage cannot be asked.
    """
    if not os.path.lexists(source):
        check_address(source)
    if is_box(source, storage):
        check_input(picture_of(source), storage)
        return
    if is_member(source, storage):
        return
    if is_object(source):
        check_place(source, storage)
        return
    if is_url(source):
        if is_list(source):
            raise InputError(f"{source}: lists are read from files and objects; download it first")
        return
    if (scheme := scheme_of(source)) not in ("", "file"):
        raise InputError(
            f"{source}: {scheme}:// is not a kind of storage that can be read; give a path, an {READABLE} or an "
            "http(s) address"
        )
    path = path_from_uri(source)
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        if not has_magic(path):
            raise InputError(f"{source}: {_why_not(error)}") from error
        root, _ = split_pattern(path)
        if not os.path.isdir(root):
            raise InputError(f"{source}: there is no folder {root}") from error


def check_mixture(sources: Sequence[str]) -> None:
    """Refuse lists beside files of their own folder: a shell wrote all names of that folder, and nobody meant a list.

    Raises:
        InputError: naming the list.
    """
    files = [path_from_uri(source) for source in sources if not is_url(source) and not is_object(source)]
    folders = {os.path.dirname(path) for path in files if _is_file(path) and not is_list(path)}
    for path in files:
        if is_list(path) and _is_file(path) and os.path.dirname(path) in folders:
            raise InputError(
                f"{path}: is read as a list of images, and files of its folder are given beside it; give the folder "
                f"({os.path.dirname(path) or '.'}/), or the list without them"
            )


def _why_not(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return "there is no such file or folder"
    return f"cannot be looked at: {error.strerror}"


def split_pattern(path: str) -> tuple[str, list[str]]:
    """The fixed folder of a pattern, and the parts below it; an existing name is no pattern.

    Raises:
        InputError: it is no pattern, or has ``..`` behind a wildcard.
    """
    parts = path.split("/")
    places = (i for i, part in enumerate(parts) if has_magic(part) and not os.path.lexists("/".join(parts[: i + 1])))
    start = next(places, None)
    if start is None:  # every part that looks like a pattern is the name of a folder
        raise InputError(f"{path}: there is no such file or folder")
    root = "/".join(parts[:start]) or ("/" if path.startswith("/") else ".")
    below = [part for part in parts[start:-1] if part not in ("", ".")] + parts[-1:]
    if ".." in below:
        raise InputError(f"{path}: .. cannot stand behind a wildcard; write the folder that it leads to")
    return root, below

"""Replace the lists of a dataset in object storage, as ``rewrite`` promises.

Each object is written in one step. The journal can be created only once, which stops a second run.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.datasets.rewrite_local import JOURNAL, back_up
from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.storage.create_only import prove_create_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.storage import Directory


def refuse_if_unfinished(directory: Directory) -> None:
    """Refuse a place whose lists are being replaced, or were left half replaced.

    Raises:
        UsageError: says how to repair it.
    """
    try:
        steps = directory.read(JOURNAL).decode(errors="replace")
    except FileNotFoundError:
        return
    if not steps:
        raise UsageError(
            f"{directory.uri}: another split or review is being written, or one was stopped before it replaced a list; "
            f"if none is at work, remove {JOURNAL} there and run again"
        )
    raise UsageError(
        f"{directory.uri}: another split or review is being written, or one was stopped half-way, and some lists are "
        f"new and some old; if none is at work: {_way_back(steps)}, and run again"
    )


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
        LabelStoreError: the storage cannot keep two runs apart.
    """
    prove_create_only(directory)
    if not directory.create(JOURNAL, b""):
        refuse_if_unfinished(directory)
        raise UsageError(f"{directory.uri}: another split or review was just written; run again")
    backups: dict[str, str] = {}
    try:
        _refuse_if_changed(directory, contents, originals)
        for name, original in originals.items():
            backups[name] = back_up(directory, name, original)
        steps = _steps(contents, backups)
        directory.replace(JOURNAL, steps.encode())
    except BaseException:
        with suppress(StorageError):
            directory.remove(JOURNAL)
        raise
    done: list[str] = []
    try:
        for name, data in contents.items():
            if data is None:
                directory.remove(name)
            else:
                directory.replace(name, data)
            done.append(name)
        directory.remove(JOURNAL)
    except StorageError as error:
        old = [name for name in contents if name not in done]
        raise StorageError(
            f"{error}; new: {', '.join(done) or 'none'}; as before, or being written: {', '.join(old) or 'none'}; to "
            f"go back: {_way_back(steps)}"
        ) from error
    return backups


def _refuse_if_changed(
    directory: Directory, contents: Mapping[str, bytes | None], originals: Mapping[str, bytes]
) -> None:
    for name in {**contents, **originals}:
        now: bytes | None = None
        with suppress(FileNotFoundError):
            now = directory.read(name)
        if now != originals.get(name):
            raise UsageError(f"{directory.uri}/{name}: changed meanwhile; nothing was written, run again")


def _steps(contents: Mapping[str, bytes | None], backups: Mapping[str, str]) -> str:
    return "".join(f"copy {backups[name]} to {name}\n" if name in backups else f"remove {name}\n" for name in contents)


def _way_back(steps: str) -> str:
    return f"{', '.join([*steps.splitlines(), f'remove {JOURNAL}'])} there"

"""Replace the lists of a dataset in a local folder, as ``rewrite`` promises."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.storage.local import LocalDirectory, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imgcls_ray.storage import Directory

JOURNAL = "split.unfinished"


def refuse_if_unfinished(folder: Path) -> None:
    """Refuse a folder whose lists are being replaced, or were left half replaced.

    Raises:
        UsageError: says which files are old and new, and how to repair the folder.
    """
    journal = folder / JOURNAL
    try:
        steps = journal.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{journal}: cannot be read: {error.strerror}") from error
    if not steps:
        raise UsageError(
            f"{folder}: another split or review is being written, or one was stopped before it replaced a list; if "
            f"none is at work, remove {JOURNAL} and run again"
        )
    raise UsageError(
        f"{folder}: another split or review is being written, or one was stopped half-way, and some lists are new "
        f"and some old; if none is at work: {_way_back(steps)}, and run again"
    )


def replace_lists(folder: Path, contents: Mapping[str, bytes | None], originals: Mapping[str, bytes]) -> dict[str, str]:
    """Replace lists by new ones.

    Args:
        folder: the folder of all lists.
        contents: new contents by name; ``None`` deletes the list.
        originals: the present contents by name, as they were read. If one has changed since, nothing is replaced.

    Returns:
        The name of its backup by the name of each original.

    Raises:
        UsageError: another run is at work, or a list has changed.
        StorageError: something cannot be written; says in which state the folder is.
    """
    directory = LocalDirectory(str(folder))
    with _prepared(folder, contents) as prepared:
        with _unchanged(folder):
            is_alone = directory.create(JOURNAL, b"")
        if not is_alone:
            refuse_if_unfinished(folder)
            raise UsageError(f"{folder}: another split or review was just written; run again")
        backups: dict[str, str] = {}
        try:
            with _unchanged(folder, backups):
                _refuse_if_changed(folder, contents, originals)
                for name, data in originals.items():
                    backups[name] = back_up(directory, name, data)
                steps = _steps(contents, backups)
                directory.replace(JOURNAL, "".join(f"{step}\n" for step in steps).encode())
        except BaseException:
            (folder / JOURNAL).unlink(missing_ok=True)
            raise
        _put_in_place(folder, contents, prepared, steps)
    return backups


def _put_in_place(
    folder: Path, contents: Mapping[str, bytes | None], prepared: Mapping[str, Path], steps: list[str]
) -> None:
    done: list[str] = []
    try:
        for name in contents:
            if name in prepared:
                os.replace(prepared[name], folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
            done.append(name)
        sync_folder(folder)
        (folder / JOURNAL).unlink()
    except OSError as error:
        old = [name for name in contents if name not in done]
        raise StorageError(
            f"{folder}: {old[0] if old else JOURNAL} cannot be replaced: {error.strerror or error}; "
            f"new: {', '.join(done) or 'none'}; as before: {', '.join(old) or 'none'}; "
            f"to go back: {_way_back(steps)}"
        ) from error


def _steps(contents: Mapping[str, bytes | None], backups: Mapping[str, str]) -> list[str]:
    """Shell commands that bring the lists back; the folder's own names need no quotes."""
    return [f"cp {backups[name]} {name}" if name in backups else f"rm -f {name}" for name in contents]


def _way_back(steps: list[str]) -> str:
    return f"`{' && '.join([*steps, f'rm {JOURNAL}'])}` in that folder"


@contextmanager
def _prepared(folder: Path, contents: Mapping[str, bytes | None]) -> Iterator[dict[str, Path]]:
    """Every new list, whole and durable under a name of its own; what is not moved from there goes in the end."""
    prepared: dict[str, Path] = {}
    try:
        with _unchanged(folder):
            for name, data in contents.items():
                if data is None:
                    continue
                prepared[name] = folder / f".{name}.{uuid.uuid4().hex}"
                with prepared[name].open("xb") as file:
                    if (folder / name).exists():
                        os.fchmod(file.fileno(), (folder / name).stat().st_mode & 0o777)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
        yield prepared
    finally:
        for path in prepared.values():
            path.unlink(missing_ok=True)


@contextmanager
def _unchanged(folder: Path, backups: Mapping[str, str] | None = None) -> Iterator[None]:
    """Say of a failure that comes before the first list is replaced that it did."""
    try:
        yield
    except (OSError, StorageError) as error:
        what = (error.strerror or error) if isinstance(error, OSError) else error
        made = f"; backups made so far stay: {', '.join(backups.values())}" if backups else ""
        raise StorageError(f"{folder}: cannot be written to: {what}; all lists are as they were{made}") from error


def _refuse_if_changed(folder: Path, contents: Mapping[str, bytes | None], originals: Mapping[str, bytes]) -> None:
    for name in {**contents, **originals}:
        path = folder / name
        now = path.read_bytes() if path.exists() else None
        if now != originals.get(name):
            raise UsageError(f"{path}: changed meanwhile; nothing was written, run again")


def back_up(directory: Directory, name: str, data: bytes) -> str:
    """Copy an original to the first free name, and give that."""
    for number in count():
        backup = f"{name}.bak.{number}" if number else f"{name}.bak"
        # Copied, not linked: whoever edits a list in place after a crash must not edit its backup with it.
        if directory.create(backup, data):
            return backup
    raise AssertionError("numbers do not end")

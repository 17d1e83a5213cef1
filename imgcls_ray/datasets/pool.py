"""Pool the images of a dataset with their classes, from its lists or its folders of classes.

What cannot be read exactly ends the reading: whoever writes lists anew must not lose a line.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.result import SPLITS
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.storage.files import absolute_path
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTS = tuple(f"{split}.txt" for split in SPLITS)
LABELS = "label.txt"

_CLASS_ID = re.compile("[0-9]{1,9}")


class PooledImage(NamedTuple):
    """One image of a dataset."""

    path: str
    """As the dataset names it: relative to its folder, as a rule."""
    class_id: int
    where: str
    """``train.txt:17``, or the path itself where no list names it."""


@dataclass(frozen=True)
class Pool:
    """All images of a dataset, each once."""

    images: list[PooledImage]
    """In the order of the lists, or of the sorted paths."""
    class_names: list[str] | None
    """By class id; None where lists give the ids."""
    originals: dict[str, bytes]
    """By name, as they were read, the files that new ones will replace."""
    num_duplicates: int = 0
    """Lines that named an image again."""


def read_pool(folder: Path) -> Pool:
    """Read ``train.txt``, ``val.txt`` and ``test.txt``, those that there are; without any, folders of classes.

    Raises:
        UsageError: neither, a line that is not a path and a class id, or an image of two classes; with file and line.
        InputError: something cannot be read.
    """
    originals = {name: data for name in LISTS if (data := _read(folder / name)) is not None}
    if not originals:
        if (folder / LABELS).exists():
            # Otherwise the folder of all the images would be taken for a class.
            raise UsageError(
                f"{folder}: has {LABELS}, but none of {', '.join(LISTS)}; add them, or remove {LABELS} to have it made "
                "of folders of classes"
            )
        return _read_class_folders(folder)
    kept: dict[str, PooledImage] = {}
    num_lines = 0
    for name, data in originals.items():
        for image in _read_lines(folder / name, data):
            num_lines += 1
            # "./a.jpg" and "a.jpg" are one image: it must not come into two splits.
            key = posixpath.normpath(image.path)
            known = kept.setdefault(key, image)
            if known.class_id != image.class_id:
                raise UsageError(
                    f"{folder / image.where}: {image.path} is of class {image.class_id} here and of class "
                    f"{known.class_id} in {known.where}; leave one of the lines"
                )
            if image.path < known.path:
                # Whichever line comes first, the same spelling stays.
                kept[key] = known._replace(path=image.path)
    if not kept:
        raise UsageError(f"{folder}: no image in {', '.join(originals)}")
    return Pool(list(kept.values()), None, originals, num_lines - len(kept))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read_lines(path: Path, data: bytes) -> Iterator[PooledImage]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{where}: is not UTF-8, got {line[:80]!r}; convert the list, e.g. with iconv") from error
        if not text.strip():
            continue
        # The last run of delimiters parts the two: a path may hold any of them.
        text = text.rstrip(" \t")
        cut = max(text.rfind(" "), text.rfind("\t")) + 1
        image, class_id = text[:cut].rstrip(" \t"), text[cut:]
        if not image or not _CLASS_ID.fullmatch(class_id):
            raise UsageError(f"{where}: expected a path, a space or tab and a class id, got {text[:200]!r}")
        _refuse_unwritable(image, where)
        yield PooledImage(image, int(class_id), f"{path.name}:{number}")


def _read_class_folders(folder: Path) -> Pool:
    """``train/NAME/*``, ``val/NAME/*`` and ``test/NAME/*``, or ``NAME/*``: ids are those of the sorted names."""
    top = _folders_in(folder)
    # A class may be called "train" (of a railway); then its folder holds images, not folders.
    splits = [split for split in SPLITS if split in top and _folders_in(folder / split)]
    if splits and (others := [name for name in top if name not in splits]):
        raise UsageError(
            f"{folder}: has the splits {', '.join(splits)} and beside them {others[0]}/, which is none that has class "
            f"folders; move it away or call it one of {', '.join(SPLITS)}"
        )
    roots = [f"{split}/" for split in splits] or [""]
    class_folders = [(root, name) for root in roots for name in _folders_in(folder / root)]
    names = sorted({name for _, name in class_folders})
    if not names:
        raise UsageError(f"{folder}: has no {', '.join(LISTS)} and no folders of classes")
    ids = {name: class_id for class_id, name in enumerate(names)}
    start = len(absolute_path(str(folder)).rstrip("/")) + 1
    images = []
    for root, name in class_folders:
        _refuse_unwritable(name, f"{folder}/{root}")
        for info in list_folder(str(folder / root / name), every_name=True):
            if info.uri.startswith("file://"):
                raise UsageError(f"{info.uri}: the name is not UTF-8, as a list has to be; rename it")
            path = info.uri[start:]
            _refuse_unwritable(path, f"{folder}")
            images.append(PooledImage(path, ids[name], path))
    return Pool(sorted(images), names, {})


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error


def _refuse_unwritable(path: str, where: str) -> None:
    """A list is lines, and its readers strip them: such a path would come back as another."""
    if path != path.strip() or any(mark in path for mark in "\r\n\0") or path.startswith("\ufeff"):
        raise UsageError(
            f"{where}: the name {path[:200]!r} cannot stand in a list, because it begins or ends with white space or "
            "holds a line break; rename it"
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: the name {path[:200]!r} is not UTF-8, as a list has to be; rename it") from error

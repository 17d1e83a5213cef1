"""Find out which folders of a dataset are splits and which are classes. What cannot be told is asked, never guessed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.split_names import possible_splits, split_called

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Parts: TypeAlias = "tuple[str, ...]"
"""Names of folders, from the dataset's own on."""

_NUM_SHOWN = 5
_MAX_DEPTH = 8
"""Folders that may lie around a dataset: archives make one or two."""
_FEW = 10
_CLASSES = "split_folders=none"
NO_CLASS_FOLDERS = (
    "no dataset of a known kind; it has neither train.txt and val.txt nor folders of images by class "
    "(train/NAME/*.jpg or NAME/*.jpg)"
)


@dataclass(frozen=True)
class Layout:
    """Where the splits of a dataset are; the folders in them are the classes."""

    folders: Mapping[str, Parts]
    """The folder of each split. A dataset without splits has one: all of its images are to train with."""
    notes: Sequence[str] = field(default=())
    """For people, what is not as it is usual: one line each."""

    def place(self, parts: Sequence[str]) -> tuple[str, str] | None:
        """Split and class of the images in a folder; None where they have none."""
        for split, folder in self.folders.items():
            if len(parts) > len(folder) and tuple(parts[: len(folder)]) == folder:
                return split, parts[len(folder)]
        return None

    def has_loose(self, parts: Parts) -> bool:
        """Whether images directly in a folder lie beside the folders of classes, or above them."""
        return any(parts == folder[: len(parts)] for folder in self.folders.values())


class _Level:
    """The folders in one folder that hold images, and of each the folders in it that do."""

    def __init__(self, folders: Mapping[Parts, int], base: Parts) -> None:
        self.base = base
        self.num_loose = folders.get(base, 0)
        """Images beside the folders."""
        self.below = {
            parts: count for parts, count in folders.items() if len(parts) > len(base) and parts[: len(base)] == base
        }
        children: dict[str, set[str]] = defaultdict(set)
        self.flat = set[str]()
        for parts in self.below:
            name = parts[len(base)]
            children[name].update(parts[len(base) + 1 : len(base) + 2])
            if len(parts) == len(base) + 1:
                self.flat.add(name)
        self.children = dict(sorted(children.items()))
        """Names of the folders in each."""
        self.splits = {name: split for name, below in self.children.items() if below and (split := split_called(name))}
        """Folders of class folders that are called like a split."""

    def child(self, name: str) -> _Level:
        return _Level(self.below, (*self.base, name))

    @property
    def are_loose_few(self) -> bool:
        """Whether so few images lie beside the folders that they are a cover or an example, no class."""
        return self.num_loose * _FEW <= sum(self.below.values())

    def path(self, name: str) -> str:
        return "/".join((*self.base, name))


def find_layout(folders: Mapping[Parts, int]) -> Layout:
    """Tell splits and classes by the names of folders.

    Args:
        folders: the number of images directly in each folder, by the parts of its path.

    Raises:
        ValueError: there are no class folders, or the names can be read in several ways; says how to tell which.
    """
    level = _Level(folders, ())
    # Archives unpack into a folder of their own, and programs that unpack them make another one.
    while not level.splits and (inner := _inner(level)) is not None:
        level = inner
    if level.splits:
        return _split_layout(level)
    _refuse_if_maybe_splits(level)
    if not level.children:
        raise ValueError(NO_CLASS_FOLDERS)
    return Layout({"train": level.base}, _notes_of_place(level, ()))


def given_layout(folders: Mapping[Parts, int], split_folders: Mapping[str, str]) -> Layout:
    """The layout that the user gives.

    Args:
        folders: the number of images directly in each folder, by the parts of its path.
        split_folders: the folder of each split, relative to the dataset; empty if there are none.

    Raises:
        ValueError: there are no class folders in one of them.
    """
    if not split_folders:
        if not any(folders):
            raise ValueError(NO_CLASS_FOLDERS)
        return Layout({"train": ()})
    levels = {
        split: _Level(folders, tuple(part for part in split_folders[split].split("/") if part not in ("", ".")))
        for split in SPLITS
        if split in split_folders
    }
    for split, level in levels.items():
        if not level.children:
            raise ValueError(
                f"split_folders: there is no image in {'/'.join((*level.base, 'CLASS'))}/ for the {split} split"
            )
    layout = Layout(_within(levels))
    unread = sorted(
        {
            next(parts[: depth + 1] for depth in range(len(parts)) if not layout.has_loose(parts[: depth + 1]))
            for parts in folders
            if not layout.has_loose(parts) and layout.place(parts) is None
        }
    )
    notes = [f"not read, as split_folders does not name them: {_listed(map('/'.join, unread))}"] if unread else []
    return Layout(layout.folders, notes)


def _inner(level: _Level) -> _Level | None:
    """The one folder in which the dataset lies, if there is one."""
    if possible_splits(level.children) or len(level.base) == _MAX_DEPTH:
        return None
    inner = _children_with_splits(level)
    if len(inner) > 1:
        raise ValueError(
            f"holds several datasets: {_listed(inner)} have folders of splits; give one of them. If these are the "
            f"classes, give {_CLASSES}"
        )
    if inner:
        return level.child(inner[0])
    if len(level.children) != 1:
        return None
    only = level.child(next(iter(level.children)))
    if not only.are_loose_few:
        return None
    # One folder is one class, which nobody can learn, unless there are several in it.
    return only if only.splits or len(only.children) > 1 or _inner(only) is not None else None


def _children_with_splits(level: _Level) -> list[str]:
    """The folders in which there are several splits with folders of classes."""
    depth = len(level.base)
    splits: dict[str, set[str]] = defaultdict(set)
    for name, below in {parts[depth : depth + 2] for parts in level.below if len(parts) > depth + 2}:
        if (split := split_called(below)) is not None:
            splits[name].add(split)
    return sorted(name for name, called in splits.items() if len(called) > 1)


def _split_layout(level: _Level) -> Layout:
    _refuse_doubled(level)
    others = [name for name in level.children if split_called(name) is None]
    if len(level.splits) == 1 and others:
        [known] = level.splits
        maybe = {**level.splits, **possible_splits(level.children)}
        raise ValueError(f"is {known}/ a split, or a class beside {_listed(others)}? {_answer(level, maybe)}")
    found = {split: level.child(name) for name, split in level.splits.items()}
    folders = _within({split: found[split] for split in SPLITS if split in found})
    left_out = [name for name in level.children if name not in level.splits]
    if all(folder == (split,) for split, folder in folders.items()):
        return Layout(folders, _notes_of_place(level, left_out))
    named = ", ".join(f"{'/'.join(folder)}/ as {split}" for split, folder in folders.items())
    return Layout(folders, [f"read {named}" + (f"; left out: {_listed(left_out)}" if left_out else "")])


def _within(splits: Mapping[str, _Level]) -> dict[str, Parts]:
    """The folder of each split: the one folder in it that holds all classes (``train/train/NAME``), or itself."""
    outer = {split: level.base for split, level in splits.items()}
    if any(len(level.children) != 1 or level.flat for level in splits.values()):
        return outer
    inner = {split: level.child(next(iter(level.children))) for split, level in splits.items()}
    are_alike = len({level.base[-1] for level in inner.values()}) == 1
    are_splits = all(split_called(level.base[-1]) or level.base[-1] == level.base[-2] for level in inner.values())
    num_classes = len({name for level in inner.values() for name in level.children})
    if not (are_alike or are_splits) or num_classes < 2:
        return outer
    return {split: level.base for split, level in inner.items()}


def _notes_of_place(level: _Level, left_out: Sequence[str]) -> list[str]:
    """What people would not see otherwise: that the dataset lies deeper, and what is not read."""
    notes = [f"its folders of classes are in {'/'.join(level.base)}/"] if level.base else []
    return [*notes, *([f"left out, as no splits with folders of classes: {_listed(left_out)}"] if left_out else [])]


def _refuse_doubled(level: _Level) -> None:
    names: dict[str, str] = {}
    for name, split in level.splits.items():
        if (other := names.setdefault(split, name)) != name:
            raise ValueError(
                f"{level.path(other)}/ and {level.path(name)}/ both mean the {split} split; put their images into one "
                f"folder, or say which it is, e.g. {_given(level, level.splits)}"
            )


def _refuse_if_maybe_splits(level: _Level) -> None:
    maybe = possible_splits(level.children)
    if level.children and level.flat == set(level.children) and all(map(split_called, level.children)):
        raise ValueError(
            f"{NO_CLASS_FOLDERS}. {_listed(level.children)}: holds images, but no folders of classes; if that is a "
            f"class itself, give {_CLASSES}"
        )
    if maybe:
        raise ValueError(f"are {_listed(maybe)} splits, or classes? {_answer(level, maybe)}")


def _answer(level: _Level, splits: Mapping[str, str]) -> str:
    """How to say what the folders are."""
    return f"For splits give {_given(level, splits)}; for classes give {_CLASSES}"


def _given(level: _Level, splits: Mapping[str, str]) -> str:
    names = {split: name for name, split in reversed(list(splits.items()))}
    return "split_folders=" + ",".join(f"{split}={level.path(names[split])}" for split in SPLITS if split in names)


def _listed(names: Iterable[str]) -> str:
    words = [f"{name}/" for name in names]
    return ", ".join(words[:_NUM_SHOWN]) + (", …" if len(words) > _NUM_SHOWN else "")

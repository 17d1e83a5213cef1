"""Names of splits as people write them, in any case."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# Words of folders that may be splits, or classes: whoever made them has to say.
_MAY_MEAN = {
    **_SPLIT_OF,
    **dict.fromkeys(("trains", "trainset", "trainval", "trainingset"), "train"),
    **dict.fromkeys(("vals", "valset", "validset", "validations", "validationset", "devset"), "val"),
    **dict.fromkeys(("eval", "evals", "evalset", "evaluate", "evaluation"), "val"),
    **dict.fromkeys(("tests", "testset", "testingset", "holdout", "heldout"), "test"),
}
_FILLERS = frozenset({"set", "data", "dataset", "split", "image", "images", "img", "imgs", "pictures", "folder"})
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|[0-9]+")


def split_called(name: str) -> str | None:
    """The split of this name: ``split_called("Validation")  # "val"``; None where it is none."""
    return _SPLIT_OF.get(name.strip().casefold())


def possible_splits(names: Iterable[str]) -> dict[str, str]:
    """The names among these that may mean different splits, with the splits: ``seg_train`` beside ``seg_test``.

    Numbers do not count: ``01_train`` beside ``02_val``. One such name alone is a class, and so are names that differ
    otherwise: ``steam_train`` and ``test_tube``.
    """
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        words = [word.casefold() for word in _WORD.findall(name)]
        meant = {_MAY_MEAN[word] for word in words if word in _MAY_MEAN}
        if len(meant) == 1:
            rest = tuple(
                word for word in words if word not in _MAY_MEAN and word not in _FILLERS and not word.isdigit()
            )
            alike[rest].update({name: meant.pop()})
    return {name: split for group in alike.values() if len(set(group.values())) > 1 for name, split in group.items()}

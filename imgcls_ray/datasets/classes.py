"""Match the classes of a dataset with those of a model by name, because ids are only positions in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import UsageError
from imgcls_ray.models.class_names import match_names
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUM_SHOWN = 5
_NO_CLASS = -1


def match_classes(
    dataset: str, dataset_names: Sequence[str | None], model: str, model_names: Sequence[str]
) -> np.ndarray:
    """The model's id of each class of a dataset.

    Args:
        dataset, model: names for the error message.
        dataset_names: class names by the dataset's ids; None for an id without a class.
        model_names: class names by the model's ids. The model may have more classes than the dataset.

    Returns:
        int32, the model's ids by the dataset's ids; -1 for an id without a class.

    Raises:
        UsageError: the model lacks a class of the dataset, or several classes have one name and it cannot be told which
            is which.
    """
    named = {label: name for label, name in enumerate(dataset_names) if name is not None}
    found = match_names(named, model_names)
    if lost := [named[label] for label, place in found.items() if place is None]:
        known = set(model_names)
        if shared := [name for name in lost if name in known]:
            raise UsageError(
                f"{dataset}: has {counted(list(named.values()).count(shared[0]), 'class', 'classes')} called "
                f"{shared[0][:60]!r}, {model} has {list(model_names).count(shared[0])}. Classes are matched by name, "
                "so it cannot be told which is which: give both the same classes of this name"
            )
        raise UsageError(
            f"{dataset}: {len(lost):,} of its {len(named):,} classes are none of the model's: {_shown(lost)}; "
            f"{model} has {len(model_names):,}: {_shown(model_names)}. Classes are matched by name: give the dataset "
            "that the model was trained for, or rename its classes in label.txt"
        )
    ids = np.full(len(dataset_names), _NO_CLASS, np.int32)
    ids[list(named)] = [place for place in found.values() if place is not None]
    return ids


def _shown(names: Sequence[str]) -> str:
    words = ", ".join(repr(name[:60]) for name in names[:_NUM_SHOWN])
    return f"{words}, …" if len(names) > _NUM_SHOWN else words

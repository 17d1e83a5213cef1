"""Match the classes of a dataset with those of a model by name, because ids are only positions in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import UsageError

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
        UsageError: the model lacks a class of the dataset.
    """
    ids = {name: label for label, name in enumerate(model_names)}
    if missing := [name for name in dataset_names if name is not None and name not in ids]:
        known = sum(name is not None for name in dataset_names)
        raise UsageError(
            f"{dataset}: {len(missing):,} of its {known:,} classes are none of the model's: {_shown(missing)}; "
            f"{model} has {len(ids):,}: {_shown(model_names)}. Classes are matched by name: give the dataset that the "
            "model was trained for, or rename its classes in label.txt"
        )
    return np.array([_NO_CLASS if name is None else ids[name] for name in dataset_names], np.int32)


def _shown(names: Sequence[str]) -> str:
    words = ", ".join(repr(name[:60]) for name in names[:_NUM_SHOWN])
    return f"{words}, …" if len(names) > _NUM_SHOWN else words

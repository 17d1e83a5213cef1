"""Make model folders: from timm's weights, from a file of weights, or with random ones for benchmarks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError, UnknownModelError
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.folder import check_is_free, save_model_folder
from imgcls_ray.models.pretrained import imagenet_class_names, pretrained_network
from imgcls_ray.models.timm_models import PREFIX, find_timm_model, like_timm_names
from imgcls_ray.models.weights import LoadedNetwork, load_weights
from imgcls_ray.models.zoo import find_model, near_names
from imgcls_ray.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.images.preprocess import Decode
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.zoo import ZooModel
    from imgcls_ray.storage.options import StorageOptions


def new_model_folder(
    name: str,
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    random_seed: int | None = None,
    decode: Decode | None = None,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> ModelFolder:
    """Make a model folder for a name of the zoo, or of timm (``timm:...``).

    Args:
        name: what network.
        path: where; must not exist, or be empty.
        class_names: in the order of the network's outputs. Without them, those that come with the weights, else
            ImageNet's for 1,000 classes, else ``class_0`` and on.
        num_classes: without ``class_names``; if not given either, as many as the weights have.
        weights: a model folder, or a ``.safetensors``, torch state-dict or ``.pdparams`` file.
        random_seed: take random weights instead. Without either, timm's pretrained weights are taken. A head of another
            class count is replaced by a random one, and a warning says so.
        decode: how the folder's images are decoded; without it, as with the weights' folder, else ``full``.
        storage: how to reach weights on object storage.

    Raises:
        UnknownModelError: with the nearest names.
        WeightsError: weights that cannot be had or do not fit.
        ModelFolderError: the path is taken.
    """
    import torch

    model = find_named_model(name)
    check_is_free(path)
    if class_names is not None:
        num_classes = len(class_names)
    if num_classes is not None and num_classes < 1:
        raise ModelFolderError(f"{name}: a model needs at least one class, got {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        if weights is not None:
            loaded = load_weights(model, weights, num_classes=num_classes, storage=storage)
        elif random_seed is not None:
            network = build_network(model.architecture, num_classes=num_classes or 1000)
            loaded = LoadedNetwork(network, model.architecture, model.preprocess, class_names=None)
        else:
            loaded = pretrained_network(model, num_classes=num_classes)
    if class_names is None:
        class_names = loaded.class_names or default_class_names(loaded.network.num_classes)  # type: ignore[arg-type]
    return save_model_folder(
        path,
        loaded.network,
        name=name,
        architecture=loaded.architecture,
        class_names=class_names,
        preprocess=replace(loaded.preprocess, decode=decode or loaded.preprocess.decode),
    )


def find_named_model(name: str) -> ZooModel:
    """Look up a name of the zoo, or one of timm's after ``timm:``.

    Raises:
        UnknownModelError: with the nearest names.
    """
    if name.startswith(PREFIX):
        return find_timm_model(name)
    try:
        return find_model(name)
    except UnknownModelError as error:
        near = near_names(name)
        # Beside near names of the zoo only timm's own name, not another one that is like it.
        if not (timm_names := like_timm_names(name, cutoff=1.0 if near else 0.85)):
            raise
        names = ", ".join([*near[:1], *timm_names])
        raise UnknownModelError(f"{name}: no model of that name; did you mean {names}?") from error


def default_class_names(num_classes: int | None) -> Sequence[str]:
    """ImageNet's names for its 1,000 classes, else ``class_0`` and on."""
    if num_classes is None or num_classes == 1000:
        return imagenet_class_names()
    return [f"class_{i}" for i in range(num_classes)]

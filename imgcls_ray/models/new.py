"""Make model folders: from timm's weights, from a file of weights, or with random ones for benchmarks."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ModelFolderError, WeightsError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.engines import cache_dir
from imgcls_ray.models.folder import open_model_folder, save_model_folder
from imgcls_ray.models.remote import open_remote_folder
from imgcls_ray.models.zoo import build_network, find_model
from imgcls_ray.storage import DEFAULT_S3
from imgcls_ray.storage.s3 import is_s3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.zoo import ZooModel
    from imgcls_ray.storage.s3 import S3Options


def new_model_folder(
    name: str,
    path: Path,
    *,
    class_names: Sequence[str],
    weights: Path | None = None,
    random_seed: int | None = None,
) -> ModelFolder:
    """Make a model folder for a name of the zoo.

    Args:
        name: of the zoo.
        path: where; must not exist, or be empty.
        class_names: in the order of the network's outputs.
        weights: a ``.safetensors`` or torch state-dict file; a head of another class count is refused.
        random_seed: take random weights instead. Without either, timm's pretrained weights are taken, with a new
            random head unless ``class_names`` are ImageNet's own.

    Raises:
        UnknownModelError: with the nearest names.
        WeightsError: weights that cannot be had or do not fit.
        ModelFolderError: the path is taken.
    """
    import torch

    model = find_model(name)
    args: dict[str, Any] = dict(model.timm_args)
    preprocess = model.preprocess
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        if weights is None and random_seed is None:
            # timm's weights were trained with timm's own arguments and preprocessing.
            args = {}
            network, preprocess = _pretrained_network(model, num_classes=len(class_names))
        else:
            network = build_network(model.timm_name, args, num_classes=len(class_names))
    if weights is not None:
        _load_weights(network, weights, num_classes=len(class_names))
    return save_model_folder(
        path,
        network,
        name=name,
        timm_name=model.timm_name,
        timm_args=args,
        class_names=class_names,
        preprocess=preprocess,
    )


def is_model_path(model: str) -> bool:
    """Whether a ``--model`` means a folder rather than a name of the zoo."""
    return os.sep in model or os.path.exists(model)


def open_model(model: str, s3: S3Options = DEFAULT_S3) -> ModelFolder:
    """Open a model folder, or the pretrained model of a zoo name, which is fetched once and kept.

    Raises:
        ModelFolderError: the folder is unreadable or does not fit together.
        UnknownModelError: neither a folder nor a name of the zoo; with the nearest names.
        WeightsError: the pretrained weights cannot be had.
        StorageError: the folder's storage cannot be read.
    """
    if is_s3(model):
        return open_remote_folder(model, s3)
    if is_model_path(model):
        return open_model_folder(Path(model))
    find_model(model)
    kept = cache_dir() / "models" / model
    if not kept.exists():
        new_model_folder(model, kept, class_names=imagenet_class_names())
    return open_model_folder(kept)


def default_class_names(num_classes: int | None) -> list[str]:
    """ImageNet's names for its 1,000 classes, else ``class_0`` and on."""
    if num_classes is None or num_classes == 1000:
        return imagenet_class_names()
    return [f"class_{i}" for i in range(num_classes)]


def imagenet_class_names() -> list[str]:
    """The 1,000 names of ImageNet-1k, in the order of pretrained networks' outputs, each once."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = info.label_descriptions()
    # "crane" is a bird and a machine, "maillot" two garments: the WordNet id keeps them apart.
    double = {name for name in names if names.count(name) > 1}
    return [f"{name} ({info.index_to_label_name(i)})" if name in double else name for i, name in enumerate(names)]


def read_class_names(path: Path, *, num_classes: int | None = None) -> list[str]:
    """Read class names: one a line, or PaddleX's ``label.txt`` (``id name``, ids from 0 without gaps).

    Raises:
        ModelFolderError: unreadable, empty, or another number of names than ``num_classes``.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path}: is not a text of class names in UTF-8") from error
    pairs = [line.split(maxsplit=1) for line in lines]
    if pairs and all(len(pair) == 2 and pair[0].isdecimal() for pair in pairs):
        names = {int(number): name for number, name in pairs}
        if sorted(names) != list(range(len(pairs))):
            raise ModelFolderError(f"{path}: ids must run from 0 to {len(pairs) - 1}, each once")
        lines = [names[number] for number in range(len(pairs))]
    if not lines:
        raise ModelFolderError(f"{path}: holds no class names")
    if double := [name for name, count in Counter(lines).items() if count > 1]:
        raise ModelFolderError(f"{path}: names the class {double[0]!r} twice")
    if num_classes is not None and len(lines) != num_classes:
        raise ModelFolderError(f"{path}: names {len(lines)} classes, --num-classes says {num_classes}")
    return lines


def _pretrained_network(model: ZooModel, *, num_classes: int) -> tuple[nn.Module, Preprocess]:
    import timm

    if model.pretrained_tag is None:
        raise WeightsError(
            f"{model.name}: timm has no weights of this network; give --weights FILE, or --random for benchmarks"
        )
    # The hub's client tells of each of its attempts; the outcome is told below.
    for name in ("huggingface_hub", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        network = timm.create_model(
            f"{model.timm_name}.{model.pretrained_tag}", pretrained=True, num_classes=num_classes
        )
    # The hub's client raises its own kinds for no network, no cache, no space and no permission.
    except Exception as error:
        raise WeightsError(
            f"{model.name}: pretrained weights could not be loaded ({type(error).__name__}); they are downloaded once "
            "from Hugging Face and then kept, so this needs a network the first time; or give --weights FILE, or "
            "--random for benchmarks"
        ) from error
    config = network.pretrained_cfg
    crop_size = config["input_size"][-1]
    preprocess = Preprocess(
        resize_size=math.floor(crop_size / config["crop_pct"]),
        crop_size=crop_size,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    return network.eval(), preprocess


def _load_weights(network: nn.Module, path: Path, *, num_classes: int) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            # weights_only: a checkpoint is a pickle and may come from anyone.
            state = torch.load(path, map_location="cpu", weights_only=True)
    # Unpickling hostile bytes raises anything.
    except (SafetensorError, Exception) as error:
        raise WeightsError(f"{path}: is not a readable file of weights ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no state dict of tensors")
    expected = network.state_dict()
    for key, tensor in expected.items():
        if key not in state:
            raise WeightsError(f"{path}: has no weight {key!r}; it is of another network")
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, this network with {num_classes} classes needs "
                f"{tuple(tensor.shape)}"
            )
    if extra := sorted(set(state) - set(expected)):
        raise WeightsError(f"{path}: has weights that are not of this network, first {extra[0]!r}")
    network.load_state_dict(state)

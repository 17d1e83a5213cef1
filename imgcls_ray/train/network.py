"""Build the network that a run starts from, and write its model folders."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import UsageError
from imgcls_ray.models.architecture import at_size, build_network, no_memory
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.models.new import find_named_model
from imgcls_ray.models.open import is_model_path, open_model
from imgcls_ray.models.pretrained import pretrained_network
from imgcls_ray.models.spec import SPEC_FILE, WEIGHTS_FILE
from imgcls_ray.models.weights import load_weights, network_for_classes
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.optimisation import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.architecture import Architecture
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.state import ModelDescription, TrainState


logger = logging.getLogger(__name__)

_WAYS_OUT = "train from random weights (--scratch), or from weights of your own (--weights FILE)"


class Start(NamedTuple):
    """The network and settings that a run starts from."""

    network: nn.Module
    name: str
    family: str | None
    """Family of the network in the zoo; None for other networks."""
    architecture: Architecture
    preprocess: Preprocess
    """Preprocessing of evaluation and of the published model."""
    train_size: int
    """Height and width of training images, pixels."""
    is_trained: bool
    """Whether the weights were trained, not random."""
    origin: str
    """Source of the weights, in words."""


def open_start(config: TrainConfig, class_names: tuple[str, ...], storage: StorageOptions) -> Start:
    """Build the network with the configured weights and a head for these classes.

    Raises:
        UnknownModelError: ``model`` is neither a folder nor a known name; the message has the nearest names.
        WeightsError: the weights cannot be read or do not fit the network.
        ModelFolderError: the files of a model folder do not belong together.
        UsageError: the settings contradict each other.
    """
    import torch

    if is_object(config.model) or _is_folder(config.model):
        return _from_folder(config, class_names, storage)
    model = find_named_model(config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.weights is not None:
            loaded = load_weights(model, config.weights, num_classes=len(class_names), storage=storage)
            network, architecture, preprocess = loaded.network, loaded.architecture, loaded.preprocess
            origin = config.weights
        elif config.pretrained:
            loaded = pretrained_network(model, num_classes=len(class_names), ways_out=_WAYS_OUT)
            network, architecture, preprocess = loaded.network, loaded.architecture, loaded.preprocess
            origin = f"timm's {model.timm_weights}"
        else:
            network = build_network(model.architecture, num_classes=len(class_names))
            architecture, preprocess, origin = model.architecture, model.preprocess, f"random, seed {config.seed}"
    is_trained = config.weights is not None or config.pretrained
    train_size = model.train_size if _has_sizes_of(preprocess, model.preprocess) else preprocess.crop_size
    family = model.family if config.model in ZOO else None
    start = Start(network, model.name, family, architecture, preprocess, train_size, is_trained, origin)
    return _with_decode(_fitted(start, config.image_size), config)


def _is_folder(model: str) -> bool:
    """Whether it means a folder. One that has the name of a network, and no model, is likely an output of runs."""
    if not is_model_path(model):
        return False
    if model in ZOO and not os.path.exists(os.path.join(model, SPEC_FILE)):
        logger.warning("model=%s is the network; the folder of this name here is no model folder", model)
        return False
    return True


def _from_folder(config: TrainConfig, class_names: tuple[str, ...], storage: StorageOptions) -> Start:
    import torch

    if config.weights is not None:
        raise UsageError(
            f"model={config.model} is a model folder with its own weights; --weights is only for the name of a network"
        )
    folder = open_model(config.model, storage)
    spec = folder.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = network_for_classes(folder, class_names)
    known = ZOO.get(spec.name)
    size = spec.preprocess.crop_size
    start = Start(
        network,
        spec.name,
        known.family if known else None,
        spec.architecture,
        spec.preprocess,
        known.train_size if known and _has_sizes_of(spec.preprocess, known.preprocess) else size,
        True,
        f"{config.model} ({spec.fingerprint[:12]})",
    )
    return _with_decode(_fitted(start, config.image_size), config)


def _has_sizes_of(preprocess: Preprocess, known: Preprocess) -> bool:
    """Whether they are equal; how images are decoded changes no size."""
    return replace(preprocess, decode=known.decode) == known


def _with_decode(start: Start, config: TrainConfig) -> Start:
    decode = config.decode or start.preprocess.decode
    return start._replace(preprocess=replace(start.preprocess, decode=decode))


def _fitted(start: Start, image_size: int | None) -> Start:
    """The start at the image size that is asked for, run once at each of its sizes: what cannot pass is told here.

    Another image size keeps the share of the picture that the centre crop takes.
    """
    preprocess, train_size = start.preprocess, start.train_size
    if image_size is not None:
        resize_size = round(preprocess.resize_size * image_size / preprocess.crop_size)
        preprocess, train_size = replace(preprocess, resize_size=resize_size, crop_size=image_size), image_size
    network, architecture = start.network, start.architecture
    for size in sorted({train_size, preprocess.crop_size}):
        try:
            network, architecture = at_size(network, architecture, size)
        except ValueError as error:
            raise UsageError(
                f"image_size={size}: {start.name} cannot have images of this size ({error}); leave --image-size out "
                f"for {start.preprocess.crop_size} pixels, or give another size"
            ) from error
    return start._replace(network=network, architecture=architecture, preprocess=preprocess, train_size=train_size)


def check_recipe(name: str, architecture: Architecture, recipe: Recipe, *, grad_checkpointing: bool = False) -> None:
    """Refuse what the network cannot do, before workers start.

    Raises:
        UsageError: it has no blocks that can be skipped, no layers that can be told apart, or no parts that can be
            computed again.
    """
    if not recipe.drop_path and recipe.layer_decay == 1 and not grad_checkpointing:
        return
    with no_memory():
        try:
            network = build_network(architecture, num_classes=2, drop_path=recipe.drop_path)
        except ValueError as error:
            raise UsageError(
                f"drop_path={recipe.drop_path:g}: {name} has no blocks that can be left out; give --drop-path 0"
            ) from error
        try:
            make_optimizer(network, recipe)
        # timm groups the layers by what the network says of itself, if it does.
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"layer_decay={recipe.layer_decay:g}: the layers of {name} have no order; give --layer-decay 1"
            ) from error
        if grad_checkpointing:
            try:
                checkpoint_gradients(network)
            # timm asserts, or has no such method.
            except (AssertionError, AttributeError, TypeError) as error:
                raise UsageError(
                    f"grad_checkpointing: timm has none for {name}; leave it out, and give --accumulate-steps "
                    "for less memory"
                ) from error


def checkpoint_gradients(network: nn.Module) -> None:
    """Have the network compute activations again in the backward pass. A network that cannot raises any error."""
    network.set_grad_checkpointing(True)  # type: ignore[operator]


def network_of(model: ModelDescription, weights: Mapping[str, Tensor], *, drop_path: float = 0.0) -> nn.Module:
    """Build the network of a description and load these weights."""
    network = build_network(model.architecture, num_classes=len(model.class_names), drop_path=drop_path)
    network.load_state_dict(weights)
    return network


def publish_model(
    state: TrainState, weights: Mapping[str, Tensor], metrics: Mapping[str, float], directory: Directory, name: str
) -> str:
    """Write a model folder under the output, and replace an older one.

    The weights are written first. A reader between the two files sees that they do not belong together, and refuses.

    Returns:
        The fingerprint of the folder.

    Raises:
        StorageError: a file cannot be written.
    """
    model = state.model
    with scratch_folder("model") as place:
        folder = save_model_folder(
            Path(place, "model"),
            network_of(model, weights),
            name=model.name,
            architecture=model.architecture,
            class_names=model.class_names,
            preprocess=model.preprocess,
            metrics=metrics,
        )
        for file in (WEIGHTS_FILE, SPEC_FILE):
            directory.replace_from(f"{name}/{file}", str(folder.path / file))
    return folder.spec.fingerprint

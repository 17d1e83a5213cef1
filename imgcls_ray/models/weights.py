"""Weights from files: a model folder, safetensors, a torch or timm state dict, or PaddleClas' ``.pdparams``.

All of them are data: no file runs anything when it is read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgcls_ray.errors import WeightsError
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.folder import SPEC_FILE, open_model_folder
from imgcls_ray.models.paddle_weights import from_paddle, paddle_architecture
from imgcls_ray.models.pdparams import read_pdparams
from imgcls_ray.models.remote import open_remote_folder
from imgcls_ray.models.timm_models import PREFIX
from imgcls_ray.storage.s3 import is_s3

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.architecture import Architecture
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.zoo import ZooModel
    from imgcls_ray.storage.s3 import S3Options

logger = logging.getLogger("imgcls_ray")

_NUM_SHOWN = 5
_NOT_WEIGHTS = {
    ".pdiparams": "is Paddle's format for deployment; give the .pdparams file of the training it was exported from",
    ".pdmodel": "describes a network and holds no weights; give the .pdparams file of the training",
    ".pdopt": "is the state of Paddle's optimizer; give the .pdparams file beside it",
    ".pdstates": "is the state of Paddle's training; give the .pdparams file beside it",
    ".onnx": "is an exported network; give the weights that it was exported from",
    ".tar": "is an archive; unpack it and give the .pdparams file in it",
}


class LoadedNetwork(NamedTuple):
    """A network with its weights, in eval mode, and what a model folder says of it."""

    network: nn.Module
    architecture: Architecture
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    """Where the weights came with names."""


def load_weights(
    model: ZooModel, weights: str | Path, *, num_classes: int | None = None, s3: S3Options | None = None
) -> LoadedNetwork:
    """Build a network with weights from a file or a model folder.

    Args:
        model: what the weights are of.
        weights: a model folder (local or ``s3://``) or a file; its kind is told by its suffix.
        num_classes: if it is not that of the weights, their head is replaced by a random one, and a warning says so.

    Raises:
        WeightsError: unreadable, or of another network; with what did not fit.
        ModelFolderError: a folder that does not fit together.
    """
    where = str(weights)
    if is_s3(where) or Path(where).is_dir():
        folder = open_remote_folder(where, s3) if s3 is not None and is_s3(where) else open_model_folder(Path(where))
        return _from_folder(model, folder, where, num_classes)
    path = Path(where)
    if path.suffix in _NOT_WEIGHTS:
        raise WeightsError(f"{path}: {_NOT_WEIGHTS[path.suffix]}")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights, nor a model folder with a {SPEC_FILE}")
    if path.suffix == ".pdparams":
        if model.name.startswith(PREFIX):
            raise WeightsError(f"{path}: PaddleClas' weights go into networks of the zoo, not into {model.name}")
        architecture = paddle_architecture(model)
        skeleton, head = _skeleton(architecture)
        state = from_paddle(model, read_pdparams(path), skeleton, head)
    else:
        architecture, state = model.architecture, _read_state_dict(path)
    network = _fitted(architecture, state, num_classes, what=model.name, where=where)
    return LoadedNetwork(network, architecture, model.preprocess, class_names=None)


def head_name(network: nn.Module) -> str:
    """Name of the layer that has as many outputs as there are classes."""
    head: Any = network.get_classifier()  # type: ignore[operator]
    return next(str(name) for name, module in network.named_modules() if module is head)


def tell_of_new_head(where: str, num_before: int, num_classes: int) -> None:
    """Say that a head was replaced: such a model knows features, but no class yet."""
    logger.warning(
        "%s: has a head of %d classes; the new one of %d is random and must be trained before it labels anything",
        where,
        num_before,
        num_classes,
    )


def _from_folder(model: ZooModel, folder: ModelFolder, where: str, num_classes: int | None) -> LoadedNetwork:
    spec = folder.spec
    if spec.name != model.name and spec.architecture not in (model.architecture, paddle_architecture(model)):
        raise WeightsError(f"{where}: is a model folder of {spec.name}, not of {model.name}")
    state = folder.load_network().state_dict()
    network = _fitted(spec.architecture, state, num_classes, what=model.name, where=where)
    same_head = num_classes in (None, spec.num_classes)
    return LoadedNetwork(network, spec.architecture, spec.preprocess, spec.class_names if same_head else None)


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    import timm.models
    import torch

    try:
        # weights_only: a checkpoint is a pickle and may come from anyone. timm finds the state dict in a checkpoint of
        # its own, averaged weights before raw ones, and takes the prefixes of wrappers off.
        logging.getLogger("timm").setLevel(logging.ERROR)
        state: dict[str, torch.Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
    # Unpickling hostile bytes raises anything.
    except Exception as error:
        raise WeightsError(f"{path}: is not a readable file of weights ({type(error).__name__})") from error
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no state dict of tensors")
    return state


def _skeleton(architecture: Architecture) -> tuple[nn.Module, str]:
    """The network without memory, and the name of its head."""
    import torch

    with torch.device("meta"):
        network = build_network(architecture, num_classes=1000)
    return network, head_name(network)


def _fitted(
    architecture: Architecture, state: Mapping[str, torch.Tensor], num_classes: int | None, *, what: str, where: str
) -> nn.Module:
    """Build the network and put the weights in; all of them fit, the head apart, or none is taken."""
    _, head = _skeleton(architecture)
    head_weight = state.get(f"{head}.weight")
    num_in_file = head_weight.shape[0] if head_weight is not None and head_weight.ndim > 0 else None
    num_classes = num_classes or num_in_file or 1000
    network = build_network(architecture, num_classes=num_classes)
    expected = network.state_dict()
    if num_in_file is not None and num_in_file != num_classes:
        tell_of_new_head(where, num_in_file, num_classes)
        fresh = {name: value for name, value in expected.items() if name.startswith(f"{head}.")}
        state = {**state, **fresh}
    # Older files do not count batches, and nothing here reads the count.
    counts = {name: value for name, value in expected.items() if name.endswith(".num_batches_tracked")}
    state = {**counts, **state}
    if problems := _misfits(expected, state):
        raise WeightsError(f"{where}: does not fit {what}: {'; '.join(problems)}")
    network.load_state_dict(state)
    return network


def _misfits(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected]
    reshaped = [
        f"{name} ({tuple(state[name].shape)}, needs {tuple(expected[name].shape)})"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    kinds = [(missing, "missing"), (foreign, "not of this network"), (reshaped, "of another shape")]
    return [
        f"{len(names)} {'weight' if len(names) == 1 else 'weights'} {kind}: {_listed(names)}"
        for names, kind in kinds
        if names
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NUM_SHOWN])
    return f"{shown}, …" if len(names) > _NUM_SHOWN else shown

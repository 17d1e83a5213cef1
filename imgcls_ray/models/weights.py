"""Weights from files: a model folder, safetensors, a torch or timm state dict, or PaddleClas' ``.pdparams``.

All of them are data: no file runs anything when it is read.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import WeightsError
from imgcls_ray.models.architecture import build_network, no_memory
from imgcls_ray.models.checkpoints import read_weights
from imgcls_ray.models.class_names import match_names
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.paddle.conversion import from_paddle, paddle_architecture
from imgcls_ray.models.paddle.pdparams import read_pdparams, shown_name
from imgcls_ray.models.remote import open_remote_folder
from imgcls_ray.models.spec import SPEC_FILE
from imgcls_ray.models.timm_models import PREFIX
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import nn

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.architecture import Architecture
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.zoo import ZooModel
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

_NUM_SHOWN = 5
_MAX_CLASSES = 1_000_000
_NOT_WEIGHTS = {
    ".pdiparams": "is Paddle's format for deployment; give the .pdparams file of the training it was exported from",
    ".pdmodel": "describes a network and holds no weights; give the .pdparams file of the training",
    ".pdopt": "is the state of Paddle's optimizer; give the .pdparams file beside it",
    ".pdema": "holds Paddle's raw weights beside averaged ones; give the .pdparams file beside it",
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
    model: ZooModel, weights: str | Path, *, num_classes: int | None = None, storage: StorageOptions = DEFAULT_STORAGE
) -> LoadedNetwork:
    """Build a network with weights from a file or a model folder.

    Args:
        model: what the weights are of.
        weights: a model folder (local or on object storage) or a file; its kind is told by its suffix.
        num_classes: if it is not that of the weights, their head is replaced by a random one, and a warning says so.

    Raises:
        WeightsError: unreadable, or of another network; with what did not fit.
        ModelFolderError: a folder that does not fit together.
    """
    where = str(weights)
    if is_object(where):
        return _from_folder(model, open_remote_folder(where, storage), where, num_classes)
    path = Path(where)
    suffix = path.suffix.lower()
    if suffix in _NOT_WEIGHTS and not where.lower().endswith(".pth.tar"):
        raise WeightsError(f"{path}: {_NOT_WEIGHTS[suffix]}")
    if where and os.path.isdir(path):
        return _from_folder(model, open_model_folder(path), where, num_classes)
    if not os.path.isfile(path):
        what = "is no regular file" if os.path.exists(path) and where else "there is no such file of weights"
        raise WeightsError(f"{where[:200] or '--weights'}: {what}, nor a model folder with a {SPEC_FILE}")
    state: Mapping[str, torch.Tensor]
    if suffix == ".pdparams":
        if model.name.startswith(PREFIX):
            raise WeightsError(f"{path}: PaddleClas' weights go into networks of the zoo, not into {model.name}")
        architecture = paddle_architecture(model)
        try:
            state = from_paddle(model, read_pdparams(path), _skeleton(architecture))
        except ValueError as error:
            raise WeightsError(f"{path}: does not fit {model.name}: {error}") from error
    else:
        architecture, state = model.architecture, _read_state_dict(path, model.architecture)
    network = _fitted(architecture, state, num_classes, what=model.name, where=where)
    return LoadedNetwork(network, architecture, model.preprocess, class_names=None)


def network_for_classes(folder: ModelFolder, class_names: Sequence[str]) -> nn.Module:
    """A model folder's network for these classes, in this order.

    Where they are the folder's own, the head stays, put into this order; for others it is a new, random one.
    """
    spec = folder.spec
    network = folder.load_network()
    if tuple(class_names) == spec.class_names:
        return network
    heads = _head_axes(spec.architecture)
    state = network.state_dict()
    target = build_network(spec.architecture, num_classes=len(class_names))
    fresh = target.state_dict()
    found = match_names(dict(enumerate(class_names)), spec.class_names).values()
    if len(class_names) == spec.num_classes and None not in found:
        import torch

        places = torch.tensor(list(found))
        state.update((name, state[name].index_select(axis, places)) for name, axis in heads.items())
    else:
        state.update((name, fresh[name]) for name in heads)
    target.load_state_dict(state)
    return target


def tell_of_new_head(where: str, num_before: int, num_classes: int) -> None:
    """Say that a head was replaced: such a model knows features, but no class yet."""
    logger.warning(
        "%s: has a head of %d classes; the new head of %d classes is random, so train the model before you use it",
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


def _read_state_dict(path: Path, architecture: Architecture) -> Mapping[str, torch.Tensor]:
    names = frozenset(_skeleton(architecture).state_dict())
    return read_weights(path, names, _optional(names))


def _optional(names: Iterable[str]) -> set[str]:
    """Older files do not count batches, and nothing here reads the count."""
    return {name for name in names if name.endswith(".num_batches_tracked")}


def _skeleton(architecture: Architecture, num_classes: int = 1000) -> nn.Module:
    """The network without memory."""
    with no_memory():
        return build_network(architecture, num_classes=num_classes)


def _head_axes(architecture: Architecture) -> dict[str, int]:
    """Which tensors of a network have as many values as there are classes, and along which axis: its heads."""
    one, other = (_skeleton(architecture, count).state_dict() for count in (1000, 1001))
    axes = {}
    for name, tensor in one.items():
        differing = [axis for axis, (a, b) in enumerate(zip(tensor.shape, other[name].shape, strict=True)) if a != b]
        if len(differing) == 1 and (tensor.shape[differing[0]], other[name].shape[differing[0]]) == (1000, 1001):
            axes[name] = differing[0]
    return axes


def _fitted(
    architecture: Architecture, state: Mapping[str, torch.Tensor], num_classes: int | None, *, what: str, where: str
) -> nn.Module:
    """Build the network and put the weights in; all of them fit, the head apart, or none is taken."""
    heads = _head_axes(architecture)
    in_file = {state[name].shape[axis] for name, axis in heads.items() if name in state and state[name].ndim > axis}
    num_in_file = in_file.pop() if len(in_file) == 1 else None
    counts = num_in_file if num_in_file is not None and 1 <= num_in_file <= _MAX_CLASSES else 1000
    # Compared without memory first: what the file says of itself may be anything.
    expected = _skeleton(architecture, counts).state_dict()
    optional = _optional(expected)
    if problems := _misfits(expected, state, optional):
        raise WeightsError(f"{where}: does not fit {what}: {'; '.join(problems)}")
    network = build_network(architecture, num_classes=num_classes or counts)
    fresh = {name: value for name, value in network.state_dict().items() if name in optional and name not in state}
    if num_classes not in (None, counts):
        tell_of_new_head(where, counts, network.num_classes)  # type: ignore[arg-type]
        fresh.update((name, value) for name, value in network.state_dict().items() if name in heads)
    network.load_state_dict({**state, **fresh})
    return network


def _misfits(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], optional: set[str]) -> list[str]:
    missing = [name for name in expected if name not in state and name not in optional]
    foreign = [name for name in state if name not in expected]
    both = [name for name in expected if name in state]
    reshaped = [
        f"{name} ({tuple(state[name].shape)}, needs {tuple(expected[name].shape)})"
        for name in both
        if state[name].shape != expected[name].shape
    ]
    retyped = [
        f"{name} ({state[name].dtype}, needs {expected[name].dtype})"
        for name in both
        if state[name].is_floating_point() != expected[name].is_floating_point() or state[name].is_complex()
    ]
    kinds = [
        (missing, "missing"),
        (foreign, "not of this network"),
        (reshaped, "of another shape"),
        (retyped, "of another type"),
    ]
    return [_listed(names, kind) for names, kind in kinds if names]


def _listed(names: list[str], kind: str) -> str:
    shown = ", ".join(shown_name(name) for name in names[:_NUM_SHOWN]) + (", …" if len(names) > _NUM_SHOWN else "")
    return f"{counted(len(names), 'weight')} {kind}: {shown}"

"""The state dict in a file of torch or safetensors, under whatever keys and prefix a training program saved it.

Nothing in a file runs: torch reads with ``weights_only``, and what it would refuse for a class of someone's (a path
among the hyperparameters, say) is read as an object that holds and does nothing.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from imgcls_ray.errors import WeightsError
from imgcls_ray.models.paddle.pdparams import shown_name
from imgcls_ray.models.torch_file import check_torch_file
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set
    from pathlib import Path

    import torch

logger = logging.getLogger(__name__)

_NUM_SHOWN = 8
_MAX_DEPTH = 3
_MAX_PREFIX_PARTS = 6
"""``_fsdp.module.model.`` has three."""
# Averaged weights before raw ones, as timm does; then the names that training programs use.
_CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network_state_dict"),
    *("network", "params", "weights", "model_weights", "module"),
)
# Wrappers put these into names, at the beginning or within.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# What torch's AveragedModel keeps beside the weights.
_COUNTERS = frozenset({"n_averaged"})

_Content: TypeAlias = "torch.Tensor | Mapping[str, _Content] | list[_Content] | str | int | float | StandIn | None"


class StandIn:
    """In place of an object of a class that torch does not read: it takes whatever the file says, and does nothing."""

    def __new__(cls, *_args: _Content, **_kwargs: _Content) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *_args: _Content, **_kwargs: _Content) -> None:
        """Take nothing."""

    def __setstate__(self, _state: _Content) -> None:
        """Take nothing."""


class DictStandIn:
    """The same for a kind of dict: torch puts items into plain ones only."""

    def __new__(cls, *_args: _Content, **_kwargs: _Content) -> OrderedDict[str, _Content]:  # type: ignore[misc]
        return OrderedDict()


class Weights(NamedTuple):
    """A state dict of a file."""

    keys: tuple[str, ...]
    """Where in the file it stands; empty for the whole of it."""
    tensors: Mapping[str, torch.Tensor]


def read_weights(path: Path, names: Set[str], optional: Set[str]) -> Mapping[str, torch.Tensor]:
    """Read the weights of a network from a file, and tell what was taken off their names.

    Args:
        path: ``.safetensors``, or whatever ``torch.save`` wrote.
        names: those of the network's weights.
        optional: those that a file need not have.

    Returns:
        The weights by the network's names where all of them are there; else those of the first state dict, whose
        misfits the caller tells.

    Raises:
        WeightsError: it cannot be read, or holds no state dict; says which keys it holds.
    """
    content = _read(path)
    found = list(_state_dicts(content, (), set()))
    if not found:
        raise WeightsError(f"{path}: holds no state dict of plain tensors; {_shown_content(content)}")
    whole = [(weights, prefix) for weights in found for prefix in _whole_prefixes(weights.tensors, names - optional)]
    if not whole:
        nearest = max(found, key=lambda one: max(_prefixes(one.tensors, names).values(), default=0)).tensors
        return _without(nearest, _common_prefix(nearest, names))
    weights, prefix = whole[0]
    _refuse_ambiguous(path, whole)
    left_out = [name for name in weights.tensors if not _bare(name).startswith(prefix) and name not in _COUNTERS]
    _tell(path, weights.keys, prefix, left_out)
    return _without(weights.tensors, prefix)


def _read(path: Path) -> _Content:
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            tensors: dict[str, torch.Tensor] = load_file(path)
            return tensors
        classes = check_torch_file(path)
        try:
            return _load(path, dict.fromkeys(classes, StandIn))
        except pickle.UnpicklingError:
            # Some of them are kinds of dicts, perhaps; numpy's never.
            if all(name.startswith("numpy.") for name in classes):
                raise
            return _load(path, {name: StandIn if name.startswith("numpy.") else DictStandIn for name in classes})
    # Unpickling hostile bytes raises anything.
    except Exception as error:
        raise WeightsError(
            f"{path}: is not a readable file of weights ({type(error).__name__}: {_reason(error)}); known are model "
            "folders, .safetensors, torch state dicts and .pdparams"
        ) from error


def _load(path: Path, stand_ins: Mapping[str, type[StandIn | DictStandIn]]) -> _Content:
    """Read what ``torch.save`` wrote. Classes that torch knows it takes itself, and nothing of ``os`` and ``sys``."""
    import torch

    with (
        warnings.catch_warnings(),
        torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]),
    ):
        # torch speaks of protocols of pickles that it may not understand: the outcome is told.
        warnings.simplefilter("ignore", UserWarning)
        # weights_only: a checkpoint is a pickle and may come from anyone.
        content: _Content = torch.load(path, map_location="cpu", weights_only=True)
        return content


def _reason(error: Exception) -> str:
    """In one line; torch says how to read a file without care before it says what is wrong with it."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return shown_name(" ".join(text.partition("\n")[0].split()))


def _state_dicts(content: _Content, keys: tuple[str, ...], seen: set[int]) -> Iterator[Weights]:
    """All state dicts of a file: those under the usual keys first, then others in the file's order."""
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        return
    # One dict may stand under a million keys.
    if id(content) in seen:
        return
    seen.add(id(content))
    if all(map(_is_plain, content.values())):
        yield Weights(keys, content)
        return
    if len(keys) < _MAX_DEPTH:
        known = [name for name in _CONTAINERS if name in content]
        for name in dict.fromkeys([*known, *content]):
            yield from _state_dicts(content[name], (*keys, name), seen)


def _is_plain(value: _Content) -> bool:
    """Whether it is a tensor that holds as many values as it says."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return not value.is_quantized and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _without(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those with the prefix, without it; names of wrappers are taken out too."""
    return {
        name.removeprefix(prefix): value
        for name, value in ((_bare(name), value) for name, value in tensors.items())
        if name.startswith(prefix)
    }


def _prefixes(tensors: Mapping[str, torch.Tensor], names: Set[str]) -> Counter[str]:
    """What stands before how many names of the network."""
    counts: Counter[str] = Counter()
    for name in map(_bare, tensors):
        start = 0
        for _ in range(_MAX_PREFIX_PARTS):
            if name[start:] in names:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _whole_prefixes(tensors: Mapping[str, torch.Tensor], needed: Set[str]) -> list[str]:
    """What stands before all weights of the network; the empty one alone where they have their own names."""
    counts = _prefixes(tensors, needed)
    whole = sorted(prefix for prefix, count in counts.items() if count == len(needed))
    return [""] if "" in whole else whole


def _common_prefix(tensors: Mapping[str, torch.Tensor], names: Set[str]) -> str:
    """What stands before most names of the network, if it stands before every other name, too."""
    counts = _prefixes(tensors, names)
    prefix = max(counts, key=lambda one: (counts[one], -len(one)), default="")
    return prefix if all(_bare(name).startswith(prefix) for name in tensors) else ""


def _refuse_ambiguous(path: Path, whole: list[tuple[Weights, str]]) -> None:
    """Several networks of this kind in a file: none of them is guessed."""
    (weights, prefix), *others = whole
    if others := [other for other in others if not _goes_before(weights.keys, other[0].keys)]:
        ways = [".".join((*one.keys, start)) for one, start in ((weights, prefix), *others)]
        raise WeightsError(
            f"{path}: holds several networks of this kind: {_listed(ways)}; save the one that is meant as a file of "
            "its own"
        )


def _goes_before(keys: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether a usual key leads to the first state dict where the ways part: averaged weights go before raw ones."""
    first = next((one for one, other in zip(keys, others, strict=False) if one != other), None)
    return first in _CONTAINERS


def _tell(path: Path, keys: tuple[str, ...], prefix: str, left_out: list[str]) -> None:
    taken = f"the weights under {shown_name('.'.join(keys))}" if keys else "the weights"
    without = f", without the prefix {shown_name(prefix)}" if prefix else ""
    rest = f"; left out: {_listed(left_out)}" if left_out else ""
    if keys or without or rest:
        logger.info("%s: took %s%s%s", path, taken, without, rest)


def _shown_content(content: _Content) -> str:
    if not isinstance(content, dict):
        return f"it holds a {_kind(content)}; save model.state_dict(), and give that file"
    if not content:
        return "it is empty"
    keys = [f"{shown_name(str(name)[:200])} ({_kind(value)})" for name, value in list(content.items())[:_NUM_SHOWN]]
    more = ", …" if len(content) > _NUM_SHOWN else ""
    return f"its {counted(len(content), 'key')}: {', '.join(keys)}{more}"


def _kind(value: _Content) -> str:
    if isinstance(value, StandIn):
        return "pickled object"
    if isinstance(value, dict):
        return f"dict of {len(value):,}"
    return type(value).__name__


def _listed(names: list[str]) -> str:
    return ", ".join(map(shown_name, names[:_NUM_SHOWN])) + (", …" if len(names) > _NUM_SHOWN else "")

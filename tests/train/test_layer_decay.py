"""Layer-wise learning rates of the zoo's transformers, against what their names say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from timm.optim import param_groups_layer_decay

from imgcls_ray.models.architecture import build_network, no_memory
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.train.optimisation import make_optimizer, set_learning_rate
from imgcls_ray.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

DECAY = 0.7
TRANSFORMERS = [name for name, model in ZOO.items() if model.family in ("CLIP", "SwinTransformer") or "hybrid" in name]


def made(name: str) -> nn.Module:
    with no_memory():
        return build_network(ZOO[name].architecture, num_classes=3)


def depths(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Where each weight is, from the image to the head: equal for those of one layer, in the order of the layers."""
    places: dict[str, tuple[int, ...]] = {}
    for name, _ in network.named_parameters():
        if match := re.match(r"blocks\.(\d+)\.(\d+)\.", name) if hasattr(network, "conv_stem") else None:
            places[name] = (1, int(match[1]), int(match[2]))
        elif match := re.match(r"blocks\.(\d+)\.", name):
            places[name] = (1, int(match[1]))
        elif match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            places[name] = (1, int(match[1]), int(match[2]))
        elif match := re.match(r"layers\.(\d+)\.downsample\.", name):
            # Swin makes the picture smaller at the beginning of a stage.
            places[name] = (1, int(match[1]), 0)
        elif re.match(r"patch_embed|pos_embed|cls_token|norm_pre|conv_stem|bn1", name):
            places[name] = (0,)
        elif re.match(r"head|fc_norm|classifier|conv_head|norm_head", name):
            places[name] = (3,)
        else:
            assert re.match(r"norm\.", name), name
            # The norm behind the last block is of it.
            places[name] = (2,)
    last = max(place for place in places.values() if place[0] == 1)
    return {name: last if place == (2,) else place for name, place in places.items()}


def test_all_transformers_of_the_zoo_are_looked_at() -> None:
    assert len(TRANSFORMERS) == 10


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_each_layer_learns_slower_than_the_next(name: str) -> None:
    network = made(name)
    optimizer = make_optimizer(network, Recipe(optimizer="adamw", layer_decay=DECAY, weight_decay=0.05))
    set_learning_rate(optimizer, 1.0)
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    places = depths(network)
    assert rates.keys() == places.keys()
    order = sorted(set(places.values()), reverse=True)
    assert rates == pytest.approx({key: DECAY ** order.index(place) for key, place in places.items()})


@pytest.mark.parametrize("name", [TRANSFORMERS[0], TRANSFORMERS[-1]])
def test_groups_are_those_of_timm(name: str) -> None:
    network: Any = made(name)
    recipe = Recipe(optimizer="adamw", layer_decay=DECAY, weight_decay=0.05)
    groups = param_groups_layer_decay(
        network,
        0.05,
        no_weight_decay_list=network.no_weight_decay(),
        layer_decay=DECAY,
    )
    ours, theirs = (
        {(group["lr_scale"], group["weight_decay"]): {id(p) for p in group["params"]} for group in of}
        for of in (make_optimizer(network, recipe).param_groups, groups)
    )
    assert ours == theirs

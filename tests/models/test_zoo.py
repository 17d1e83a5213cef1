"""Names of the zoo give the networks that the names mean."""

from __future__ import annotations

import pytest

from imgcls_ray.errors import UnknownModelError
from imgcls_ray.models.zoo import ZOO, build_network, find_model

# PaddleClas' count of trainable parameters, 1,000 classes.
NUM_PARAMETERS = {
    "PP-LCNet_x0_25": 1521184,
    "PP-LCNet_x0_35": 1643090,
    "PP-LCNet_x0_5": 1879576,
    "PP-LCNet_x0_75": 2357008,
    "PP-LCNet_x1_0": 2952520,
    "PP-LCNet_x1_5": 4499832,
    "PP-LCNet_x2_0": 6521512,
    "PP-LCNet_x2_5": 9017560,
    "ResNet50": 25557032,
    "ResNet50_vd": 25576264,
    "ResNet101": 44549160,
    "ResNet101_vd": 44568392,
    "ResNet152": 60192808,
    "ResNet152_vd": 60212040,
    "ResNet200_vd": 74738504,
}


def test_every_name_has_its_count() -> None:
    assert NUM_PARAMETERS.keys() == ZOO.keys()


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_network_has_the_published_number_of_parameters(name: str) -> None:
    import torch

    model = find_model(name)
    with torch.device("meta"):
        network = build_network(model.timm_name, dict(model.timm_args), num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("PP-LCNet_x1.0", "PP-LCNet_x1_0"), ("resnet50", "ResNet50"), ("pplcnet_x2_5", "PP-LCNet_x2_5")],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownModelError, match=f"{wrong}: no model of that name; did you mean .*{nearest}"):
        find_model(wrong)


@pytest.mark.parametrize(
    ("timm_name", "timm_args"),
    [
        ("hf-hub:someone/model", {}),
        ("local-dir:/etc", {}),
        ("lcnet_100.ra2_in1k", {}),
        ("lcnet_100", {"pretrained_cfg_overlay": {"url": "http://example.org/x.pth"}}),
        ("lcnet_100", {"checkpoint_path": "/etc/passwd"}),
    ],
)
def test_a_model_folder_cannot_reach_timms_hubs_or_files(timm_name: str, timm_args: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="timm"):
        build_network(timm_name, timm_args, num_classes=2)

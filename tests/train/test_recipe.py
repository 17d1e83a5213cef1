"""What a run does with every knob."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgcls_ray.config import TrainConfig, make_config
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.train.recipe import Recipe, resolve_recipe


def resolved(
    name: str, *, batch_size: int = 64, num_images: int = 1_000_000, is_trained: bool = False, **values: Any
) -> Recipe:
    config = make_config(TrainConfig, {"data": "d", "model": name, **values})
    family = ZOO[name].family if name in ZOO else None
    return resolve_recipe(
        config, name=name, family=family, batch_size=batch_size, num_images=num_images, is_trained=is_trained
    )


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_has_its_familys_recipe(name: str) -> None:
    recipe = resolved(name, batch_size=1024, epochs=300)
    assert 1e-4 < recipe.learning_rate < 1.1
    assert (recipe.optimizer == "adamw") == (recipe.weight_decay >= 0.005)
    other = resolved("no_family_of_the_zoo", batch_size=1024, epochs=300)
    assert recipe != other


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("PP-LCNet_x1_0", 2048, {"learning_rate": 0.8, "weight_decay": 3e-5, "label_smoothing": 0.1}),
        ("ResNet34", 256, {"learning_rate": 0.1, "schedule": "step", "warmup_epochs": 0.0, "label_smoothing": 0.0}),
        ("ResNet50", 256, {"schedule": "cosine", "label_smoothing": 0.1}),
        ("ResNet50_vd", 256, {"weight_decay": 7e-5, "mixup": 0.2}),
        ("ConvNeXt_tiny", 4096, {"learning_rate": 4e-3, "drop_path": 0.1, "mixup": 0.8, "cutmix": 1.0}),
        ("MobileNetV4_conv_small", 8192, {"learning_rate": 2e-3, "ema_decay": 0.9998, "clip_grad_norm": 5.0}),
        ("MobileNetV4_conv_large", 2048, {"learning_rate": 2e-3, "drop_path": 0.35}),
        ("MobileNetV4_hybrid_large", 1536, {"learning_rate": 2e-3}),
        ("PP-HGNetV2-B0", 1024, {"learning_rate": 0.5}),
        ("CLIP_vit_base_patch16_224", 512, {"layer_decay": 0.6, "learning_rate": 3e-4}),
    ],
)
def test_it_is_the_published_one(name: str, batch: int, expected: dict[str, Any]) -> None:
    recipe = resolved(name, batch_size=batch, epochs=300)
    assert {key: getattr(recipe, key) for key in expected} == pytest.approx(expected)


def test_the_learning_rate_scales_with_the_batch_and_is_lower_for_trained_weights() -> None:
    large, small = resolved("PP-LCNet_x1_0", batch_size=512), resolved("PP-LCNet_x1_0", batch_size=64)
    assert large.learning_rate == pytest.approx(8 * small.learning_rate)
    trained = resolved("PP-LCNet_x1_0", batch_size=64, is_trained=True)
    assert trained.learning_rate == pytest.approx(small.learning_rate / 4)
    assert trained.crop_scale > small.crop_scale


@pytest.mark.parametrize("name", [name for name in ZOO if resolved(name).optimizer == "adamw"])
def test_fine_tuning_with_adamw_at_a_small_batch_has_a_rate_that_moves_the_network(name: str) -> None:
    rate = resolved(name, batch_size=64, is_trained=True).learning_rate
    assert 2e-5 < rate < 2e-4
    assert resolved(name, batch_size=256, is_trained=True).learning_rate == pytest.approx(2 * rate)


def test_the_rate_is_that_of_the_optimizer_that_is_asked_for() -> None:
    assert resolved("PP-LCNet_x1_0", batch_size=1024, optimizer="adamw").learning_rate == pytest.approx(1e-3)
    assert resolved("ConvNeXt_tiny", batch_size=256, optimizer="sgd").learning_rate == pytest.approx(0.1)
    assert resolved("ResNet50", batch_size=256, optimizer="sgd") == resolved("ResNet50", batch_size=256)


def test_what_is_asked_for_wins_nought_too() -> None:
    recipe = resolved("ConvNeXt_tiny", learning_rate=0.5, mixup=0, label_smoothing=0, optimizer="sgd", drop_path=0)
    assert (recipe.learning_rate, recipe.mixup, recipe.label_smoothing, recipe.drop_path) == (0.5, 0, 0, 0)
    assert recipe.optimizer == "sgd"
    assert recipe.cutmix == 1.0


def test_warm_up_takes_no_more_than_a_quarter_of_a_short_run() -> None:
    assert resolved("ConvNeXt_tiny", epochs=8).warmup_epochs == 2
    assert resolved("ConvNeXt_tiny", epochs=300).warmup_epochs == 20
    assert resolved("ConvNeXt_tiny", epochs=8, warmup_epochs=5).warmup_epochs == 5


def test_the_documentation_has_every_familys_recipe() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "train.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in text.splitlines()}
    for family in sorted({model.family for model in ZOO.values()}):
        optimizer, rate, schedule, decay, smoothing, *_ = rows[family]
        batch = int(rate.split(" / ")[1])
        config = make_config(TrainConfig, {"data": "d", "model": "m", "epochs": 300})
        recipe = resolve_recipe(
            config, name="", family=family, batch_size=batch, num_images=1_000_000, is_trained=False
        )
        assert rate == f"{recipe.learning_rate:g} / {batch}"
        assert optimizer == recipe.optimizer
        assert schedule == f"{recipe.schedule}, {recipe.warmup_epochs:g}"
        assert (decay, smoothing) == (f"{recipe.weight_decay:g}", f"{recipe.label_smoothing:g}")

"""A network that learns from another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from imgcls_ray.errors import ModelFolderError, UsageError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.engines.torch_engine import make_normalise
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train.distillation import Teacher, divergences, open_same_teacher, open_teacher, outputs_of
from imgcls_ray.train.losses import IGNORED
from tests.conftest import SMALL_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.train.result import TrainResult

CPU = torch.device("cpu")
# Two of the teacher's seven classes, in another order.
NAMES = (SMALL_CLASSES[4], SMALL_CLASSES[1])
OTHER = Preprocess(64, 64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def teacher_of(folder: ModelFolder, preprocess: Preprocess, *, weight: float = 0.5) -> Teacher:
    return Teacher(folder, NAMES, preprocess, device=CPU, weight=weight, temperature=2.0)


def pixels(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * images).byte().permute(0, 2, 3, 1)


def test_the_teacher_sees_images_as_it_was_trained_for_them(small_model: ModelFolder) -> None:
    given = pixels(5, 64)
    normalised = make_normalise(OTHER)(given)
    with torch.inference_mode():
        own = small_model.load_network()(make_normalise(small_model.spec.preprocess)(given))
    got = teacher_of(small_model, OTHER).logits(normalised)
    assert torch.allclose(got, own[:, [4, 1]], atol=1e-3 * float(own.abs().max()))


def test_the_teacher_has_its_own_size(small_model: ModelFolder) -> None:
    teacher = teacher_of(small_model, small_model.spec.preprocess)
    images = make_normalise(small_model.spec.preprocess)(pixels(5, 128))
    with torch.inference_mode():
        smaller = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        expected = small_model.load_network()(smaller)[:, [4, 1]]
    assert torch.allclose(teacher.logits(images), expected, atol=1e-3 * float(expected.abs().max()))


def test_the_divergence_is_torchs_of_probabilities() -> None:
    one, other = torch.randn(6, 4), torch.randn(6, 4)
    p, q = (values.div(3.0).softmax(1) for values in (one, other))
    expected = 9 * (q * (q / p).log()).sum(1)
    assert torch.allclose(divergences(one, other, 3.0), expected, atol=1e-5)
    assert divergences(one, one + 5, 3.0).abs().max() < 1e-5


def test_gradients_are_as_large_at_any_temperature() -> None:
    # Hinton et al. 2015: of high temperatures, the gradient is that of the difference of centred logits.
    one, other = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4)
    torch.autograd.backward(divergences(one, other, 1000.0).sum())
    difference = (one - one.mean()) - (other - other.mean())
    assert one.grad is not None
    assert torch.allclose(one.grad, difference.detach() / 4, atol=1e-2)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_loss_has_the_teachers_share_and_none_of_what_does_not_count(
    small_model: ModelFolder, weight: float
) -> None:
    teacher = teacher_of(small_model, small_model.spec.preprocess, weight=weight)
    logits, of_teacher = torch.randn(4, 2), torch.randn(4, 2)
    target = torch.tensor([0, 1, IGNORED, 1])
    losses = divergences(logits, of_teacher, 2.0)
    blended = teacher.blended(torch.tensor(7.0), logits, of_teacher, target)
    counted = losses[0] + losses[1] + losses[3]
    assert blended.item() == pytest.approx(float((1 - weight) * 7 + weight * counted))
    mixed = F.one_hot(torch.tensor([0, 1, 0, 1]), 2).float()
    assert teacher.blended(torch.tensor(7.0), logits, of_teacher, mixed).item() == pytest.approx(
        float((1 - weight) * 7 + weight * losses.sum())
    )


def test_a_teacher_without_the_classes_is_refused(small_model: ModelFolder) -> None:
    assert outputs_of(small_model, NAMES) == [4, 1]
    with pytest.raises(
        UsageError, match=r"lacks 1 class of the dataset, e\.g\. 'zebra'; give a model that was trained"
    ):
        open_teacher(str(small_model.path), (*NAMES, "zebra"), DEFAULT_STORAGE)
    with pytest.raises(UsageError, match="teacher=ResNet50: is a name; give a model folder"):
        open_teacher("ResNet50", NAMES, DEFAULT_STORAGE)
    with pytest.raises(ModelFolderError, match="was replaced while the run was starting"):
        open_same_teacher(str(small_model.path), "0" * 64, DEFAULT_STORAGE)


def test_a_run_learns_from_its_teacher_and_goes_on_with_no_other(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], tmp_path: Path
) -> None:
    folders = [
        new_model_folder("PP-LCNet_x0_25", tmp_path / str(seed), class_names=("blue", "green", "red"), random_seed=seed)
        for seed in (0, 1)
    ]
    settings: dict[str, Any] = {"epochs": 1, "mixup": 0.2, "teacher_weight": 1.0}
    config = make_train_config(teacher=str(folders[0].path), **settings)
    train_here(config)
    assert train_here(config).was_done
    for other in (str(folders[1].path), None):
        with pytest.raises(UsageError, match="finished run with teacher="):
            train_here(make_train_config(teacher=other, **settings))

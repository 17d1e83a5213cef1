"""The network that learns."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import build_network
from imgcls_ray.models.zoo import find_model
from imgcls_ray.train.distillation import Teacher
from imgcls_ray.train.learner import Learner
from imgcls_ray.train.loading import Batch
from imgcls_ray.train.recipe import Recipe
from imgcls_ray.train.state import ModelDescription, RunIdentity, StartInfo, TrainState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.models.folder import ModelFolder

CPU = torch.device("cpu")
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 2], dtype=np.int32)


def make_state(seed: int = 0) -> TrainState:
    architecture = find_model("PP-LCNet_x0_25").architecture
    torch.manual_seed(seed)
    network = build_network(architecture, num_classes=3)
    model = ModelDescription("small", architecture, ("a", "b", "c"), Preprocess(32, 32))
    start = StartInfo("small", None, is_trained=False, train_size=32, origin="random")
    return TrainState(model, RunIdentity(start, "data", 8, {}), network.state_dict())


def make_batch(count: int, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(pixels, torch.arange(count) % 3, ())


@pytest.fixture
def make_learner(make_train_config: Callable[..., TrainConfig]) -> Callable[..., Learner]:
    # Other tests may run beside these: on so small a network more threads only get in each other's way.
    torch.set_num_threads(1)

    def make(
        state: TrainState | None = None,
        *,
        batch_size: int = 8,
        recipe: Any = None,
        labels: np.ndarray = LABELS,
        teacher: Teacher | None = None,
        **config: Any,
    ) -> Learner:
        return Learner(
            state or make_state(),
            make_train_config(**config),
            Recipe(**(recipe or {})),
            batch_size=batch_size,
            labels=labels,
            device=CPU,
            world_size=1,
            teacher=teacher,
        )

    return make


def step(learner: Learner, *batches: Batch, rate: float = 0.1, number: int = 0) -> dict[str, torch.Tensor]:
    """The weights after a step."""
    learner.step(batches, num_passes=len(batches), rate=rate, step=number, seed=number)
    return learner.weights_for_use()


def test_a_step_goes_down(make_learner: Callable[..., Learner]) -> None:
    learner, batch = make_learner(), make_batch(8)
    losses = []
    for number in range(25):
        step(learner, batch, rate=0.005, number=number)
        losses.append(learner.take_sums([])[0][0])
    assert losses[-1] < 0.5 * losses[0]


def test_an_image_that_could_not_be_read_adds_nothing_and_takes_nothing(make_learner: Callable[..., Learner]) -> None:
    # A mean over eight of which one is missing is seven eighths of the mean over seven.
    state, seven = make_state(), make_batch(7)
    recipe = {"momentum": 0.0, "weight_decay": 0.0}
    whole = step(make_learner(state, batch_size=7, recipe=recipe), seven, rate=0.0007)
    part = step(make_learner(state, batch_size=8, recipe=recipe), seven, rate=0.0008)
    assert all(torch.allclose(whole[name], part[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize("count", [0, 1])
def test_a_pass_of_hardly_any_image_is_no_accident(make_learner: Callable[..., Learner], count: int) -> None:
    learner = make_learner(recipe={"weight_decay": 0.0})
    before = learner.weights_for_use()
    after = step(learner, make_batch(count), rate=0.1)
    assert all(tensor.isfinite().all() for tensor in after.values())
    head = "classifier.weight"
    assert torch.equal(before[head], after[head]) == (count == 0)
    (_, correct), (num_images,) = learner.take_sums([float(count)])
    assert correct <= count == num_images


@pytest.mark.parametrize("count", [8, 1])
def test_what_is_computed_again_changes_nothing(make_learner: Callable[..., Learner], count: int) -> None:
    state, batch = make_state(), make_batch(count)
    kept, again = (step(make_learner(state, grad_checkpointing=on), batch) for on in (False, True))
    assert all(kept[name].equal(again[name]) for name in kept)
    num_passes = [tensor for name, tensor in again.items() if name.endswith("num_batches_tracked")]
    assert max(num_passes) == 1


def test_blocks_are_computed_again_where_asked_for(make_learner: Callable[..., Learner]) -> None:
    num_runs = {}
    for on in (False, True):
        learner = make_learner(grad_checkpointing=on)
        runs: list[int] = []
        block: Any = learner._network.get_submodule("blocks.2.0")
        # Behind it, torch may have all that it needs, and break off.
        block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        step(learner, make_batch(8))
        num_runs[on] = len(runs)
    assert num_runs == {False: 1, True: 2}


def test_passes_of_a_step_add_up(make_learner: Callable[..., Learner]) -> None:
    # Frozen, so that batch norm has no part in it.
    state, batch = make_state(), make_batch(8)
    halves = [Batch(batch.pixels[i : i + 4], batch.labels[i : i + 4], ()) for i in (0, 4)]
    whole = step(make_learner(state, freeze="backbone"), batch)
    parts = step(make_learner(state, freeze="backbone"), *halves)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_a_linear_probe_changes_the_head_alone(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner(freeze="backbone")
    before = learner.weights_for_use()
    after = step(learner, make_batch(8))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_balanced_weights_count_small_classes_for_more(make_learner: Callable[..., Learner]) -> None:
    losses = {}
    for class_weights in ("none", "balanced"):
        learner = make_learner(freeze="backbone", class_weights=class_weights)
        for label in range(3):
            batch = Batch(make_batch(8).pixels, torch.full((8,), label), ())
            step(learner, batch, rate=0.0)
            losses[class_weights, label] = learner.take_sums([])[0][0]
    ratios = [losses["balanced", label] / losses["none", label] for label in range(3)]
    # 6, 1 and 1 of 8 images.
    assert ratios == pytest.approx([8 / 18, 8 / 3, 8 / 3], rel=1e-5)


def test_mixed_images_have_mixed_labels(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner(recipe={"mixup": 1.0, "cutmix": 1.0})
    for number in range(4):
        step(learner, make_batch(8), number=number)
    (loss, _), _ = learner.take_sums([])
    assert np.isfinite(loss)


def test_the_same_seed_draws_the_same_again(make_learner: Callable[..., Learner]) -> None:
    state = make_state()
    one, other = (step(make_learner(state, recipe={"mixup": 1.0}), make_batch(8)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_goes_on_from_a_state_is_what_would_have_gone_on(make_learner: Callable[..., Learner]) -> None:
    state, recipe = make_state(), {"ema_decay": 0.9, "optimizer": "adamw"}
    learner = make_learner(state, recipe=recipe)
    step(learner, make_batch(8), rate=0.01)
    kept = make_state()
    learner.write_to(kept)
    # Its optimizer is the one that goes on, until it is saved.
    kept = copy.deepcopy(kept)
    goes_on = step(make_learner(kept, recipe=recipe), make_batch(8, seed=1), rate=0.01, number=1)
    went_on = step(learner, make_batch(8, seed=1), rate=0.01, number=1)
    assert all(torch.allclose(goes_on[name], went_on[name], atol=1e-7) for name in went_on)


def test_metrics_are_those_of_a_plain_count(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner()
    batches = [
        make_batch(5),
        Batch(make_batch(0).pixels, make_batch(0).labels, (("val", 3, "corrupt"),)),
        make_batch(4),
    ]
    metrics, num_bad, class_counts = learner.evaluate(batches)
    network = build_network(find_model("PP-LCNet_x0_25").architecture, num_classes=3)
    network.load_state_dict(make_state().network)
    mean, std = (255 * torch.tensor(v).view(1, 3, 1, 1) for v in (Preprocess().mean, Preprocess().std))
    with torch.inference_mode():
        logits = torch.cat([network((batch.pixels.float() - mean) / std) for batch in batches if len(batch.labels)])
    labels = torch.cat([batch.labels for batch in batches])
    assert metrics["val.top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics["val.loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["val.top5"] == 1.0
    assert num_bad == 1
    told = logits.argmax(1)
    counted = (labels[labels == told], labels, told)
    assert class_counts == [torch.bincount(of, minlength=3).tolist() for of in counted]


def test_a_step_comes_nearer_to_the_teacher(small_model: ModelFolder, make_learner: Callable[..., Learner]) -> None:
    # Whatever the labels say: its weight is 1.
    names, preprocess = small_model.spec.class_names[:3], Preprocess(32, 32)
    teacher = Teacher(small_model, names, preprocess, device=CPU, weight=1.0, temperature=2.0)
    learner, batch, losses = make_learner(teacher=teacher), make_batch(8), []
    for number in range(25):
        step(learner, batch, rate=0.005, number=number)
        losses.append(learner.take_sums([])[0][0])
    assert losses[-1] < 0.5 * losses[0]


def test_batches_of_an_evaluation_are_ordinary_tensors(make_learner: Callable[..., Learner]) -> None:
    # Loaded under inference mode, the batches of training that come with them could not be learnt from.
    modes = []

    def batches() -> Iterator[Batch]:
        for _ in range(2):
            modes.append(torch.is_inference_mode_enabled())
            yield make_batch(3)

    make_learner().evaluate(batches())
    assert modes == [False, False]

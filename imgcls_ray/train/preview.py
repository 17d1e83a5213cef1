"""Show what a run would do before it begins: pictures as the network sees them, settings, time and memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.config import TrainConfig
from imgcls_ray.errors import JobFailedError
from imgcls_ray.models.class_names import names_apart
from imgcls_ray.train.augment import make_mixer
from imgcls_ray.train.begin import given_keys
from imgcls_ray.train.choices import FEW_IMAGES, keys_for_few
from imgcls_ray.train.events import Doing, EpochDone, StepsDone
from imgcls_ray.train.trial import Begun, device_of, first_batches, part_of, peak_memory, try_steps

if TYPE_CHECKING:
    import numpy as np
    import torch

    from imgcls_ray.train.events import Event
    from imgcls_ray.train.state import Setting

_NUM_PICTURES = 24
# The first steps allocate, compile and wait for the loading processes.
_WARM_STEPS, _NUM_STEPS = 3, 12
_MIN_SHARE = 0.05


class Choice(NamedTuple):
    """A setting of a run, and where it comes from."""

    key: str
    value: Setting
    origin: str


@dataclass(frozen=True)
class Preview:
    """What a run would do."""

    choices: list[Choice]
    pictures: list[np.ndarray]
    """uint8 (S, S, 3), augmented training images."""
    captions: list[str]
    """Their classes; of mixed pictures with shares."""
    images_per_s: float
    """Of training on one worker."""
    epoch_s: float
    """Seconds of an epoch on one worker, with its evaluation."""
    memory_bytes: int
    device: str


def preview_run(begun: Begun) -> Preview:
    """Load some batches and train a few steps.

    Raises:
        JobFailedError: the images cannot be read, or the loss is no number.
    """
    images_per_s, epoch_s = _measured(begun)
    pictures, captions = _samples(begun)
    if not pictures:
        raise JobFailedError("the preview failed: none of its first images can be read; `imgcls check` tells why")
    device = device_of(begun.config)
    return Preview(_choices(begun), pictures, captions, images_per_s, epoch_s, peak_memory(device), device.type)


def _samples(begun: Begun) -> tuple[list[np.ndarray], list[str]]:
    """Pictures as the network sees them, mixed if the recipe mixes, and what they are said to be."""
    import torch

    per_pass = max(begun.batch_size // begun.config.accumulate_steps, 1)
    num_steps = len(begun.entries.tables["train"]) // begun.batch_size
    num_batches = min(-(-_NUM_PICTURES // per_pass), num_steps * begun.config.accumulate_steps)
    names = names_apart(begun.state.model.class_names)
    mix = make_mixer(begun.recipe, len(names))
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    torch.manual_seed(begun.config.seed)
    for batch in first_batches(begun, num_batches):
        pixels, targets = batch.pixels.float(), torch.nn.functional.one_hot(batch.labels, len(names)).float()
        if mix is not None and len(batch.labels) >= 2:
            pixels, targets = mix(pixels, batch.labels)
        pictures += list(pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        captions += [_caption(target, names) for target in targets]
    return pictures[:_NUM_PICTURES], captions[:_NUM_PICTURES]


def _caption(target: torch.Tensor, names: tuple[str, ...]) -> str:
    shares = [(share, name) for share, name in zip(target.tolist(), names, strict=True) if share >= _MIN_SHARE]
    if len(shares) == 1:
        return shares[0][1]
    return " + ".join(f"{100 * share:.0f} % {name}" for share, name in sorted(shares, reverse=True))


def _measured(begun: Begun) -> tuple[float, float]:
    """Images per second of training, and seconds of an epoch with its evaluation."""
    num_val = len(begun.entries.tables["val"])
    few = part_of(begun.entries, num_train=begun.batch_size * _NUM_STEPS, num_val=begun.batch_size * 2)
    one_epoch = Begun(
        begun.config.model_copy(update={"eval_interval": 1}), few, begun.state, replace(begun.recipe, epochs=1)
    )
    events, outcome = try_steps(one_epoch, few)
    # A step of which no image can be read has no rate.
    rates = [event.images_per_s for _, event in events if isinstance(event, StepsDone) and event.images_per_s]
    if not rates:
        reason = outcome.reason or "no image can be read; `imgcls check` tells why"
        raise JobFailedError(f"the preview failed: {reason}")
    warm = rates[min(_WARM_STEPS, len(rates) - 1) :]
    rate = len(warm) / sum(1 / each for each in warm)
    train_s = len(begun.entries.tables["train"]) / rate
    return rate, train_s + _evaluation_s(events) * num_val / max(len(few.tables["val"]), 1)


def _evaluation_s(events: list[tuple[float, Event]]) -> float:
    begin = [at for at, event in events if isinstance(event, Doing) and event.what == "evaluating"]
    end = [at for at, event in events if isinstance(event, EpochDone)]
    return end[0] - begin[0] if begin and end else 0.0


def _choices(begun: Begun) -> list[Choice]:
    num_images = len(begun.entries.tables["train"])
    given = given_keys(begun.config, begun.state)
    for_few = keys_for_few() if num_images <= FEW_IMAGES else {"batch_size", "epochs"}
    start = begun.state.identity.start
    values = {"batch_size": begun.batch_size, **asdict(begun.recipe)}
    origins = dict.fromkeys(values, f"recipe of {start.family or 'other networks'}")
    origins |= {key: "default" for key in values if TrainConfig.model_fields[key].default is not None}
    origins |= dict.fromkeys(for_few, f"{num_images:,} images, {'trained' if start.is_trained else 'random'} weights")
    origins |= dict.fromkeys(given, "given")
    return [Choice(key, value, origins[key]) for key, value in values.items()]

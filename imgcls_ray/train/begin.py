"""What a run begins with: its network, its recipe, and its identity, which a command that continues it must share."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from imgcls_ray.config import TrainConfig
from imgcls_ray.errors import UsageError
from imgcls_ray.options import storage_options
from imgcls_ray.train.choices import choose_batch_size
from imgcls_ray.train.distillation import open_teacher
from imgcls_ray.train.network import open_start
from imgcls_ray.train.recipe import RECIPE_KEYS, chosen_keys, resolve_recipe
from imgcls_ray.train.state import ModelDescription, RunIdentity, StartInfo, TrainState

if TYPE_CHECKING:
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.state import Setting

# What two runs must have in common for one to go on with the other's work; the rest may change between them.
_IDENTITY_KEYS = (
    "model",
    "weights",
    "pretrained",
    "freeze",
    "image_size",
    "decode",
    "seed",
    "class_weights",
    "focal_gamma",
    "logit_adjustment",
    "sampling",
    "monitor",
)
_CHOSEN = "chosen"
"""Name of the setting that lists which keys were not given, but chosen, when a run began."""
# What states of earlier versions do not say.
_ONCE: dict[str, Setting] = {
    "monitor": "top1",
    "focal_gamma": 0.0,
    "logit_adjustment": 0.0,
    "vertical_flip": 0.0,
    "color_jitter": 0.0,
}


def new_state(config: TrainConfig, entries: Entries) -> TrainState:
    """Open the network that a new run starts from, and settle its recipe.

    Raises:
        UsageError: the settings cannot work with this network or dataset.
        ImgclsError: as ``open_start``.
    """
    start = open_start(config, entries.class_names, storage_options(config))
    info = StartInfo(start.name, start.family, start.is_trained, start.train_size, start.origin)
    model = ModelDescription(start.name, start.architecture, entries.class_names, start.preprocess)
    identity = _identity(config, entries, info)
    settings = {**identity.settings, _CHOSEN: " ".join(chosen_keys(config))}
    return TrainState(model, replace(identity, settings=settings), start.network.state_dict())


def continued(config: TrainConfig, entries: Entries, state: TrainState) -> tuple[TrainConfig, Recipe]:
    """The configuration with what was chosen when the run began, and its recipe.

    Raises:
        UsageError: it is of another run.
    """
    config = _as_begun(config, state)
    _check_identity(config, entries, state)
    return config, recipe_of(config, entries, state.identity.start)


def given_keys(config: TrainConfig, state: TrainState) -> set[str]:
    """Keys of the batch size and the hyperparameters that were given, and not chosen, when the run began."""
    chosen = set(str(state.identity.settings.get(_CHOSEN, "")).split())
    return {key for key in RECIPE_KEYS if getattr(config, key) != TrainConfig.model_fields[key].default} - chosen


def recipe_of(config: TrainConfig, entries: Entries, start: StartInfo) -> Recipe:
    """The hyperparameters that a configuration gives or leaves to be chosen."""
    return resolve_recipe(
        config,
        name=start.name,
        family=start.family,
        batch_size=_batch_size(config, entries),
        num_images=len(entries.tables["train"]),
        is_trained=start.is_trained,
    )


def _batch_size(config: TrainConfig, entries: Entries) -> int:
    num_images = len(entries.tables["train"])
    num_workers = config.num_workers or len(config.gpu_ids) or 1
    num_parts = config.accumulate_steps * num_workers
    if config.batch_size is None:
        batch_size = choose_batch_size(num_images, num_parts=num_parts)
    else:
        batch_size = min(config.batch_size, num_images)
    if num_parts > batch_size:
        raise UsageError(
            f"a step of {batch_size} images cannot be divided into {num_parts} passes (num_workers={num_workers}, "
            f"accumulate_steps={config.accumulate_steps}); give a larger batch_size"
        )
    return batch_size


def _identity(config: TrainConfig, entries: Entries, start: StartInfo) -> RunIdentity:
    settings = {key: getattr(config, key) for key in _IDENTITY_KEYS} | asdict(recipe_of(config, entries, start))
    settings |= _teaching(config, entries)
    return RunIdentity(start, entries.fingerprint, _batch_size(config, entries), settings)


def _teaching(config: TrainConfig, entries: Entries) -> dict[str, Setting]:
    if config.teacher is None:
        return {"teacher": None}
    teacher = open_teacher(config.teacher, entries.class_names, storage_options(config))
    keys = ("teacher_weight", "teacher_temperature")
    return {"teacher": teacher.spec.fingerprint, **{key: getattr(config, key) for key in keys}}


def _as_begun(config: TrainConfig, state: TrainState) -> TrainConfig:
    """The configuration with what was chosen when the run began, where it gives nothing.

    What is chosen for how many images may differ between versions; a run goes on with what it has.
    """
    there = state.identity.to_values()
    chosen = there.get(_CHOSEN)
    # Runs of earlier versions do not say which of their values were given.
    keys = chosen_keys(config) if chosen is None else chosen_keys(config) & set(chosen.split())
    return config.model_copy(update={key: there[key] for key in sorted(keys) if key in there})


def _check_identity(config: TrainConfig, entries: Entries, state: TrainState) -> None:
    """Refuse to go on with another run than the one that is there."""
    here = _identity(config, entries, state.identity.start)
    there = state.identity.to_values()
    for key, value in here.to_values().items():
        if value != there.get(key, _ONCE.get(key)):
            words = (
                "of another dataset, or this one has changed"
                if key == "data"
                else f"with {key}={there.get(key)}, this command has {key}={value}"
            )
            raise UsageError(f"{config.output}: holds a {_way_on(config, state, words)}")


def _way_on(config: TrainConfig, state: TrainState, words: str) -> str:
    """What to do where the output holds another run; a finished one can only be trained on as a new one."""
    output = config.output.rstrip("/")
    epochs = state.identity.settings.get("epochs")
    if isinstance(epochs, int) and state.history and state.history[-1]["epoch"] >= epochs:
        return (
            f"finished run {words}; to train its best model further, give --model {output}/best_model --output MORE; "
            "to train anew, give another --output"
        )
    return f"run {words}; give another --output, or the same settings to continue that run"

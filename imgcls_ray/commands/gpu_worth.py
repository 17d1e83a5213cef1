"""Whether the GPUs that there are can do a job, and whether it is worth their start."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from imgcls_ray.config import EvaluateConfig, LabelConfig, PredictConfig, ServeConfig, TrainConfig
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.listing import list_unsorted
from imgcls_ray.machine import available_cores
from imgcls_ray.models.open import is_model_path, open_model
from imgcls_ray.models.zoo import ZOO
from imgcls_ray.options import name_rules, storage_options
from imgcls_ray.predict.like import list_like, open_like
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.store.plan import cpu_ms_per_image
from imgcls_ray.train.choices import FEW_IMAGES, choose_epochs
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.options import StorageOptions

_GPU_START_S = 15.0
"""What a GPU costs before its first batch: CUDA's libraries, a context, the network's compilation. A guess on the safe
side of what is common: no figure depends on it but the choice."""
_PASSES_OF_A_STEP = 3
"""Training goes forward and backward, which costs about twice as much again."""
_USUAL_BYTES = 100e6
"""Of weights whose size is not known before they are fetched."""


def why_not_gpus(config: LabelConfig | EvaluateConfig | TrainConfig | ServeConfig, num_gpus: int) -> str | None:
    """Why CPUs do the job, for people; None if GPUs do it.

    Raises:
        ImgclsError: something is wrong with the model or the images.
    """
    return _cannot_use_gpus(config, num_gpus) or _is_done_sooner_without(config)


def _cannot_use_gpus(config: LabelConfig | EvaluateConfig | TrainConfig | ServeConfig, num_gpus: int) -> str | None:
    """Why the GPUs would be refused, if they would."""
    if isinstance(config, TrainConfig):
        if config.num_workers is not None and config.num_workers > num_gpus:
            return f"num_workers={config.num_workers} is more than {counted(num_gpus, 'GPU')}"
        return None
    if config.engine == "openvino":
        return "engine=openvino runs on CPUs"
    others = (config.canary, config.shadow) if isinstance(config, ServeConfig) else ()
    for choice in (config, *others):
        exported = open_model(choice.model, storage_options(config)).spec.exported if choice is not None else None
        if choice is not None and exported is not None and exported.format != "torch_export":
            return f"{choice.model} was exported to {exported.format}, which runs on CPUs"
    return None


def _is_done_sooner_without(config: LabelConfig | EvaluateConfig | TrainConfig | ServeConfig) -> str | None:
    """Whether CPUs have done the work before a GPU is ready: as a sentence, with the estimate."""
    if isinstance(config, ServeConfig):
        return None
    num_passes = _num_epochs(config) * _PASSES_OF_A_STEP if isinstance(config, TrainConfig) else 1
    num_cores = available_cores()
    cost_s = num_passes * cpu_ms_per_image(_weights_bytes(config.model, storage_options(config))) / 1000 / num_cores
    num_enough = int(_GPU_START_S / cost_s) + 1
    num_images = sum(1 for _ in itertools.islice(_images(config), num_enough))
    if num_images == num_enough:
        return None
    return (
        f"{counted(num_images, 'image')} take about {num_images * cost_s:.0f} s on {counted(num_cores, 'core')}, and "
        f"a GPU about {_GPU_START_S:.0f} s to start"
    )


def _num_epochs(config: TrainConfig) -> int:
    """Number of epochs, at least."""
    if config.epochs is not None:
        return config.epochs
    num_images = sum(1 for _ in itertools.islice(_images(config), FEW_IMAGES + 1))
    return choose_epochs(max(num_images, 1), "trained")


def _weights_bytes(model: str, storage: StorageOptions) -> float:
    if is_object(model) or is_model_path(model):
        return open_model(model, storage).num_bytes
    return 4 * (ZOO[model].num_parameters or 0) if model in ZOO else _USUAL_BYTES


def _images(config: LabelConfig | EvaluateConfig | TrainConfig) -> Iterator[object]:
    """The images that a job will go through, at most."""
    storage = storage_options(config)
    if isinstance(config, PredictConfig) and config.like is not None:
        like = list_like(open_like(config.like, config.output, storage), Kept(()))
        return itertools.islice(like, config.limit or config.sample)
    if isinstance(config, LabelConfig):
        # Lists would be sorted as a whole before the first of their inputs came.
        kept = Kept((), boxes=config.boxes, min_conf=config.min_conf)
        files = list_unsorted(config.inputs, storage, names=name_rules(config), uri_column=config.uri_column, kept=kept)
        return itertools.islice(files, config.limit or config.sample)
    wanted = config.split if isinstance(config, EvaluateConfig) else "train"
    entries = read_dataset(config.data, delimiter=config.delimiter, split_folders=config.split_places, storage=storage)
    return (entry for entry in entries.read(lambda _: None) if entry.split == wanted)

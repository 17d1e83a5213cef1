"""Choose where a network runs when ``device`` is ``auto``: on GPUs, if there are any and the work is worth their start.

On a machine without GPUs nothing is imported and nothing is asked but for names in ``/dev``.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray.config import AUTO, LabelConfig, RunsBlocks
from imgcls_ray.errors import ImgclsError
from imgcls_ray.machine import may_have_gpus
from imgcls_ray.words import counted
from imgcls_ray.workers.ray_cluster import is_cluster_given, num_cluster_gpus

if TYPE_CHECKING:
    from imgcls_ray.config import EvaluateConfig, PredictConfig, ServeConfig, TrainConfig

C = TypeVar("C", "LabelConfig", "PredictConfig", "EvaluateConfig", "TrainConfig", "ServeConfig")

logger = logging.getLogger(__name__)


def settle_device(config: C) -> C:
    """The configuration with ``cpu`` or ``gpu`` in place of ``auto``; what was chosen is told where there is a choice.

    Raises:
        ResourceError: the environment names what is no Ray cluster.
    """
    return config.model_copy(update={"device": _chosen(config)}) if config.device == AUTO else config


def count_gpus(*, of_cluster: bool) -> int:
    """GPUs of the Ray cluster, or of this machine."""
    if of_cluster:
        return num_cluster_gpus()
    if not may_have_gpus():
        return 0
    import torch

    return torch.cuda.device_count()


def _chosen(config: LabelConfig | EvaluateConfig | TrainConfig | ServeConfig) -> str:
    if config.uses_gpus:  # num_gpus says so
        return "gpu"
    if isinstance(config, LabelConfig) and config.dry_run:
        return "cpu"
    if isinstance(config, RunsBlocks) and config.on == "local":
        return "cpu"
    num_gpus = count_gpus(of_cluster=_runs_on_cluster(config))
    if not num_gpus:
        return "cpu"
    from imgcls_ray.commands.gpu_worth import why_not_gpus

    reason = None
    # What is wrong with the model or the images is for the job to say.
    with suppress(ImgclsError):
        reason = why_not_gpus(config, num_gpus)
    if reason:
        logger.info("device=cpu: %s; device=gpu uses a GPU anyway", reason)
        return "cpu"
    logger.info("device=gpu: %s found; device=cpu uses none", counted(num_gpus, "GPU"))
    return "gpu"


def _runs_on_cluster(config: LabelConfig | EvaluateConfig | TrainConfig | ServeConfig) -> bool:
    """Whether the network runs on a cluster: one image is labelled in this process, a service runs on this machine."""
    if not isinstance(config, RunsBlocks):
        from imgcls_ray.config import ServeConfig

        if isinstance(config, ServeConfig):
            return False
    if type(config) is LabelConfig or not is_cluster_given():
        return False
    from imgcls_ray.inputs.checks import is_single_file
    from imgcls_ray.options import storage_options

    with suppress(ImgclsError):
        inputs = config.inputs if isinstance(config, LabelConfig) else ()
        return not (len(inputs) == 1 and is_single_file(inputs[0], storage_options(config)))
    return True

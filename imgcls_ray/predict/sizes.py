"""How many images the units of a run have, from what a worker needs for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.store.plan import MAX_UNIT_SIZE, cpu_ms_per_image, images_in, unit_sizes
from imgcls_ray.workers.packing import most_decoded
from imgcls_ray.workers.pool import is_on_ray

if TYPE_CHECKING:
    from imgcls_ray.config import PredictConfig
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.plan import WorkerPlan

# Less work is not worth a part file; after more of it, rows would be durable too late.
_SMALLEST_UNIT_S, _LARGEST_UNIT_S = 2.0, 10.0
# The start of another process of this machine is worth less work than the start of Ray.
_SMALLEST_LOCAL_UNIT_S = 1.0


def sizes_of_units(
    config: PredictConfig, folder: ModelFolder, plan: WorkerPlan, *, num_images: int, passes_per_image: int
) -> list[int]:
    """Cut a run into units.

    Args:
        config: of the run.
        folder: model that labels it.
        plan: workers that share it. With GPUs, one of them is a CPU actor, which decodes a unit and hands it on.
        num_images: of the run.
        passes_per_image: forward passes.
    """
    cores = plan.cores_per_worker
    num_bytes = 0 if config.uses_gpus else folder.num_bytes * passes_per_image
    ms_per_image = cpu_ms_per_image(num_bytes) / cores
    round_size = config.batch_size * cores
    largest = config.unit_size or images_in(_LARGEST_UNIT_S, ms_per_image)
    if cores > 1 and not config.unit_size:
        # A batch for each core: of fewer, some would have nothing to do.
        largest = max(largest, min(round_size, MAX_UNIT_SIZE))
    if config.uses_gpus:
        largest = min(largest, most_decoded(folder.spec.preprocess.crop_size))
    smallest_s = _SMALLEST_UNIT_S if is_on_ray(config) else _SMALLEST_LOCAL_UNIT_S
    return unit_sizes(
        num_images,
        num_workers=plan.num_cpu_workers,
        smallest=images_in(smallest_s, ms_per_image),
        largest=largest,
        batch_size=round_size,
    )

"""Learn from another model besides the labels (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

The teacher sees what the network that learns sees: the same crop, flip, colours and mix (Beyer et al. 2022,
https://arxiv.org/abs/2106.05237), normalised and resized as the teacher was trained for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import ModelFolderError, UsageError
from imgcls_ray.models.class_names import match_names
from imgcls_ray.models.open import is_model_path, open_model
from imgcls_ray.options import storage_options
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.train.losses import IGNORED
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.train.state import ModelDescription
    from imgcls_ray.train.task import TrainTask


class Teacher:
    """A model that gives targets.

    Args:
        folder: its model folder.
        class_names: classes of the network that learns, in the order of its outputs; the teacher has all of them.
        preprocess: how images are normalised for the network that learns.
        device: where it runs.
        weight: share of the teacher in the loss, 0 to 1.
        temperature: what both networks' logits are divided by: above 1, classes that are unlikely count for more.
    """

    def __init__(
        self,
        folder: ModelFolder,
        class_names: Sequence[str],
        preprocess: Preprocess,
        *,
        device: torch.device,
        weight: float,
        temperature: float,
    ) -> None:
        import torch

        self._network = folder.load_network().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._outputs = torch.tensor(outputs_of(folder, class_names), device=device)
        own = folder.spec.preprocess
        self._size, self._weight, self._temperature = own.crop_size, weight, temperature
        of_learner, of_teacher = (
            [torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (each.mean, each.std)]
            for each in (preprocess, own)
        )
        # From the one normalisation to the other.
        self._scale = of_learner[1] / of_teacher[1]
        self._shift = (of_learner[0] - of_teacher[0]) / of_teacher[1]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's logits of the classes of the network that learns, float32 (B, num_classes).

        Args:
            images: float32 (B, 3, H, W), normalised for the network that learns.
        """
        import torch
        from torch.nn import functional as F

        with torch.no_grad():
            seen = images * self._scale + self._shift
            if seen.shape[-1] != self._size:
                seen = F.interpolate(seen, size=(self._size, self._size), mode="bilinear", antialias=True)
            logits: torch.Tensor = self._network(seen)
            return logits[:, self._outputs].float()

    def blended(
        self, loss: torch.Tensor, logits: torch.Tensor, of_teacher: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The loss with the teacher's share: a sum over the images, as the loss is.

        Args:
            loss: of the labels.
            logits: float32 (B, num_classes), of the network that learns.
            of_teacher: as ``logits`` gives them.
            target: of the labels; images that do not count there do not count here.
        """
        losses = divergences(logits, of_teacher, self._temperature)
        if target.ndim == 1:
            losses = losses * (target != IGNORED)
        return (1 - self._weight) * loss + self._weight * losses.sum()


def divergences(logits: torch.Tensor, of_teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence of each image from the teacher, float32 (B,).

    It is multiplied by the square of the temperature, so that gradients are as large as those of the labels at any.
    """
    from torch.nn import functional as F

    log_p, log_q = (values.div(temperature).log_softmax(1) for values in (logits, of_teacher))
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def open_teacher(model: str, class_names: Sequence[str], storage: StorageOptions) -> ModelFolder:
    """Open the folder of a teacher, and look whether it can teach these classes.

    Raises:
        UsageError: it is no folder, lacks a class, or was exported.
        ModelFolderError: the folder is unreadable.
        StorageError: its storage cannot be read.
    """
    if not is_object(model) and not is_model_path(model):
        raise UsageError(f"teacher={model}: is a name; give a model folder that was trained on these classes")
    folder = open_model(model, storage)
    if folder.spec.exported is not None:
        raise UsageError(
            f"teacher={model}: was exported to {folder.spec.exported.format}; give the folder that it was exported from"
        )
    outputs_of(folder, class_names)
    return folder


def open_same_teacher(model: str, fingerprint: str, storage: StorageOptions) -> ModelFolder:
    """Open the folder on a worker, which must have what the command has seen.

    Raises:
        ModelFolderError: it is unreadable, or was replaced.
        StorageError: its storage cannot be read.
    """
    folder = open_model(model, storage)
    if folder.spec.fingerprint != fingerprint:
        raise ModelFolderError(f"{model}: was replaced while the run was starting; run the command again")
    return folder


def teacher_of(task: TrainTask, model: ModelDescription, device: torch.device) -> Teacher | None:
    """The teacher of a run, if it has one; raises as ``open_same_teacher``."""
    if task.teacher is None or task.teacher_fingerprint is None:
        return None
    return Teacher(
        open_same_teacher(task.teacher, task.teacher_fingerprint, storage_options(task.config)),
        model.class_names,
        model.preprocess,
        device=device,
        weight=task.config.teacher_weight,
        temperature=task.config.teacher_temperature,
    )


def outputs_of(folder: ModelFolder, class_names: Sequence[str]) -> list[int]:
    """The teacher's output for each of these classes, by name. Other classes of the teacher are left out.

    Raises:
        UsageError: it lacks one of them.
    """
    found = match_names(dict(enumerate(class_names)), folder.spec.class_names)
    if missing := [class_names[label] for label, output in found.items() if output is None]:
        raise UsageError(
            f"teacher={folder.path}: lacks {counted(len(missing), 'class', 'classes')} of the dataset, e.g. "
            f"{missing[0]!r}; give a model that was trained on these classes"
        )
    return [output for output in found.values() if output is not None]

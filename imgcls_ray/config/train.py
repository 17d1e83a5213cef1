"""One training run, and every knob of its recipe."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from imgcls_ray.config.dataset import Labelled
from imgcls_ray.config.device import OnDevice
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.config.looks import LooksFirst


class TrainConfig(Labelled, OnDevice, ReadLimits, LooksFirst):
    """One training run: ``imgcls train`` and ``jobs/train.py``.

    Where a default is "the family's", the recipe of the network's family says it (docs/train.md has the table).
    """

    help_sections: ClassVar = {
        "pretrained": "Initial weights",
        "epochs": "Optimization",
        "crop_scale": "Augmentation",
        "teacher": "Distillation",
        "monitor": "Log, evaluation, checkpoints",
        "num_workers": "Workers",
    }

    model: str
    """Network to train: a name of the zoo (or ``timm:NAME``), or a model folder (local, ``s3://``, ``gs://``, ``az://``
    or ``hf://``) to start from."""
    output: str = "output"
    """Folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``) for the run. The same command, run again,
    continues the run there."""

    pretrained: bool = True
    """Start a named model from timm's pretrained weights (default), or from random ones."""
    weights: str | None = None
    """Weights to start a named model from: a model folder, .safetensors, torch state dict, or PaddleClas' .pdparams."""
    freeze: Literal["nothing", "backbone"] = "nothing"
    """Part of the network that is not trained. ``backbone``: only the head is trained (a linear probe); everything
    else, also the statistics of batch norm, stays as it is."""
    image_size: int | None = Field(default=None, ge=16, le=1024)
    """Height and width of the network's input in pixels, in training and afterwards. Default: the sizes of the zoo;
    some networks train at a smaller size than they are evaluated at."""
    decode: Literal["full", "scaled"] | None = None
    """Decoding of images, in training and afterwards. ``scaled``: large JPEGs at 1/2, 1/4 or 1/8 of their size, which
    is faster. Default: that of the model folder that the run starts from, else ``full``."""

    epochs: PositiveInt | None = None
    """Number of training epochs: how often every image is seen. Default: the fewer images, the more; 20 above
    20,000."""
    batch_size: PositiveInt | None = None
    """Number of images per optimizer step, over all workers and accumulated passes. A smaller dataset is one batch.
    Default: 16 up to 4,000 images, 32 up to 10,000, else 64, or a little less, so that an epoch leaves out few."""
    accumulate_steps: PositiveInt = 1
    """Number of forward and backward passes per optimizer step. Memory shrinks by this factor; only batch norm gives
    other results."""

    grad_checkpointing: bool = False
    """Compute activations again for the gradients instead of keeping them: far less memory for large networks, about a
    third more time, and the same weights."""

    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimizer of the training: SGD with momentum, or AdamW. Default: the family's."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate of the run. Default: by optimizer and weights up to 20,000 images; above, the family's, a
    quarter of it for trained weights. Scaled to ``batch_size``, SGD's linearly, AdamW's with the square root."""
    min_learning_rate: float | None = Field(default=None, ge=0)
    """Learning rate at the end of a cosine schedule. Default: the family's."""
    schedule: Literal["cosine", "step", "constant"] | None = None
    """Schedule of the learning rate after warm-up. ``step``: to a tenth at 1/4, 1/2 and 3/4 of the epochs. Default:
    cosine up to 20,000 images, above the family's."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """Number of epochs during which the learning rate rises from zero. Default: 5 up to 20,000 images, above the
    family's; at most a quarter of the epochs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the SGD optimizer; AdamW ignores it."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of the weights, except norms and biases. Default: the family's."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor from the learning rate of a block of layers to that of the block before it. Default: the family's."""
    clip_grad_norm: float | None = Field(default=None, ge=0)
    """Largest norm of all gradients together; larger ones are scaled down, and 0 sets no limit. Default: the
    family's."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes. Default: the family's."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Largest share of images for which a block is skipped (stochastic depth). Default: the family's, at most 0.1 up to
    20,000 images."""
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the moving average of the weights (EMA), which is evaluated and saved; 0 turns it off. The decay rises
    from zero to this value, so that short runs are averaged too. Default: the family's."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision of training. ``auto``: bf16 on GPUs that have it, fp16 on other GPUs, off on CPUs."""

    crop_scale: float | None = Field(default=None, gt=0, le=1)
    """Smallest share of the picture's area that a random crop keeps. Default: 0.7 up to 20,000 images; above, 0.08 from
    random weights, 0.35 from trained ones."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring an image left to right. Use 0 if a mirrored image belongs to another class."""
    vertical_flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring an image upside down, for pictures without an upper side, such as those taken from
    above or through a microscope."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Largest random change of brightness, contrast and saturation, as a share of each, usually 0.4; 0 turns it off."""
    rand_augment: int | None = Field(default=None, ge=0, le=10)
    """Strength, 0 to 10, of two random operations on colours and shape (RandAugment), each applied to half of the
    images; 0 turns them off. Default: 0 up to 20,000 images, above the family's."""
    random_erasing: float | None = Field(default=None, ge=0, le=1)
    """Probability of covering a random rectangle of an image. Default: 0 up to 20,000 images, above the family's."""
    mixup: float | None = Field(default=None, ge=0)
    """Alpha of mixup, which mixes pairs of images; 0 turns it off. If ``cutmix`` is on too, each batch uses one of them
    at random. Default: 0 up to 20,000 images, above the family's."""
    cutmix: float | None = Field(default=None, ge=0)
    """Alpha of cutmix, which pastes a part of one image into another; 0 turns it off. Default: 0 up to 20,000 images,
    above the family's."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss. ``balanced``: the smaller the class, the larger its weight; not together with
    balanced ``sampling``."""
    focal_gamma: float = Field(default=0.0, ge=0, le=10)
    """Gamma of the focal loss, usually 2: the surer the network is of an image, the less the image counts; 0 is
    cross-entropy."""
    logit_adjustment: float = Field(default=0.0, ge=0, le=10)
    """Strength, usually 1, of the logit adjustment: while it learns, each class has a head start by its share of the
    images, so what the network predicts does not depend on the shares; 0 turns it off."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """Order in which images are drawn. ``balanced``: every class is drawn equally often, so images of small classes
    repeat within an epoch."""

    teacher: str | None = None
    """Model folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``) to learn from besides the labels
    (distillation): a larger network that was trained on these classes. It sees the same augmented images, at its own
    size."""
    teacher_weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher in the loss; 1 learns from it alone."""
    teacher_temperature: float = Field(default=2.0, gt=0, le=100)
    """Temperature that softens both networks' scores for the teacher's share of the loss."""

    monitor: Literal["top1", "loss", "macro_f1", "balanced_accuracy", "mAP"] = "top1"
    """Metric on val whose best epoch is kept as ``best_model``, also for ``early_stop``. ``macro_f1`` and
    ``balanced_accuracy`` count every class alike, ``mAP`` is the mean average precision of the classes."""
    early_stop: int = Field(default=0, ge=0)
    """Number of evaluations in a row without a better ``monitor`` after which the run ends; 0 never ends it early."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Random seed of initial weights, order of images and augmentation."""
    log_interval: PositiveInt = 10
    """Number of steps between two lines of the log."""
    eval_interval: PositiveInt = 1
    """Number of epochs between two evaluations on val; the last epoch is always evaluated."""
    eval_steps: int = Field(default=0, ge=0)
    """Number of steps between two evaluations on val within an epoch, for epochs that take long; each may become
    ``best_model``. Counted from the beginning of an epoch; 0 evaluates at the end of epochs only."""
    save_interval: int = Field(default=0, ge=0)
    """Number of epochs between two permanent checkpoints, the folders ``epoch_N``; 0 writes none."""
    save_seconds: float = Field(default=60.0, ge=0)
    """Seconds that must pass before ``latest`` and ``best_model`` are saved again, at the end of an epoch; within a
    long epoch it is every ten minutes, and the end of the run always saves. Even with 0, saving takes at most about
    1/20 of the time. A killed run repeats what was not saved."""
    keep_checkpoints: int = Field(default=5, ge=0)
    """Number of folders ``epoch_N`` to keep, the newest ones; 0 keeps all."""

    num_workers: PositiveInt | None = None
    """Number of processes that train together. Default: one for each GPU; one on CPUs."""
    min_workers: PositiveInt | None = None
    """Smallest number of workers to train with if some are lost or not there yet; the run grows again when there is
    room (elastic). Default: ``num_workers``."""
    sync_batch_norm: bool = False
    """Batch norm takes its statistics from the images of all workers (SyncBatchNorm), for few images on each of them.
    Without it each worker normalises by its own images; the statistics that are kept are the mean over the workers."""
    cpus_per_worker: PositiveInt | None = None
    """Number of cores of each worker. Default: an equal share of the cores of the machine or cluster."""
    loader_processes: int | None = Field(default=None, ge=1, le=64)
    """Number of processes of each worker that read, decode and augment images. Default: one per core, at most 12."""
    max_failures: int = Field(default=3, ge=0)
    """Number of times that lost workers are replaced before the run fails."""
    grace_s: float = Field(default=30.0, ge=0)
    """Seconds that the run has to save its state after Ctrl-C or SIGTERM. A second signal ends it at once."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest share of a split's images, 0 to 1, that may be unreadable; above it the run ends with exit code 1.
    Unreadable images are left out and reported, never replaced."""

    @field_validator("amp", mode="before")
    @classmethod
    def _off_is_no_truth_value(cls, amp: Any) -> Any:
        # YAML reads off, unquoted, as false.
        return "off" if amp is False else amp

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_workers is not None and self.min_workers > (self.num_workers or 1):
            raise ValueError(f"min_workers={self.min_workers} is more than num_workers={self.num_workers or 1}")
        if self.gpu_ids and self.num_workers not in (None, len(self.gpu_ids)):
            raise ValueError(
                f"device={self.device} is {len(self.gpu_ids)} GPUs, num_workers={self.num_workers}: one each"
            )
        if self.amp == "fp16" and not self.uses_gpus:
            raise ValueError("amp=fp16 is for GPUs: give device=gpu; on CPUs use bf16, or off")
        answers = [f"{key}=balanced" for key in ("class_weights", "sampling") if getattr(self, key) == "balanced"]
        answers += [f"logit_adjustment={self.logit_adjustment:g}"] if self.logit_adjustment else []
        if len(answers) > 1:
            raise ValueError(
                f"{' and '.join(answers[:2])} both answer classes out of balance, and together they favour the small "
                "ones; give one of them"
            )
        if self.warmup_epochs is not None and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} is more than epochs={self.epochs}")
        return self

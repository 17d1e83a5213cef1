"""One training run, and every knob of its recipe."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from imgcls_ray.config.device import OnDevice
from imgcls_ray.config.limits import ReadLimits


class TrainConfig(ReadLimits, OnDevice):
    """One training run: ``imgcls train`` and ``jobs/train.py``.

    Where a default is "the family's", the recipe of the network's family says it (docs/train.md has the table).
    """

    data: str
    """Folder (local or ``s3://``) with train.txt, val.txt and label.txt, or of class folders; or a .csv or .parquet
    file with the columns uri, label and maybe split. It says how many classes there are and what they are called."""
    model: str
    """Name of the zoo (or ``timm:NAME``), or a model folder (local or ``s3://``) to go on from."""
    output: str = "output"
    """Where the run goes: a folder or ``s3://bucket/prefix``. Run again, the same command goes on there."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Between path and class id of the lists. Default: spaces or a tab, whichever is last in a line."""

    pretrained: bool = True
    """Start a named model from timm's weights; false: from random ones."""
    weights: str | None = None
    """Start a named model from these: model folder, .safetensors, torch state dict, or PaddleClas' .pdparams."""
    freeze: Literal["nothing", "backbone"] = "nothing"
    """``backbone``: train the head alone (a linear probe); the rest, batch norm's statistics too, stays as it is."""
    image_size: int | None = Field(default=None, ge=16, le=1024)
    """Height and width of the images that the network sees, pixels, in training and ever after. Default: the sizes of
    the zoo, which for some networks are smaller in training than in evaluation."""

    epochs: PositiveInt = 20
    """Times that every image is seen."""
    batch_size: PositiveInt = 64
    """Images per step of the optimizer, of all workers and accumulated passes together. A dataset that does not fill
    one batch is one batch."""
    accumulate_steps: PositiveInt = 1
    """Passes that a step is made of: as many times less memory, the same result but for batch norm."""

    optimizer: Literal["sgd", "adamw"] | None = None
    """SGD with momentum, or AdamW. Default: the family's."""
    learning_rate: PositiveFloat | None = None
    """Highest learning rate. Default: the family's, scaled to ``batch_size``; a quarter of it for weights that are
    trained already."""
    min_learning_rate: float | None = Field(default=None, ge=0)
    """Where a cosine ends. Default: the family's."""
    schedule: Literal["cosine", "step", "constant"] | None = None
    """How the learning rate falls after warm-up; ``step``: to a tenth at 1/4, 1/2 and 3/4 of the epochs. Default: the
    family's."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """Epochs in which the learning rate rises from nought. Default: the family's, at most a quarter of the epochs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Of weights; norms and biases have none. Default: the family's."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor of the learning rate from each block of layers to the one before it. Default: the family's."""
    clip_grad_norm: float | None = Field(default=None, ge=0)
    """Largest norm of all gradients together; 0: no limit. Default: the family's."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the target that all classes get alike. Default: the family's."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Largest share of images for which a block is left out (stochastic depth). Default: the family's."""
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    """Of an average of the weights over the steps, which is what is evaluated and kept; 0: none. It rises to this
    from nought, so that short runs are averaged too. Default: the family's."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision. ``auto``: bf16 on GPUs that have it, else fp16 there; off on CPUs."""

    crop_scale: float | None = Field(default=None, gt=0, le=1)
    """Smallest share of the picture's area that a random crop keeps. Default: 0.08 from random weights, 0.35 from
    trained ones."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring left to right; 0 where a mirrored picture is of another class."""
    rand_augment: int | None = Field(default=None, ge=0, le=10)
    """Strength of two random operations on colours and shape, in tenths; 0: none. Default: the family's."""
    random_erasing: float | None = Field(default=None, ge=0, le=1)
    """Probability of covering a random rectangle. Default: the family's."""
    mixup: float | None = Field(default=None, ge=0)
    """Alpha of mixing pairs of images; 0: none. With ``cutmix`` one of both, by turns of chance. Default: the
    family's."""
    cutmix: float | None = Field(default=None, ge=0)
    """Alpha of pasting a part of one image into another; 0: none. Default: the family's."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: weigh the loss of a class against its share of the images."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """``balanced``: draw every class equally often, images of small classes several times an epoch."""

    early_stop: int = Field(default=0, ge=0)
    """End after so many evaluations without a better one; 0: never."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of initial weights, order and augmentation."""
    log_interval: PositiveInt = 10
    """Steps between two lines of the log."""
    eval_interval: PositiveInt = 1
    """Epochs between two evaluations on val; the last epoch is always evaluated."""
    save_interval: int = Field(default=0, ge=0)
    """Epochs between two folders ``epoch_N``; 0: none."""
    save_seconds: float = Field(default=60.0, ge=0)
    """``latest`` and ``best_model`` are written at the end of an epoch when they are older than this, and at the end of
    the run; 0: after every epoch. What a run that dies has to do again is no more than that."""
    keep_checkpoints: int = Field(default=5, ge=0)
    """How many of the folders ``epoch_N`` are kept, the newest; 0: all."""

    device: str = "cpu"
    """``cpu`` (gloo); ``gpu`` for all GPUs of the machine or cluster (nccl); ``gpu:0,1`` for these of this machine."""
    num_workers: PositiveInt | None = None
    """Processes that train together. Default: one for each GPU; one on CPUs."""
    min_workers: PositiveInt | None = None
    """Go on with so few when workers are lost or not there yet, and grow again when there is room (elastic). Default:
    ``num_workers``."""
    cpus_per_worker: PositiveInt | None = None
    """Cores of each. Default: those of the machine or cluster, shared out."""
    loader_processes: int | None = Field(default=None, ge=1, le=64)
    """Processes of each worker that read, decode and augment. Default: its cores, at most 12."""
    max_failures: int = Field(default=3, ge=0)
    """How often lost workers are replaced before the run fails."""
    grace_s: float = Field(default=30.0, ge=0)
    """After Ctrl-C or SIGTERM the run has this long to save where it is, seconds. A second signal ends it at once."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """End with exit code 1 when a larger share of a split's images cannot be read. Such images are left out and told
    of, never replaced."""

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
            raise ValueError("amp=fp16 is for GPUs; on CPUs use bf16, or off")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} is more than epochs={self.epochs}")
        return self

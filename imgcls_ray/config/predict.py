"""One bulk-labelling run."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from imgcls_ray.config.device import RunsNetwork, Tta
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.config.workers import RunsBlocks
from imgcls_ray.errors import ImageErrorCode  # noqa: TC001 - pydantic reads the annotation

_NO_INPUT = ()
"""With ``like``; a file of keys cannot say it."""


class LabelConfig(RunsNetwork, RunsBlocks, ReadLimits):
    """How inputs are labelled, wherever the labels go."""

    help_sections: ClassVar = {"like": "Inputs", "num_workers": "Workers", "limit": "This run"}

    input: str | tuple[str, ...]
    """Images to label, one or several of: a file, folder (recursive), ``s3://bucket/prefix/`` (``gs://``, ``az://``,
    ``hf://``), glob, list (.txt with a path in each line; .csv, .tsv, .json, .jsonl or .parquet with a ``uri`` column;
    a folder of such Parquet files; the manifest.json of an S3 Inventory), tar, zip or Parquet file with images, or
    http(s) address."""
    model: str
    """Model folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``), or a name of the zoo with pretrained
    weights."""
    top_k: PositiveInt = 5
    """Number of labels kept per image, best first. All runs of a label store use the same number."""
    embedding: bool = False
    """Also keep the features before the classifier head. All runs of a label store do so, or none."""
    logits: bool = False
    """Also keep the raw score of every class. All runs of a label store do so, or none."""

    like: str | None = None
    """Label store whose inputs are labelled, in place of INPUT, e.g. with a new model: those of its newest rows, in the
    version that these name, without those that are not there any more."""
    include: tuple[str, ...] = ()
    """Patterns of the files to label in folders, prefixes and globs, as in .gitignore, e.g. ``*.jpg,2026-*/``. Default:
    all files."""
    exclude: tuple[str, ...] | None = None
    """Patterns of files and folders to leave out of folders, prefixes and globs, besides those that are left out by
    default: names that begin with a dot, what never is an image (``*.txt``, ``*.mov``, ``*.xmp``), and what belongs to
    the system (``Thumbs.db``, ``@eaDir/``). An empty text takes all files."""
    uri_column: str = Field(default="uri", min_length=1)
    """Column, or JSON key, of the images in a list."""
    keep_columns: tuple[str, ...] | None = Field(default=None, max_length=256)
    """Other columns, or JSON keys, of lists that stay with the rows of their images, e.g. ``sku,camera``. Default: all
    columns of texts, numbers and times, up to 256. An empty text keeps none."""
    boxes: Literal["pixels", "shares", "coco", "none"] = "pixels"
    """Unit of the columns ``x1``, ``y1``, ``x2``, ``y2`` of a list, the edges of a box: pixels, or shares (0 to 1) of
    width and height. ``coco``: the column ``bbox`` has the box, [x, y, width, height] in pixels. Each box of an image
    is labelled as an image of its own, also each one in the output file of MegaDetector. ``none``: whole images are
    labelled."""

    min_conf: float = Field(default=0.0, ge=0, le=1)
    """Smallest ``conf`` of a box in MegaDetector's output that is labelled, e.g. 0.2. Default: all of its boxes."""

    num_workers: PositiveInt | None = None
    """Number of workers, which label on CPUs, and fetch and decode for GPUs. The number is fixed. Default: as many as
    cores and memory allow, also on nodes that join the cluster during the run."""
    min_workers: PositiveInt | None = None
    """Smallest number of workers, instead of ``num_workers``: a cluster with an autoscaler grows for them. Default:
    1."""
    max_workers: PositiveInt | None = None
    """Largest number of workers, instead of ``num_workers``: a cluster with an autoscaler grows up to them while there
    is work. Default: as many as the cluster has room for at any moment; no nodes are asked for."""
    cores_per_worker: PositiveInt | None = None
    """Cores of each worker on CPUs, which share one copy of the network. Default: one, or as many as it takes to have
    the network in memory for all cores, if ``num_workers`` is not given."""
    num_gpus: int = Field(default=0, ge=0)
    """Number of GPUs to label on, one worker each; Ray chooses which. 0: ``device`` decides."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
    tta: Tta = "none"
    """Test-time augmentation of all images. ``hflip``: the mean of the logits (and embeddings) of each image and its
    mirror image, for twice the time of the network. All runs of a label store use the same."""
    unit_size: int | None = Field(default=None, ge=16, le=2048)
    """Largest number of images in one unit of work. Default: about ten seconds of work, estimated from the model's
    size."""

    limit: PositiveInt | None = None
    """Largest number of inputs to label in this command. A run that an earlier command left open is continued in whole
    units, at least one."""
    sample: PositiveInt | None = None
    """Size of a random sample of the input, in place of all of it: every input is as likely as any other. The same
    command, run again, labels what is new in the sample. Default: everything."""
    seed: int = 0
    """Random seed of the sample. A larger sample with the same seed has all inputs of the smaller one."""
    retry: tuple[ImageErrorCode, ...] = ()
    """Error codes whose inputs are tried again in this command, e.g. ``corrupt,access_denied``."""
    accept_missing: bool = False
    """Record ``not_found`` for missing images even if their whole folder or prefix is gone or empty. By default the job
    ends in this case, because a volume that is not mounted looks the same. Also tell the inputs of an INPUT in which
    nothing is left as not present."""
    fail_if_empty: bool = False
    """End with exit code 1 if the input holds no images, because it is empty or its name is mistyped."""
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """Largest share of inputs, 0 to 1, that may fail; above it the exit code is 1, e.g. 0.05. If every input fails, the
    exit code is always 1."""
    export: Literal["parquet", "jsonl", "csv"] | None = None
    """Also write the newest row of every input to ``OUTPUT/exports/latest.*``."""
    save_images: int = Field(default=0, ge=0)
    """Number of annotated sample images to write to ``OUTPUT/samples``."""
    report: bool = False
    """Write a page about the store to ``OUTPUT/report/report.html`` at the end, as ``imgcls report`` does."""
    compact: bool = True
    """Merge files of finished runs in the label store at the end, if that takes a small share of the time of the
    command."""
    grace_s: float = Field(default=20.0, ge=0)
    """Seconds that running units have to finish after Ctrl-C or SIGTERM; no new unit is started. A second signal ends
    the job at once. The next run labels what is unfinished."""
    metrics_file: str | None = None
    """File of this machine (``*.prom``) that gets the run's metrics every few seconds, for the textfile collector of
    Prometheus' node exporter."""
    price_per_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Price of the machine or cluster for an hour, in any currency, e.g. 0.40: summary and record then tell the cost of
    a million images."""
    dry_run: bool = False
    """Show what would be labelled, and write nothing."""

    @model_validator(mode="before")
    @classmethod
    def _has_one_kind_of_input(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("like") is None:
            return values
        if values.get("input", _NO_INPUT) != _NO_INPUT:
            raise ValueError(
                "INPUT and --like exclude each other: give the images to label, or the store that has them"
            )
        return {**values, "input": _NO_INPUT}

    @field_validator("input", mode="before")
    @classmethod
    def _names_an_input(cls, value: object) -> object:
        if value == _NO_INPUT:
            return value
        texts = value if isinstance(value, list | tuple) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("needs a file, folder, prefix, list or address, or several of them")
        return value

    @field_validator("retry", "include", "exclude", "keep_columns", mode="before")
    @classmethod
    def _several_in_a_text(cls, value: object) -> object:
        return [code.strip() for code in value.split(",") if code.strip()] if isinstance(value, str) else value

    @field_validator("metrics_file")
    @classmethod
    def _is_read_by_the_node_exporter(cls, value: str | None) -> str | None:
        if value is not None and ("://" in value or not value.endswith(".prom")):
            raise ValueError("needs the path of a local file that ends with .prom: the node exporter reads no others")
        return value

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.retry and self.limit:
            # The first ones would be asked again and again, and the others never.
            raise ValueError("retry asks again for all inputs with its codes; give it without limit")
        if self.sample and self.limit:
            raise ValueError("limit takes the first inputs and sample takes random ones: give one of them")
        least, most = self.worker_limits
        if self.num_workers and (least or most):
            raise ValueError(
                f"num_workers={self.num_workers} is a fixed number of workers; give it, or min_workers and max_workers"
            )
        if least and most and least > most:
            raise ValueError(f"min_workers={least} is more than max_workers={most}")
        if self.num_gpus and self.gpu_ids:
            raise ValueError(
                f"device={self.device} names the GPUs, num_gpus={self.num_gpus} lets them be chosen: give one"
            )
        if self.cores_per_worker is not None and self.uses_gpus:
            raise ValueError("cores_per_worker is for labelling on CPUs; leave it out, or give device=cpu")
        if self.num_gpus and self.device == "cpu":
            raise ValueError(f"num_gpus={self.num_gpus} labels on GPUs and device=cpu on CPUs: leave one out")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """All INPUTs, one or several."""
        return (self.input,) if isinstance(self.input, str) else self.input

    @property
    def input_text(self) -> str:
        """All INPUTs in a few words."""
        if self.like is not None:
            return f"the inputs of {self.like}"
        first, *others = self.inputs
        return f"{first} and {len(others):,} more" if others else first

    @property
    def worker_limits(self) -> tuple[int | None, int | None]:
        return self.min_workers, self.max_workers

    @property
    def uses_gpus(self) -> bool:
        return self.num_gpus > 0 or super().uses_gpus


class PredictConfig(LabelConfig):
    """One bulk-labelling run: ``imgcls predict`` and ``jobs/predict.py``."""

    output: str
    """Label store to write: a folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``), created if it does not
    exist."""

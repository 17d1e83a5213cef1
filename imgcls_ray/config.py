"""One strict model per job, and the only door to YAML.

A configuration is checked once, at the edge: unknown keys are refused with the nearest known one, nothing is guessed or
repaired. Below the function that a job calls, values travel as plain arguments.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from imgcls_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class StrictModel(BaseModel):
    """Frozen, no unknown keys, field docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PredictConfig(StrictModel):
    """One bulk-labelling run: ``imgcls predict`` and ``jobs/predict.py``."""

    input: str
    """File, directory (recursive), ``s3://bucket/prefix/``, glob, list (.txt, .csv or .parquet with a ``uri`` column,
    or the manifest.json of an S3 Inventory) or http(s) address."""
    model: str
    """Model folder (local or ``s3://``), or a name of the zoo with pretrained weights."""
    output: str
    """The label store: a directory or ``s3://bucket/prefix``, made if it does not exist."""
    top_k: PositiveInt = 5
    """Labels kept per image, best first. Part of the store's identity."""
    embedding: bool = False
    """Also keep the features before the classifier head. Part of the store's identity."""
    logits: bool = False
    """Also keep the raw scores of every class. Part of the store's identity."""

    engine: Literal["auto", "openvino", "torch"] = "auto"
    """``auto``: OpenVINO on CPUs, torch on GPUs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """``auto``: bf16 where the processor computes it natively."""
    num_workers: PositiveInt | None = None
    """Actors that label on CPUs, one core each; with GPUs, actors that fetch and decode. Default: all the cores."""
    device: str = "cpu"
    """``cpu``; ``gpu`` for all GPUs of the machine or cluster; ``gpu:0,1`` for these of this machine."""
    num_gpus: int = Field(default=0, ge=0)
    """Label on this many GPUs, one actor each, whichever they are. 0: as ``device`` says."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
    unit_size: int | None = Field(default=None, ge=16, le=2048)
    """Largest number of images in one unit of work. Default: about ten seconds of work, by the model's size."""

    max_image_bytes: PositiveInt = 100 * 2**20
    """Larger files get the code ``too_many_bytes``."""
    max_image_pixels: int = Field(default=89_478_485, ge=1, le=89_478_485)
    """Larger pictures get the code ``too_many_pixels``. The default is Pillow's limit: 256 MiB as RGB."""
    fetch_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for reading one input over a network, retries included, seconds."""
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for decoding one image, seconds; one that takes longer gets the code ``decode_timeout``."""
    allow_private_urls: bool = False
    """Let http(s) inputs reach loopback, private and link-local addresses."""

    s3_endpoint_url: str | None = None
    """Server of ``s3://`` URIs, if not AWS. Default: AWS_ENDPOINT_URL, or the profile's. Credentials come from the
    usual places of AWS tools (environment, ~/.aws, role), never from here."""
    s3_anonymous: bool = False
    """Read public buckets without credentials."""

    limit: PositiveInt | None = None
    """Label at most this many inputs in this run."""
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """End with exit code 1 when a larger share of the inputs fails. (If every input fails, the job always does.)"""
    export: Literal["parquet", "jsonl", "csv"] | None = None
    """Also write the newest row of every input to ``OUTPUT/exports/latest.*``."""
    save_images: int = Field(default=0, ge=0)
    """Leave this many annotated samples under ``OUTPUT/samples``."""
    grace_s: float = Field(default=20.0, ge=0)
    """After Ctrl-C or SIGTERM no new work is begun, and what is in work has this long to end, seconds. A second signal
    ends at once. What is not done by then is done by the next run."""
    dry_run: bool = False
    """Say what would be labelled; write nothing."""

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        parse_device(device)
        return device

    @model_validator(mode="after")
    def _gpus_need_torch(self) -> Self:
        if self.uses_gpus and self.engine == "openvino":
            raise ValueError("engine=openvino labels on CPUs; use engine=torch (or auto) with device=gpu or num_gpus")
        if self.num_gpus and self.gpu_ids:
            raise ValueError(
                f"device={self.device} names the GPUs, num_gpus={self.num_gpus} lets them be chosen: give one"
            )
        return self

    @property
    def uses_gpus(self) -> bool:
        return self.num_gpus > 0 or parse_device(self.device).is_gpu

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The GPUs of this machine to label on, where they are named."""
        return parse_device(self.device).ids


class SplitOptions(StrictModel):
    """How a check splits the dataset anew before it looks at it: as ``imgcls split`` does."""

    enable: bool = False
    """Split before checking. The lists that were there are kept as ``*.bak``."""
    train_percent: float | None = Field(default=None, gt=0, le=100)
    """Share of the images to train with."""
    val_percent: float | None = Field(default=None, gt=0, le=100)
    """Share to validate with; with the others it adds up to 100."""
    test_percent: float = Field(default=0, ge=0, le=100)
    """Share to test with; 0 makes no test split."""
    seed: int = 0
    """Of the shuffle."""
    group_by: str | None = None
    """Regular expression on paths: images for which its first group is the same stay in one split."""

    @model_validator(mode="after")
    def _has_its_shares(self) -> Self:
        if self.enable and (self.train_percent is None or self.val_percent is None):
            raise ValueError("split.enable needs split.train_percent and split.val_percent, e.g. 90 and 10")
        return self


class CheckConfig(StrictModel):
    """One check of a labelled dataset: ``imgcls check`` and ``jobs/check_dataset.py``."""

    dataset: str
    """Folder (local or ``s3://``) with train.txt, val.txt and label.txt, or of class folders; or a .csv or .parquet
    file with the columns uri, label and maybe split."""
    output: str = "output"
    """Where the result goes: a folder or ``s3://bucket/prefix``."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Between path and class id of the lists. Default: spaces or a tab, whichever is last in a line."""
    split: SplitOptions = SplitOptions()
    """Split the dataset before checking it."""

    dark_below: float = Field(default=12.0, ge=0, le=255)
    """Mean brightness under which a picture is ``dark``: photographs at night are at 20 and more."""
    bright_above: float = Field(default=243.0, ge=0, le=255)
    """Mean brightness over which a picture is ``bright``: products on white are at 200 to 240."""
    uniform_below: float = Field(default=2.0, ge=0)
    """Standard deviation at 32 x 32 pixels under which a picture is ``uniform``: an 8-bit JPEG of one colour has less
    than 1, fog has 5."""
    blurred_below: float = Field(default=4.0, ge=0)
    """Variance of the Laplacian under which a picture is ``blurred``: only what was far out of focus, enlarged several
    times, or drawn without edges has so little."""
    tiny_below: int = Field(default=32, ge=1)
    """Short side in pixels under which a picture is ``tiny``: networks see 224, so nearly all pixels are made up."""
    odd_shape_above: float = Field(default=4.0, ge=1)
    """Long side by short side over which a picture has an ``odd_shape``: a square crop loses three quarters of it."""
    imbalance_above: float = Field(default=20.0, ge=1)
    """Images of the largest class by those of the smallest over which classes are out of balance; training without
    weights then sees the small ones hardly ever."""
    near_duplicate_bits: int = Field(default=6, ge=0, le=7)
    """Bits of 128 in which the perceptual hashes of nearly equal pictures may differ; up to 7 every pair is found among
    two million images."""
    near_duplicate_difference: float = Field(default=5.0, ge=0, le=255)
    """Mean difference of the pixels of nearly equal pictures at 32 x 32, 0 to 255: a picture saved again has 1 to 2."""
    max_findings: PositiveInt = 10_000
    """Findings of one code that are written down; all are counted."""
    seed: int = 0
    """Of the choice of pictures that the report shows."""

    num_workers: PositiveInt | None = None
    """Actors that fetch, decode and measure, one core each. Default: all the cores."""
    max_image_bytes: PositiveInt = 100 * 2**20
    """Larger files are ``unreadable_image``."""
    max_image_pixels: int = Field(default=89_478_485, ge=1, le=89_478_485)
    """Larger pictures are ``unreadable_image``. The default is Pillow's limit: 256 MiB as RGB."""
    fetch_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for reading one image over a network, retries included, seconds."""
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline for decoding one image, seconds."""
    allow_private_urls: bool = False
    """Let http(s) images reach loopback, private and link-local addresses."""
    s3_endpoint_url: str | None = None
    """Server of ``s3://`` URIs, if not AWS. Default: AWS_ENDPOINT_URL, or the profile's."""
    s3_anonymous: bool = False
    """Read public buckets without credentials."""


class Device(NamedTuple):
    """Where networks run."""

    is_gpu: bool
    ids: tuple[int, ...] = ()
    """Of the GPUs on this machine; none says nothing of which."""


def parse_device(text: str) -> Device:
    """Read ``cpu``, ``gpu`` or ``gpu:0,1`` (``cuda`` is ``gpu``).

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"cpu|(?:gpu|cuda)(?::([0-9]{1,4}(?:,[0-9]{1,4})*))?", text)
    if match is None:
        raise ValueError("must be cpu, gpu, gpu:0 or gpu:0,1")
    ids = tuple(int(number) for number in match[1].split(",")) if match[1] else ()
    if len(set(ids)) < len(ids):
        raise ValueError("must name a GPU once")
    return Device(is_gpu=text != "cpu", ids=ids)


M = TypeVar("M", bound=StrictModel)


def make_config(kind: type[M], values: Mapping[str, Any]) -> M:
    """Check values against one job's model.

    Raises:
        ConfigError: naming the key, what came, and the nearest known key or the way out.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(kind, error)) from error


def load_config(path: Path) -> dict[str, Any]:
    """Read one YAML file of plain values.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or carrying a tag that would build an object.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected 'key: value' lines, got {type(values).__name__}")
    return values


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; values are YAML scalars, never evaluated.

    Raises:
        ConfigError: a pair without ``=``, or a value that is not YAML.
    """
    import yaml

    values: dict[str, Any] = {}
    for pair in overrides:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r}: expected key=value, e.g. top_k=3")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{pair!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    return values


def _first_problem(kind: type[StrictModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(kind.model_fields)}"
        return f"{key}: no such key; {hint}"
    if problem["type"] == "missing":
        meaning = " ".join((kind.model_fields[key].description or "").split()).replace("``", "'")
        return f"{key}: is needed; {meaning}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"

"""The images that an export is compared on and calibrated with: a dataset's, those of an input, or drawn ones."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.classes import match_classes
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.demo.draw import CLASS_NAMES, draw_shape
from imgcls_ray.errors import ImageError, InputError, UsageError
from imgcls_ray.export.parity import ParityInput
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.models.classifier import decode_model_input
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, any_version, fetch_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.config import ExportConfig
    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.datasets.labelled import DatasetSource
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.spec import ModelSpec

DRAWN = "drawn"
_NUM_DRAWN = 48
_DRAWN_PIXELS = 96


class CalibrationImage(NamedTuple):
    """One image to calibrate with."""

    image: ModelInput
    label: int | None
    """Class id of the model, where it is known."""


class Listed(NamedTuple):
    """One image, not yet read."""

    uri: str
    label: int | None
    """Class id of the model, where it is known."""


@dataclass(frozen=True)
class ExportImages:
    """What to compare on and what to calibrate with; no image is in both."""

    source: str
    """As it was given, or ``drawn``."""
    compared: list[Listed]
    calibrated: list[Listed]
    split: str | None = None
    """Of the dataset, where the compared ones are from."""
    calibration_split: str | None = None
    why_no_accuracy: str | None = None
    """Why the labels of the dataset say nothing of the model."""


def choose_images(config: ExportConfig, spec: ModelSpec) -> ExportImages:
    """Choose images, spread over all that there are; the same ones each time.

    Raises:
        InputError: ``images`` cannot be listed.
        UsageError: there are too few, or a limit on the accuracy was given and they have no labels of the model.
    """
    if config.images is None:
        return ExportImages(DRAWN, [], [])
    try:
        dataset = read_dataset(
            config.images,
            delimiter=config.delimiter,
            split_folders=config.split_places,
            storage=storage_options(config),
        )
    except InputError:
        # No dataset: then it is what `imgcls predict` takes, whose error is the one to tell.
        chosen = _from_input(config.images, config)
    else:
        chosen = _from_dataset(dataset, config, spec)
    if not chosen.compared or (config.int8 and not chosen.calibrated):
        needed = "two images, one to compare on and one to calibrate with" if config.int8 else "an image"
        raise UsageError(f"images: {config.images} has too few; this export needs at least {needed}")
    if "max_accuracy_drop" in config.model_fields_set and all(image.label is None for image in chosen.compared):
        why = chosen.why_no_accuracy or f"{config.images}: is no dataset with labels"
        raise UsageError(
            f"max_accuracy_drop: the accuracy cannot be measured: {why}; without it, min_agreement decides"
        )
    return chosen


def _from_input(source: str, config: ExportConfig) -> ExportImages:
    counts = ListingCounts()
    files = list_inputs(source, counts, storage_options(config))
    compared, calibrated = _dealt((Listed(info.uri, None) for info in files), config)
    if counts.num_unlisted:
        raise InputError(f"images: {counts.unlisted_text}")
    return ExportImages(source, compared, calibrated)


def _from_dataset(dataset: DatasetSource, config: ExportConfig, spec: ModelSpec) -> ExportImages:
    dataset.tell_notes()
    labels, why_no_accuracy = _model_labels(dataset, config.model, spec)
    split = next((name for name in ("val", "test", "train") if name in dataset.splits), None)
    calibration_split = "train" if "train" in dataset.splits else split

    def images(wanted: str | None) -> Iterator[Listed]:
        for entry in dataset.read(_leave_to_check):
            if entry.split == wanted:
                label = labels[entry.label] if entry.label < len(labels) else -1
                yield Listed(entry.uri, label if label >= 0 else None)

    if config.int8 and split != calibration_split:
        compared = _spread(images(split), config.num_images)
        # A dataset may name an image in both of its splits.
        uris = {image.uri for image in compared}
        others = (image for image in images(calibration_split) if image.uri not in uris)
        calibrated = _spread(others, config.num_calibration_images)
    else:
        compared, calibrated = _dealt(images(split), config)
    calibration_split = calibration_split if config.int8 else None
    return ExportImages(dataset.dataset, compared, calibrated, split, calibration_split, why_no_accuracy)


def _leave_to_check(_finding: Finding) -> None:
    """`imgcls check` tells of faulty lines; here they are no images."""


def _model_labels(dataset: DatasetSource, model: str, spec: ModelSpec) -> tuple[list[int], str | None]:
    """The model's class id of each of the dataset's, -1 for none; nothing and the reason where they do not match."""
    if not any(dataset.class_names):
        return [], f"{dataset.dataset}: names no classes"
    try:
        return match_classes(dataset.dataset, dataset.class_names, model, spec.class_names).tolist(), None
    except UsageError as error:
        return [], str(error)


def _dealt(images: Iterable[Listed], config: ExportConfig) -> tuple[list[Listed], list[Listed]]:
    """To compare on and to calibrate with, where no split tells them apart: every other one."""
    if not config.int8:
        return _spread(images, config.num_images), []
    everything = _spread(images, 2 * max(config.num_images, config.num_calibration_images))
    return _spread(everything[::2], config.num_images), _spread(everything[1::2], config.num_calibration_images)


def _spread(images: Iterable[Listed], count: int) -> list[Listed]:
    """At most so many, each as likely as any other, in their order; holds no more than that."""
    chance = random.Random(0)
    chosen: list[tuple[int, Listed]] = []
    for place, image in enumerate(images):
        if len(chosen) < count:
            chosen.append((place, image))
        elif (other := chance.randrange(place + 1)) < count:
            chosen[other] = (place, image)
    return [image for _, image in sorted(chosen, key=lambda item: item[0])]


def read_compared(images: ExportImages, config: ExportConfig, spec: ModelSpec) -> Iterator[ParityInput]:
    """Read and decode what is compared on, a few ahead."""
    if images.source == DRAWN:
        yield from _drawn(config, spec)
        return
    for listed, content in _read(images.compared, config):
        yield ParityInput(_decode(content, config, spec), listed.label)


def read_calibration(images: ExportImages, config: ExportConfig, spec: ModelSpec) -> list[CalibrationImage]:
    """Read and decode what to calibrate with; what cannot be read is left out.

    Raises:
        UsageError: none can be read.
    """
    decoded = [(_decode(content, config, spec), listed.label) for listed, content in _read(images.calibrated, config)]
    if good := [CalibrationImage(image, label) for image, label in decoded if not isinstance(image, ImageError)]:
        return good
    first = next(image for image, _ in decoded if isinstance(image, ImageError))
    raise UsageError(
        f"images: none of the {len(decoded)} chosen of {images.source} to calibrate with can be read, the first "
        f"because {first}"
    )


def _read(images: list[Listed], config: ExportConfig) -> Iterator[tuple[Listed, bytes | ImageError]]:
    rows = any_version([image.uri for image in images])
    with ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch") as executor:
        yield from zip(images, fetch_inputs(rows, fetch_limits(config), executor), strict=True)


def _decode(content: bytes | ImageError, config: ExportConfig, spec: ModelSpec) -> ModelInput | ImageError:
    if isinstance(content, ImageError):
        return content
    return decode_model_input(content, spec.preprocess, decode_limits(config))


def _drawn(config: ExportConfig, spec: ModelSpec) -> Iterator[ParityInput]:
    for number in range(min(config.num_images, _NUM_DRAWN)):
        name = CLASS_NAMES[number % len(CLASS_NAMES)]
        buffer = io.BytesIO()
        draw_shape(name, size=_DRAWN_PIXELS, seed=(number,)).save(buffer, "PNG")
        yield ParityInput(_decode(buffer.getvalue(), config, spec), label=None)

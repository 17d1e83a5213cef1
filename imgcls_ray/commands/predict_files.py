"""Label some files the way PaddleX does: each result printed, and saved as JSON and as an annotated picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.errors import InputError, JobFailedError, StoppedError, StorageError, UsageError
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.walking import list_folder
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.config import PredictConfig
    from imgcls_ray.models.results import Result

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MAX_STEM_BYTES = 200


def label_files(config: PredictConfig, taken: set[str]) -> None:
    """Label, print each result and save it.

    Args:
        config: ``input``, ``model``, ``output``, ``device`` and ``batch_size`` of it.
        taken: names in the output that are somebody else's, without suffix.

    Raises:
        InputError: there is no image.
        JobFailedError: none can be labelled.
        StorageError: the output cannot be written, or a folder of the input cannot be listed; the others are labelled.
    """
    if is_object(config.output):
        raise UsageError(f"{config.output}: pictures are saved on this machine; `imgcls predict` labels into a bucket")
    from imgcls_ray.models.api import create_model

    output = Path(path_from_uri(config.output))
    counts = ListingCounts()
    num_images = num_bad = 0
    try:
        with native_stderr_aside():
            for result in create_model(config.model, device=config.device).predict(
                _images(config, counts), batch_size=config.batch_size
            ):
                result.print()
                _save(result, output, taken)
                num_images += 1
                num_bad += result.error is not None
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; {counted(num_images, 'result')} are in {config.output}") from error
    if not num_images:
        counts.check_complete()
        raise InputError(f"{config.input_text}: holds no images; what is in {config.output} is left out")
    if num_bad == num_images:
        raise JobFailedError(f"{config.input_text}: no image can be labelled, for the reasons above")
    told = f"; {counted(num_bad, 'image')} could not be read, as told above" if num_bad else ""
    print(f"{counted(num_images - num_bad, 'image')} labelled{told}; results: {config.output}")
    counts.check_complete()


def _images(config: PredictConfig, counts: ListingCounts) -> Iterator[str]:
    for source in config.inputs:
        if is_url(source) or is_object(source) or not os.path.isdir(folder := path_from_uri(source)):
            yield source
            continue
        # Without what an earlier run has drawn.
        for info in list_folder(folder, counts=counts, leave_out=path_from_uri(config.output)):
            yield info.uri


def _save(result: Result, output: Path, taken: set[str]) -> None:
    """Save a result under its input's name; under one that is nobody else's where that name is taken."""
    name = result.input.partition("?")[0] if is_url(result.input) else result.input
    stem, suffix = os.path.splitext(os.path.basename(name))
    picture = output / f"{stem}{suffix if suffix.lower() in _PICTURE_SUFFIXES else '.jpg'}"
    is_usable = stem.isprintable() and 0 < len(os.fsencode(stem)) <= _MAX_STEM_BYTES
    # Saved beside its input, the annotated picture would replace it.
    is_own = is_usable and stem not in taken and os.path.abspath(picture) != os.path.abspath(path_from_uri(name))
    taken.add(stem)
    try:
        output.mkdir(parents=True, exist_ok=True)
        result.save_to_json(output / f"{stem}.json" if is_own else output)
        if result.error is None:
            result.save_to_img(picture if is_own else output)
    except OSError as error:
        raise StorageError(f"{output}: cannot be written: {error.strerror}") from error

"""``imgcls review``: a queue of images for a person, and the answers into a dataset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imgcls_ray.config import ReviewConfig, make_config, read_values
from imgcls_ray.options import fetch_limits
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values

_NUM_SHOWN = 10


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Write a queue, or add answers to a dataset; flags win over overrides, overrides over the file."""
    config = make_config(ReviewConfig, read_values(ReviewConfig, config_file, overrides, flags))
    if config.apply is not None:
        _apply(config)
    else:
        _queue(config)


def _queue(config: ReviewConfig) -> None:
    from imgcls_ray.datasets.source import read_dataset
    from imgcls_ray.options import decode_limits, storage_options
    from imgcls_ray.review.queue import build_queue
    from imgcls_ray.review.writing import PAGE_NAME, open_output, write_queue
    from imgcls_ray.storage import open_directory
    from imgcls_ray.store.opening import open_store

    assert config.output is not None
    storage = storage_options(config)
    directory = open_output(config.output, storage)
    store = open_store(open_directory(config.store, storage))
    known: set[str] = set()
    class_names = None
    if config.dataset is not None:
        source = read_dataset(config.dataset, delimiter=config.delimiter, storage=storage)
        known = {entry.uri for entry in source.read(lambda _finding: None)}
        class_names = [source.class_name(label) for label, name in enumerate(source.class_names) if name is not None]
    queue = build_queue(
        store,
        budget=config.budget,
        known=known,
        class_names=class_names,
        fetch_limits=fetch_limits(config),
        decode_limits=decode_limits(config),
    )
    write_queue(queue, directory)
    print(
        f"{config.store}: {counted(queue.num_labelled, 'image')} with a label, {len(queue.items):,} of them to look at"
    )
    by = "calibrated" if queue.confidence == "probability" else "by raw scores"
    odd = ", and those least like the others" if queue.has_oddness else ""
    spread = "; each is unlike those before it" if queue.has_embeddings else ""
    print(f"  first: those that the model is least sure of ({by}){odd}{spread}")
    if not queue.has_embeddings:
        print("  label with --embedding to have them spread over what the images show")
    for number, what in (
        (queue.num_known, "left out: the dataset has them"),
        (queue.codes.total(), "left out: labelling them failed"),
        (queue.num_unreadable, "left out: their pictures cannot be read any more"),
        (sum(item.num_alike for item in queue.items), "left out: they look nearly the same as one in the queue"),
    ):
        if number:
            print(f"  {counted(number, 'image')} {what}")
    print(f"queue: {config.output.rstrip('/')}/{PAGE_NAME}")


def _apply(config: ReviewConfig) -> None:
    from imgcls_ray.review.applying import apply_answers

    assert config.apply is not None
    assert config.dataset is not None
    applied = apply_answers(
        config.apply,
        config.dataset,
        split=config.split,
        queue=config.queue,
        delimiter=config.delimiter,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        fetch_limits=fetch_limits(config),
    )
    report = applied.report
    print(f"{config.dataset}: {counted(report.added.total(), 'image')} added to {report.list_name}")
    for label, count in report.added.most_common(_NUM_SHOWN):
        print(f"  {label}: {count:,}")
    if (more := len(report.added) - _NUM_SHOWN) > 0:
        print(f"  and {counted(more, 'more class', 'more classes')}")
    for number, what in (
        (report.num_there, "there already, with the same label"),
        (applied.num_corrected, "answered otherwise than the model said"),
        (applied.num_unsure, "left out: nobody could tell"),
    ):
        if number:
            print(f"{counted(number, 'image')} {what}")
    for name, backup in report.backups.items():
        print(f"{name} as it was: {backup}")

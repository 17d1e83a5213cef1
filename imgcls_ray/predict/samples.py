"""Annotated pictures of some labelled inputs, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.models.results import Result
from imgcls_ray.options import decode_limits, fetch_limits
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.answers import newest_answers
from imgcls_ray.store.latest import latest_rows

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.config import PredictConfig
    from imgcls_ray.store.label_store import LabelStore


def save_samples(store: LabelStore, config: PredictConfig) -> str:
    """Leave annotated pictures of ``config.save_images`` inputs, spread over the newest rows, under ``samples/``."""
    with scratch_folder("samples") as folder:
        _draw_samples(store, config, folder)
        for path in sorted(folder.iterdir()):
            store.directory.replace_from(f"samples/{path.name}", str(path))
    return f"{store.uri}/samples"


def _draw_samples(store: LabelStore, config: PredictConfig, folder: Path) -> None:
    total = sum(1 for _ in newest_answers(store))
    num_samples = min(config.save_images, total)
    wanted = {total * i // num_samples for i in range(num_samples)}
    position = 0
    for table in latest_rows(store):
        chosen = [i for i in range(table.num_rows) if position + i in wanted]
        for row in table.take(chosen).to_pylist():
            _sample(row, config).save_to_img(folder)
        position += table.num_rows


def _sample(row: dict[str, Any], config: PredictConfig) -> Result:
    if row["error"] is not None:
        return Result(row["uri"], error=ImageError(ImageErrorCode(row["error"])))

    def load_pixels() -> Any:
        from imgcls_ray.images.decoder import decode_image

        return decode_image(fetch_input(row["uri"], row["etag"], fetch_limits(config)), decode_limits(config))

    return Result(row["uri"], label_names=tuple(row["labels"]), scores=tuple(row["scores"]), load_pixels=load_pixels)

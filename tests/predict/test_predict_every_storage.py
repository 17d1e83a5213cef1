"""A job on every storage: input, list, model folder, store and what is read out of it, all in one bucket."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from imgcls_ray.storage import open_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

NUM_IMAGES = 20


def put_all(folder: Path, place: str) -> None:
    """Copy the files of a folder."""
    directory = open_directory(place)
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda path: directory.replace(str(path.relative_to(folder)), path.read_bytes()), files))


def test_a_job_on_any_storage_labels_what_lies_there(
    imgcls: Callable[..., str],
    place: str,
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    images = draw_images(NUM_IMAGES)
    put_all(tmp_path / "images", f"{place}/in")
    put_all(small_model.path, f"{place}/models/small")
    imgcls("predict", f"{place}/in/", "-m", f"{place}/models/small", "-o", f"{place}/store", "-s", "unit_size=16")
    assert f"{NUM_IMAGES} rows" in imgcls("store", "verify", f"{place}/store")
    rows = [json.loads(line) for line in imgcls("store", "latest", f"{place}/store").splitlines()]
    assert sorted(row["uri"] for row in rows) == [f"{place}/in/{path.name}" for path in images]
    # The names of a list go on with the same store, and find nothing left to do.
    text = "uri\n" + "".join(f"in/{path.name}\n" for path in images)
    open_directory(place).replace("list.csv", text.encode())
    told = imgcls("predict", f"{place}/list.csv", "-m", f"{place}/models/small", "-o", f"{place}/store")
    assert f"{NUM_IMAGES} rows" in imgcls("store", "verify", f"{place}/store"), told

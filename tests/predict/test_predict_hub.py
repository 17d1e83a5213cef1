"""A job whose pictures and model are on the Hugging Face Hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.hub.server import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from tests.hub.server import HubServer


def test_a_job_labels_a_dataset_of_the_hub_with_a_model_of_the_hub(
    imgcls: Callable[..., str],
    hub: HubServer,
    small_model: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    """Both are private: the token is used, and is in no file of the store."""
    images = draw_images(12)
    hub.files["dataset org/photos@main"] = {f"in/{path.name}": path.read_bytes() for path in images}
    files = [path for path in small_model.path.rglob("*") if path.is_file()]
    hub.files["model org/small@main"] = {str(path.relative_to(small_model.path)): path.read_bytes() for path in files}
    hub.private |= {"org/photos", "org/small"}
    store = tmp_path / "store"
    imgcls("predict", "hf://datasets/org/photos", "-m", "hf://org/small", "-o", str(store), "-s", "unit_size=16")
    rows = [json.loads(line) for line in imgcls("store", "latest", str(store)).splitlines()]
    assert sorted(row["uri"] for row in rows) == [f"hf://datasets/org/photos/in/{path.name}" for path in images]
    assert {row["status"] for row in rows} == {"ok"}
    assert not [path for path in store.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]

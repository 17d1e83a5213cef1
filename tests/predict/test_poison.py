"""Images that end the process which decodes them, or never let it go: each costs its own row and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.workers.survival import POISONOUS, poison

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder

IMGCLS = Path(sys.executable).with_name("imgcls")


def errors_of(store: Path) -> dict[str, str]:
    rows = [row for table in latest_rows(open_store(open_directory(str(store)))) for row in table.to_pylist()]
    return {row["uri"]: row["error"] for row in rows if row["error"]}


@pytest.mark.parametrize(
    ("count", "on"),
    [
        pytest.param(12, "auto", id="12, in one process"),
        pytest.param(2000, "local", id="2000, on this machine"),
        pytest.param(2000, "ray", id="2000, on Ray", marks=pytest.mark.slow),
    ],
)
def test_only_the_poisonous_images_fail_and_each_with_its_code(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, count: int, on: str
) -> None:
    images = draw_images(count)
    poison(images[count // 3], "CRASH")
    poison(images[count // 2], "LOOP")
    store = tmp_path / "store"
    command = [IMGCLS, "predict", images[0].parent, "-m", small_model.path, "-o", store, "--batch-size", "16"]
    words = [str(word) for word in (*command, "-s", "decode_timeout_s=2", "-s", "unit_size=64", "--on", on)]
    job = subprocess.run(
        words, env={**os.environ, **POISONOUS}, capture_output=True, text=True, timeout=250, check=False
    )
    assert job.returncode == 0, job.stderr
    assert errors_of(store) == {str(images[count // 3]): "decoder_crashed", str(images[count // 2]): "decode_timeout"}
    report = verify_store(open_store(open_directory(str(store))))
    assert (report.problems, report.num_rows) == ([], count)

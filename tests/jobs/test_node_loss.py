"""A node that dies in the middle of a job, and is not replaced."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imgcls_ray.storage import open_directory
from imgcls_ray.store.label_store import open_store
from imgcls_ray.store.verify import verify_store
from tests.jobs.cluster import environment

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder
    from tests.jobs.cluster import OwnCluster

NUM_IMAGES = 1200


def write_slow_images(folder: Path) -> None:
    """Pictures of two megapixels: both nodes are busy for seconds."""
    folder.mkdir()
    buffer = io.BytesIO()
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse.resize((1600, 1200)).save(buffer, "JPEG", quality=90)
    for i in range(NUM_IMAGES):
        (folder / f"{i:04d}.jpg").write_bytes(buffer.getvalue())


def nodes_at_work(port: int) -> set[str]:
    """Ids of the nodes on which a labelling actor is alive."""
    from ray.util.state import list_actors

    actors = list_actors(f"http://127.0.0.1:{port}", filters=[("state", "=", "ALIVE")])
    return {actor.node_id for actor in actors if actor.node_id and "UnitLabeller" in actor.class_name}


def test_a_lost_node_costs_no_input_its_row_and_none_two(
    cluster: OwnCluster, small_model: ModelFolder, tmp_path: Path
) -> None:
    write_slow_images(tmp_path / "images")
    node = cluster.add_node()
    store = tmp_path / "store"
    imgcls = Path(sys.executable).with_name("imgcls")
    paths = (tmp_path / "images", "-m", small_model.path, "-o", store)
    command = [str(word) for word in (imgcls, "predict", *paths, "--batch-size", "16", "-s", "unit_size=16")]
    job = subprocess.Popen(
        command,
        env=environment(RAY_ADDRESS=cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed_at = 0
    try:
        deadline = time.monotonic() + 90
        while job.poll() is None and not killed_at and time.monotonic() < deadline:
            num_parts = len(list(store.glob("predictions/*.parquet")))
            # Both nodes work, and the one to be killed has units in work.
            if num_parts >= 4 and node.node_id in (at_work := nodes_at_work(cluster.port)) and len(at_work) == 2:
                cluster.kill_node(node)
                killed_at = num_parts
            time.sleep(0.05)
        words, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert 0 < killed_at < NUM_IMAGES // 16, "the job was not in its middle"
    assert job.returncode == 0, words
    report = verify_store(open_store(open_directory(str(store))))
    assert report.problems == []
    assert report.num_rows == NUM_IMAGES

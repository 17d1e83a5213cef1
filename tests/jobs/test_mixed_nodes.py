"""Nodes with different processors: one run has one precision, and says which."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from imgcls_ray.models.engines.openvino_core import has_native_bf16
from imgcls_ray.store.schema import PRECISION_KEY
from tests.jobs.cluster import ROOT, environment
from tests.workers.survival import IMGCLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.models.folder import ModelFolder
    from tests.jobs.cluster import OwnCluster

_NO_BF16 = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("no_bf16")), str(ROOT)])}


@pytest.mark.slow
@pytest.mark.skipif(not has_native_bf16(), reason="this processor has no bf16: two nodes of it are alike")
def test_nodes_that_would_choose_differently_compute_alike(
    cluster: OwnCluster, small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(96)
    node = cluster.add_node(env_vars=_NO_BF16)
    try:
        command = [IMGCLS, "predict", tmp_path / "images", "--model", small_model.path]
        command += ["--output", tmp_path / "store", "--on", "ray", "--set", "unit_size=16", "--no-compact"]
        done = subprocess.run(
            [str(word) for word in command],
            env=environment(RAY_ADDRESS=cluster.address),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        cluster.kill_node(node)
    assert done.returncode == 0, done.stderr
    assert "precision: fp32 on all nodes, because 1 of 2 nodes cannot compute bf16 natively" in done.stderr
    parts = list((tmp_path / "store" / "predictions").glob("*.parquet"))
    assert len(parts) > 1
    assert {pq.read_schema(part).metadata[PRECISION_KEY] for part in parts} == {b"fp32"}
    assert json.loads((tmp_path / "store" / "runs" / "0001.json").read_text())["precisions"] == ["fp32"]

"""cluster.yaml, without a cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import ray
import yaml

from tests.jobs.cluster import ROOT


@pytest.fixture
def cluster() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return values


def test_it_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_rays_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == cluster["max_workers"]


def test_nothing_but_the_head_is_paid_for_while_nothing_runs(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert all(kind["min_workers"] == 0 for kind in types.values())
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert any(kind["resources"].get("GPU") for kind in types.values())

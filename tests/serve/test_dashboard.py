"""The Grafana dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCE = (ROOT / "imgcls_ray" / "serve" / "metrics.py").read_text()
PANELS = json.loads((ROOT / "docs" / "grafana" / "imgcls-serve.json").read_text())["panels"]


def test_every_metric_of_the_dashboard_is_counted_and_every_one_that_is_counted_stands_in_it() -> None:
    wanted = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"ray_(imgcls_[a-z_]+)", wanted)}
    counted = set(re.findall(r'"(imgcls_[a-z_]+)"', SOURCE))
    assert asked == counted


def test_every_panel_is_of_the_chosen_applications() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            series = re.findall(r"ray_[a-z_]+(\{[^}]*\})?", target["expr"])
            assert all('application=~"$application"' in selector for selector in series), panel["title"]

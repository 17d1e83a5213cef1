"""The Grafana dashboard of bulk runs asks for metrics that there are, and the documentation names them."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COUNTED = set(re.findall(r'"(imgcls_bulk_[a-z_]+)"', (ROOT / "imgcls_ray" / "predict" / "metrics.py").read_text()))
DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "imgcls-bulk.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_in_the_dashboard_and_nothing_else() -> None:
    assert {
        f"imgcls_bulk_{name}" for query in QUERIES for name in re.findall(r"\$\{source\}_([a-z_]+)", query)
    } == COUNTED


def test_every_query_is_of_the_chosen_source_and_stores() -> None:
    for query in QUERIES:
        selectors = re.findall(r"\$\{source\}_[a-z_]+(\{[^}]*\})?", query)
        assert all('store=~"$store"' in selector for selector in selectors), query
        assert "imgcls" not in query
    [source] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "source"]
    assert [option["value"] for option in source["options"]] == ["ray_imgcls_bulk", "imgcls_bulk"]


def test_the_documentation_names_every_metric() -> None:
    _, _, table = (ROOT / "docs" / "running.md").read_text().partition("| metric (`imgcls_bulk_…`) |")
    rows = re.findall(r"^\| `([a-z_]+)`", table.partition("\n\n")[0], flags=re.MULTILINE)
    assert {f"imgcls_bulk_{name}" for name in rows} == COUNTED

"""``imgcls report``: one page about a label store and its newest run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.commands.check import check_output
from imgcls_ray.config import ReportConfig, make_config, read_values
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import ReadLimits, Values


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Write the page that the configuration asks for; flags win over overrides, overrides over the file."""
    config = make_config(ReportConfig, read_values(ReportConfig, config_file, overrides, flags))
    write_page(config.store, config.output, config)


def write_page(place: str, output: str | None, config: ReadLimits) -> None:
    """Write the page about a store, and say where it is.

    Args:
        place: of the store.
        output: folder of the page; ``None``: in the store.
        config: how images and storage are read.
    """
    from imgcls_ray.report.run_report import NUM_EACH, write_report
    from imgcls_ray.store.overview import read_overview

    storage = storage_options(config)
    output = output or f"{place.rstrip('/')}/report"
    check_output(output, storage)
    overview = read_overview(open_store(open_directory(place, storage)), num_each=NUM_EACH)
    address = write_report(overview, output, fetch_limits=fetch_limits(config), decode_limits=decode_limits(config))
    print(f"report: {address}")

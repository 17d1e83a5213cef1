"""``imgcls drift``: a run beside the images that its model was evaluated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from imgcls_ray.commands.check import check_output
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.config import DriftConfig, make_config, read_values
from imgcls_ray.errors import JobFailedError, UsageError
from imgcls_ray.json_files import encode_json
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.store.drift import drift_of_run, most_unlike, newest_profile
from imgcls_ray.store.opening import open_store
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.store.drift import Drift


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Compare what the configuration says; flags win over overrides, overrides over the file.

    Raises:
        UsageError: nothing can be compared.
        JobFailedError: a feature differs by more than ``max_drift``, and by more than noise.
    """
    config = make_config(DriftConfig, read_values(DriftConfig, config_file, overrides, flags))
    storage = storage_options(config)
    if config.output is not None:
        check_output(config.output, storage)
    store = open_store(open_directory(config.store, storage))
    if config.run is not None and config.run not in store.finished_runs():
        raise UsageError(f"{store.uri}: has no finished run {config.run}; `imgcls store history` lists them")
    found = newest_profile(store, config.run)
    if found is None:
        which = "no finished run tells" if config.run is None else f"run {config.run} does not tell"
        raise UsageError(
            f"{store.uri}: {which} what its images are like: it labelled none, or an earlier version did; label new "
            "images first, or give the --run that labelled some"
        )
    number, profile = found
    drift = drift_of_run(store, profile)
    if drift is None and store.identity.tta != "none":
        raise UsageError(
            f"{store.uri}: was labelled with tta={store.identity.tta}, and evaluations are compared with runs without "
            "it; label into a new --output with tta=none"
        )
    if drift is None:
        raise UsageError(
            f"{store.uri}: knows nothing to compare with: its model was not evaluated before. Run `imgcls evaluate "
            "DATASET --model MODEL`, and label into a new --output"
        )
    if config.output is not None:
        from imgcls_ray.report.drift import write_report

        write_report(
            drift,
            store,
            number,
            most_unlike(store, number, config.num_pictures),
            config.output,
            fetch_limits=fetch_limits(config),
            decode_limits=decode_limits(config),
        )
    if config.json_:
        print(encode_json({"store": store.uri, "run": number, **drift.to_record()}).decode(), end="")
    else:
        _tell(drift, store.uri, number, config)
    if config.max_drift is not None and drift.worst > config.max_drift:
        raise JobFailedError(
            f"{store.uri}: the images of run {number:04d} have drifted by {drift.worst:.3f}, more than "
            f"max_drift={config.max_drift:g} allows: {drift.words}"
        )


def _tell(drift: Drift, uri: str, number: int, config: DriftConfig) -> None:
    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{uri}: run {number:04d}, {counted(drift.num_images, 'image')}, beside {drift.num_reference:,} of the "
        "model's evaluation"
    )
    table = Table("feature", "divergence", "noise", "", box=box.SIMPLE_HEAD)
    for column in table.columns[1:3]:
        column.justify = "right"
    for feature in drift.features:
        told = "differs" if feature.is_real else ""
        table.add_row(feature.name, f"{feature.divergence:.4f}", f"{feature.noise:.4f}", told)
    console.print(table)
    console.print(f"drift: {drift.words}")
    if config.output is not None:
        console.print(f"report: {config.output.rstrip('/')}/drift/report.html")

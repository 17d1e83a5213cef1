"""``imgcls predict``: label, then tell counts, rate and where the time went."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import LabelConfig, PredictConfig, check_keys, make_config, read_values
from imgcls_ray.errors import ImageErrorCode, JobFailedError, StoppedError, UsageError
from imgcls_ray.words import counted, duration
from imgcls_ray.workers.ahead import is_device_settled, loading_ahead
from imgcls_ray.workers.pool import is_on_ray

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from imgcls_ray.config import Values
    from imgcls_ray.errors import ImageError
    from imgcls_ray.predict.report import PredictReport, RunReport

logger = logging.getLogger(__name__)

# Without --output labels are printed: what speaks of a store would do nothing.
_NEED_A_STORE = frozenset(
    {
        "accept_missing",
        "boxes",
        "compact",
        "cores_per_worker",
        "dry_run",
        "embedding",
        "export",
        "fail_if_empty",
        "keep_columns",
        "like",
        "limit",
        "logits",
        "max_error_rate",
        "max_workers",
        "metrics_file",
        "min_conf",
        "min_workers",
        "num_gpus",
        "num_workers",
        "on",
        "price_per_hour",
        "report",
        "retry",
        "sample",
        "save_images",
        "seed",
        "tta",
        "unit_size",
    }
)
_UNLISTED_TOLD = 20


WORKERS = ("imgcls_ray.predict.label", "serve_labelling")
"""What local workers are forked from: module and function."""


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Label what the configuration says; flags win over overrides, overrides over the file."""
    values = read_values(PredictConfig, config_file, overrides, flags)
    check_keys(PredictConfig, values)
    if "output" not in values and "input" in values:
        _print_labels(values)
        return
    config = make_config(PredictConfig, values)
    try:
        config, report = _label(config)
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"stopped; everything labelled so far is kept in {config.output}, and the same command goes on from there"
        ) from error
    if config.dry_run:
        _tell_plan(report, config)
        report.listing.check_complete()
        _check_not_empty(report, config)
        return
    _tell(report, config)
    _after(config)
    report.check_errors(config.max_error_rate, accept_missing=config.accept_missing)
    if report.input_error is not None:
        if not config.accept_missing:
            raise report.input_error
        print(f"{report.input_error}; only the run that was open has been finished")
    report.listing.check_complete()
    _check_not_empty(report, config)


def _label(config: PredictConfig) -> tuple[PredictConfig, PredictReport]:
    """Do the job; returns the configuration with its device."""
    ahead = nullcontext() if config.dry_run else loading_ahead(partial(is_surely_here, config), *WORKERS)
    with native_stderr_aside(), ahead as server:
        # What takes a second to import comes after that has begun.
        from rich.console import Console

        from imgcls_ray.commands.device import settle_device
        from imgcls_ray.predict.job import predict
        from imgcls_ray.workers.without_pandas import spare_pandas

        if server is not None:
            spare_pandas()
        config = settle_device(config)
        return config, predict(config, Console(stderr=True), server)


def is_surely_here(config: PredictConfig) -> bool:
    """Whether workers are certain to run on this machine; raises as ``is_on_ray``."""
    return not is_on_ray(config) and (config.on == "local" or is_device_settled(config.device))


def _check_not_empty(report: PredictReport, config: PredictConfig) -> None:
    """Tell of an input without images: it may be empty, or mistyped.

    Raises:
        JobFailedError: if ``fail_if_empty`` asks for it.
    """
    if report.plan.listed or report.input_error is not None:
        return
    told = f"{config.input_text}: holds no images that could be labelled; is this the right place?"
    if report.listing.by_name["*.parquet"]:
        told += " If its Parquet files hold images, --include '*.parquet' opens them."
    if config.fail_if_empty:
        raise JobFailedError(told)
    logger.warning("%s With --fail-if-empty the exit code is 1", told)


def _print_labels(values: Values) -> None:
    """Images without a store: label them in this process and print."""
    from imgcls_ray.commands.device import settle_device
    from imgcls_ray.inputs.checks import check_inputs, is_single_file
    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.inputs.listing import ListingCounts, named_files
    from imgcls_ray.options import name_rules, storage_options

    config = make_config(LabelConfig, values)
    storage, counts = storage_options(config), ListingCounts()
    check_inputs(config.inputs, storage, uri_column=config.uri_column, kept=Kept((), boxes=config.boxes))
    if ignored := sorted(_NEED_A_STORE & values.keys()):
        raise UsageError(f"{ignored[0]}: labels are only printed; give --output STORE to keep them")
    for source in config.inputs:
        if not is_single_file(source, storage):
            raise UsageError(f"{source}: more than one image needs --output STORE, the label store to write")
    images = named_files(config.inputs, name_rules(config), counts)

    from imgcls_ray.models.api import create_model

    model = create_model(
        config.model,
        engine=config.engine,
        device=settle_device(config).device,
        precision=config.precision,
        max_image_bytes=config.max_image_bytes,
        max_image_pixels=config.max_image_pixels,
        allow_private_urls=config.allow_private_urls,
        storage=storage,
    )
    num_failed = 0
    for result in model.predict(images, batch_size=min(config.batch_size, len(images) or 1), top_k=config.top_k):
        if result.error is not None and len(config.inputs) == 1:
            raise JobFailedError(f"{result.input}: {result.error.code}: {result.error}{_way_out(result.error)}")
        num_failed += result.error is not None
        result.print()
    for line in counts.lines():
        print(f"left out: {line}")
    if num_failed and num_failed == len(images):
        raise JobFailedError(f"all inputs failed ({num_failed:,}), for the reasons told above")


def _way_out(error: ImageError) -> str:
    from imgcls_ray.storage.http import NOT_PUBLIC

    is_private = error.code is ImageErrorCode.ACCESS_DENIED and error.detail.endswith(NOT_PUBLIC)
    return "; --allow-private-urls allows it" if is_private else ""


def _tell_plan(report: PredictReport, config: PredictConfig) -> None:
    console = _console()
    plan = report.plan
    if report.num_left_open:
        console.print(
            f"an earlier command left {counted(report.num_left_open, 'image')} open, which are labelled first; if they "
            "are listed, the numbers below count them as inputs without a row"
        )
    console.print(
        f"{config.input_text}: {plan.listed:,} inputs, {plan.planned:,} to label "
        f"({plan.new:,} new, {plan.changed:,} changed, {plan.retried:,} to retry), "
        f"{plan.answered:,} have their row. Nothing was written.",
    )
    _tell_left_out(console, report)


def _tell(report: PredictReport, config: PredictConfig) -> None:
    from rich.table import Table

    from imgcls_ray.store.schema import STATUS_OK

    console = _console()
    done = [run for run in report.runs if run.num_images]
    for run in done:
        if run.num_done_before:
            console.print(
                f"run {run.run:04d} was open: {run.num_done_before:,} of its {run.num_images:,} images had their row",
            )
    if not done:
        if report.plan.listed:
            console.print(
                f"nothing to label: {counted(report.plan.listed, 'input')}, all have their row in {report.store}"
            )
        _tell_left_out(console, report)
        return
    codes: Counter[str] = sum((run.codes for run in done), Counter())
    total, num_now = codes.total(), sum(run.num_labelled for run in done)
    now = f", {num_now:,} of them by this command," if num_now < total else ""
    table = Table(
        "status", "images", "share", "meaning", title=f"{counted(total, 'image')}{now} in {duration(report.seconds)}"
    )
    for column in table.columns[1:3]:
        column.justify = "right"
    for code, count in sorted(codes.items(), key=lambda item: (item[0] != STATUS_OK, -item[1])):
        meaning = "labelled" if code == STATUS_OK else ImageErrorCode(code).message
        table.add_row(code, f"{count:,}", f"{count / total:.1%}", meaning)
    console.print(table)
    for run in done:
        _tell_run(console, run)
    if codes[ImageErrorCode.UNSUPPORTED_FORMAT.value]:
        console.print(
            "unsupported_format: `imgcls predict FILE --model MODEL` gives the reason for one file; HEIC and JPEG XL "
            "need extra packages (pip install 'imgcls-ray[heif,jxl]')"
        )
    _tell_left_out(console, report)
    is_reached = config.limit and sum(run.num_labelled for run in report.runs) >= config.limit
    if is_reached or not report.runs[-1].is_finished:
        console.print(f"stopped at limit={config.limit}; the same command continues with the images that are left")
    if (cost := report.cost_per_million_images(config.price_per_hour)) is not None:
        console.print(f"cost: {cost:,.2f} for a million images, at {config.price_per_hour:g} an hour")
    console.print(f"labels: {report.store}")


def _console() -> Console:
    from imgcls_ray.commands.stdout import StdoutConsole

    return StdoutConsole(highlight=False, markup=False, soft_wrap=True)


def _tell_run(console: Console, run: RunReport) -> None:
    if not run.num_labelled:
        return
    rate = f", {run.images_per_s:,.1f} images/s after the start of the workers" if run.images_per_s else ""
    console.print(
        f"run {run.run:04d}: {counted(run.num_labelled, 'image')} on {counted(run.num_workers, 'worker')}{rate}"
    )
    stages = asdict(run.worker_seconds)
    total = sum(stages.values())
    if total:
        parts = ", ".join(f"{name} {value / total:.0%}" for name, value in stages.items())
        console.print(f"time of the workers: {parts}")
    if (accepted := run.profile.share_accepted) is not None:
        console.print(f"accepted: {accepted:.1%} of the labels, the others are unsure")
    if run.drift is not None:
        console.print(f"drift: {run.drift.words}")
    if (verdict := run.verdict) is not None:
        console.print(verdict.words(decodes_whole=run.decodes_whole, may_quantize=run.may_quantize))


def _tell_left_out(console: Console, report: PredictReport) -> None:
    if (sample := report.sample) is not None:
        console.print(
            f"random sample of {report.plan.listed:,} of {counted(sample.num_seen, 'input')} (seed {sample.seed})"
        )
    if report.plan.waiting and report.plan.next_retry:
        console.print(
            f"failed more than once: {counted(report.plan.waiting, 'input')}; the next retry is at "
            f"{report.plan.next_retry.astimezone():%Y-%m-%d %H:%M}, --retry CODES retries now"
        )
    if report.presence is not None:
        if number := report.presence.num_vanished:
            console.print(
                f"not there any more: {counted(number, 'input')}; `imgcls store latest` tells their rows as not present"
            )
        if number := report.presence.num_returned:
            console.print(f"there again: {counted(number, 'input')}")
    if report.values is not None and (number := report.values.num_changed):
        console.print(f"other columns of lists: kept for {counted(number, 'input')} that had none, or other ones")
    counts = report.listing
    for line in counts.lines():
        console.print(f"left out: {line}")
    for unlisted in counts.unlisted[:_UNLISTED_TOLD]:
        console.print(f"cannot be listed: {unlisted}")
    if (more := counts.num_unlisted - _UNLISTED_TOLD) > 0:
        console.print(f"cannot be listed: {more:,} more folders")


def _after(config: PredictConfig) -> None:
    if config.export or config.save_images:
        from imgcls_ray.options import storage_options
        from imgcls_ray.predict.samples import save_samples
        from imgcls_ray.storage import open_directory
        from imgcls_ray.store.export import export_latest
        from imgcls_ray.store.opening import open_store

        store = open_store(open_directory(config.output, storage_options(config)))
        if config.export:
            print(f"newest rows: {export_latest(store, config.export)}")
        if config.save_images:
            print(f"samples: {save_samples(store, config)}")
    if config.report:
        from imgcls_ray.commands.report import write_page

        write_page(config.output, None, config)

"""The main job: label everything of an input that its label store does not answer yet.

First what an earlier command left open, then what is new. Whatever ends the job, the parts that are written stay, and
the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from contextlib import nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING

from imgcls_ray.errors import ResourceError, StoppedError
from imgcls_ray.machine import available_cores, has_fast_int8
from imgcls_ray.models.engines.load import check_engine
from imgcls_ray.models.open import open_model
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.predict.exporters import Exporter, ProgressFile, TextFile, check_text_file, exporting
from imgcls_ray.predict.identity import check_fits, identity_of
from imgcls_ray.predict.label import LabelTask, serve_labelling
from imgcls_ray.predict.metrics import BulkMetrics
from imgcls_ray.predict.planning import (
    about_inputs,
    input_error_of,
    limits_of,
    listed_in,
    planned_inputs,
    recorded_inputs,
)
from imgcls_ray.predict.report import PredictReport, RunReport
from imgcls_ray.predict.runs import work_off
from imgcls_ray.predict.sizes import sizes_of_units
from imgcls_ray.predict.units import label_units
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.create_only import prove_create_only
from imgcls_ray.storage.files import absolute_path
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.store.compact import compact_after_run
from imgcls_ray.store.delta_log import read_summary
from imgcls_ray.store.lease import hold_lease
from imgcls_ray.store.opening import create_or_open_store, is_store, open_store
from imgcls_ray.store.plan import write_plan
from imgcls_ray.store.records import now
from imgcls_ray.store.schema import STATUS_OK
from imgcls_ray.words import counted
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.pool import is_on_ray
from imgcls_ray.workers.prepare import check_resources, local_pool, shared_precision, start_classifiers, start_locally
from imgcls_ray.workers.progress import label_progress
from imgcls_ray.workers.ray_metrics import RayMetrics
from imgcls_ray.workers.stopping import interrupt_on_stop

if TYPE_CHECKING:
    from rich.console import Console

    from imgcls_ray.config import Precision, PredictConfig
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.storage.left_out import ListingCounts
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.plan import Spool
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit
    from imgcls_ray.workers.forks import ForkServer
    from imgcls_ray.workers.local_pool import LocalPool
    from imgcls_ray.workers.pool import Pool

logger = logging.getLogger(__name__)


def predict(config: PredictConfig, console: Console, server: ForkServer | None = None) -> PredictReport:
    """Run ``imgcls predict``: plan, label, record.

    Args:
        config: of the run.
        console: for the progress.
        server: what local workers are forked from, if it loads already.

    Raises:
        UsageError: before anything is started, with the way out.
        JobFailedError: a worker failed for good; what is written stays.
    """
    start = time.monotonic()
    if config.metrics_file is not None:
        check_text_file(config.metrics_file)
    check_resources(
        config,
        num_workers=config.num_workers or config.min_workers,
        key="num_workers" if config.num_workers else "min_workers",
        cores_per_worker=config.cores_per_worker,
        num_gpus=config.num_gpus,
        some_gpus="num_gpus={}",
    )
    # The processes load while everything else is read and planned.
    with local_pool(config, serve_labelling, is_needed=not config.dry_run, server=server) as local:
        report = _predict(config, console, start, local)
    report.seconds = time.monotonic() - start
    return report


def _predict(config: PredictConfig, console: Console, start: float, local: LocalPool) -> PredictReport:
    storage = storage_options(config)
    folder = open_model(config.model, storage)
    check_engine(folder, config.engine, "gpu" if config.uses_gpus else "cpu", config.embedding)
    input_error = input_error_of(config, storage)
    directory = open_directory(config.output, storage)
    report = PredictReport(directory.uri)
    store = open_store(directory) if is_store(directory) else None
    if store is not None:
        check_fits(store, config, folder.spec)
    # What an earlier command left open is finished also where this input is gone.
    if input_error is not None and (store is None or config.dry_run or not _open_runs(store)):
        raise input_error
    if config.dry_run:
        report.num_left_open = _count_left_open(store) if store is not None else 0
        with planned_inputs(config, store, report, config.limit) as plans:
            for _ in plans:
                pass
        return report

    metrics = BulkMetrics(directory.uri, report.plan)
    exporters: list[Exporter] = [ProgressFile(directory)]
    if config.metrics_file is not None:
        exporters.append(TextFile(config.metrics_file))
    if store is None:
        store = create_or_open_store(directory, identity_of(config, folder.spec))
    else:
        prove_create_only(directory)
    with hold_lease(directory), exporting(metrics, exporters):
        job = _Job(config, folder, store, report.listing, console, metrics, exporters, local)
        work_off(
            store,
            job,
            lambda limit: (
                planned_inputs(config, store, report, limit) if input_error is None else nullcontext(iter(()))
            ),
            report,
            limit=config.limit,
        )
        if config.compact:
            compact_after_run(store, time.monotonic() - start)
    report.input_error = input_error
    return report


def _open_runs(store: LabelStore) -> list[int]:
    return store.open_runs(read_summary(store.directory).through)


def _count_left_open(store: LabelStore) -> int:
    """Inputs of open runs that have no row."""
    return sum(
        unit.num_rows
        for run in _open_runs(store)
        for answered in [store.answered_units(run)]
        for unit in store.units(run)
        if unit.number not in answered
    )


class _Job:
    """What one command does with its runs; the workers' place is made ready once, when the first unit needs it."""

    def __init__(
        self,
        config: PredictConfig,
        folder: ModelFolder,
        store: LabelStore,
        counts: ListingCounts,
        console: Console,
        metrics: BulkMetrics,
        exporters: list[Exporter],
        local: LocalPool,
    ) -> None:
        self._config, self._folder, self._store, self._console = config, folder, store, console
        self._counts, self._metrics, self._exporters = counts, metrics, exporters
        self._local = local
        self._pool: Pool | None = None
        self._task = LabelTask(
            model=config.model if is_object(config.model) else absolute_path(str(folder.path)),
            fingerprint=folder.spec.fingerprint,
            store=store.uri,
            top_k=store.identity.top_k,
            embedding=config.embedding,
            logits=config.logits,
            engine=config.engine,
            precision=config.precision,
            batch_size=config.batch_size,
            tta=config.tta,
            decode_limits=decode_limits(config),
            fetch_limits=fetch_limits(config),
            limits=limits_of(config),
        )

    def write_plan(self, planned: Spool, run: int) -> None:
        """Cut the inputs into units and write them down."""
        write_plan(
            self._store,
            planned,
            run=run,
            sizes=self._unit_sizes(planned.num_images, self._plan_for(planned.num_images)),
            about={**about_inputs(self._config), "left_out": self._counts.to_record()},
        )

    def label_units(self, units: list[Unit], report: RunReport) -> set[int]:
        """Label units; returns the numbers of those whose part another worker had written.

        Raises:
            StoppedError: a signal asked for it; the work that was in hand has ended, if it could.
        """
        logger.info(
            "run %04d: %s to label in %s",
            report.run,
            counted(sum(unit.num_rows for unit in units), "image"),
            counted(len(units), "unit"),
        )
        precision = self._begun_precision(report)
        alone = self._alone(precision) if len(units) == 1 else None
        is_alone = alone is not None
        pool = alone or self._start(precision)
        report.num_workers = 1 if is_alone else pool.plan.num_cpu_workers
        report.cores_per_worker = 1 if is_alone else pool.plan.cores_per_worker
        report.num_gpus = pool.plan.num_gpu_workers
        report.decodes_whole = self._folder.spec.preprocess.decode == "full"
        # A network in 8 bits gives no embedding.
        is_whole = self._folder.spec.exported is None and not self._config.embedding
        report.may_quantize = is_whole and has_fast_int8() is True
        kept = f"everything labelled so far is kept in {self._store.uri}, and the same command goes on from there"
        results = label_units(
            units,
            self._task_of(report, pool),
            pool,
            what_now=f"; {kept}",
            # A single unit has the machine to itself.
            num_threads=available_cores() if is_alone else 1,
            num_cores=report.cores_per_worker,
        )
        others: set[int] = set()
        num_done = report.num_done_before
        try:
            with (
                interrupt_on_stop(self._config.grace_s, pool.stop),
                label_progress(report.num_images, report.num_done_before, self._console, doing="labelling") as progress,
            ):
                self._metrics.begin_run(report, progress)
                for counts in results:
                    num_done += counts.num_images
                    self._metrics.add(counts)
                    progress.add(counts.num_images, sum(n for code, n in counts.codes.items() if code != STATUS_OK))
                    report.images_per_s = progress.images_per_s
                    report.num_workers = max(report.num_workers, 1 if is_alone else pool.plan.num_cpu_workers)
                    if not counts.committed:
                        others.add(counts.number)
                        continue
                    report.codes.update(counts.codes)
                    report.profile += counts.profile
                    report.num_measured += counts.num_images
                    if counts.precision is not None:
                        report.precisions.add(counts.precision)
                    for name, value in vars(counts.seconds).items():
                        setattr(report.stages, name, getattr(report.stages, name) + value)
        except KeyboardInterrupt as error:
            raise self._stopped(report, num_done) from error
        return others

    def _task_of(self, report: RunReport, pool: Pool) -> LabelTask:
        listed = None if self._config.accept_missing else listed_in(report.plan)
        return dataclasses.replace(self._task, listed=listed, precision=self._precision(report, pool))

    def _precision(self, report: RunReport, pool: Pool) -> Precision:
        """One number format for the whole run, whichever machines it runs on."""
        return self._begun_precision(report) or shared_precision(self._config, self._folder, pool)

    def _begun_precision(self, report: RunReport) -> Precision | None:
        if self._config.precision == "auto" and any(begun.endswith("fp32") for begun in report.precisions):
            # Every processor computes fp32, so what was begun in it is also finished in it.
            return "fp32"
        return None

    def _stopped(self, report: RunReport, num_done: int) -> StoppedError:
        return StoppedError(
            f"stopped; everything labelled so far is kept in {self._store.uri} ({num_done:,} of the "
            f"{counted(report.num_images, 'image')} of run {report.run:04d}), and the same command goes on from there"
        )

    def _alone(self, precision: Precision | None) -> LocalPool | None:
        """For a single unit, wherever others would be labelled: Ray's start would take longer. None if it must."""
        config = self._config
        if config.uses_gpus or config.on == "ray":
            return None
        try:
            return start_locally(
                config, self._local, self._folder, embedding=config.embedding, is_alone=True, precision=precision
            )
        except ResourceError as error:
            if not is_on_ray(config):
                raise
            logger.info("the single unit goes to the Ray cluster: %s", error)
            return None

    def _start(self, precision: Precision | None = None) -> Pool:
        """Have the workers' place ready. What was begun in another precision than ``auto`` means comes first."""
        if self._pool is None:
            config = self._config
            self._pool = start_classifiers(
                config,
                self._local,
                self._folder,
                embedding=config.embedding,
                num_gpus=config.num_gpus,
                precision=precision,
            )
            if is_on_ray(config):
                self._exporters.append(RayMetrics())
        return self._pool

    def _plan_for(self, num_images: int) -> WorkerPlan:
        """The workers of a run; for a single unit they need not be asked for, and planning need not wait for Ray."""
        return self._start().plan if len(self._unit_sizes(num_images, WorkerPlan(1))) > 1 else WorkerPlan(1)

    def _unit_sizes(self, num_images: int, plan: WorkerPlan) -> list[int]:
        passes = self._task.num_passes
        return sizes_of_units(self._config, self._folder, plan, num_images=num_images, passes_per_image=passes)

    def describe_run(self, report: RunReport) -> RunRecord:
        """The record of a finished run."""
        packages = ("imgcls-ray", "ray", "torch", "simplejpeg", "timm", "openvino", "pillow", "pyarrow")
        source = report.plan.get("input", recorded_inputs(self._config.inputs))
        record: RunRecord = {
            "run": report.run,
            "finished": now(),
            "fingerprint": self._folder.spec.fingerprint,
            # Of the plan: the command that finishes a run may have another input.
            "input": source,
            "left_out": report.plan.get("left_out", {}),
            "num_images": report.num_images,
            "counts": dict(sorted(report.codes.items())),
            "precisions": sorted(report.precisions),
            "seconds": round(report.seconds, 3),
            "config": {**self._config.model_dump(), "input": source},
            "versions": {package: version(package) for package in packages},
        }
        if report.profile.num_images:
            record["profile"] = report.profile.model_dump(mode="json")
        if report.drift is not None:
            record["drift"] = report.drift.to_record()
        if report.images_per_s is not None:
            record["images_per_s"] = round(report.images_per_s, 1)
        if report.num_measured:
            record["stage_seconds"] = {stage: round(seconds, 3) for stage, seconds in vars(report.stages).items()}
        if (verdict := report.verdict) is not None:
            record["verdict"] = verdict.to_record()
        if (cost := report.cost_per_million_images(self._config.price_per_hour)) is not None:
            record["cost_per_million_images"] = round(cost, 4)
        return record

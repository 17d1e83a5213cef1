"""Export the numbers of a command while it runs: to a file for Prometheus, and to ``progress.json``.

``workers/ray_metrics.py`` has the exporter to Ray.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from imgcls_ray.errors import ConfigError, StoppedError, StorageError
from imgcls_ray.json_files import encode_json
from imgcls_ray.storage import open_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from imgcls_ray.predict.metrics import BulkMetrics
    from imgcls_ray.storage import Directory

PROGRESS_FILE = "progress.json"
_INTERVAL_S = 5.0
_END_S = 5.0

logger = logging.getLogger(__name__)


class Exporter(Protocol):
    """A place that is told the numbers."""

    def export(self, metrics: BulkMetrics) -> None:
        """Tell them as they are now.

        Raises:
            ImgclsError: they cannot be written there.
        """


class TextFile:
    """A file for the textfile collector of Prometheus' node exporter.

    It keeps the last numbers of a command that has ended, where a port would be gone before it is asked, and each
    version appears as a whole.
    """

    def __init__(self, path: str) -> None:
        folder, self._name = os.path.split(path)
        self._directory = open_directory(folder or ".")

    def export(self, metrics: BulkMetrics) -> None:
        from prometheus_client.exposition import generate_latest
        from prometheus_client.registry import Collector, CollectorRegistry

        class Now(Collector):
            def collect(self) -> Iterable[Metric]:
                return _prometheus_metrics(metrics)

        registry = CollectorRegistry()
        registry.register(Now())
        self._directory.replace(self._name, generate_latest(registry))


def _prometheus_metrics(metrics: BulkMetrics) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for family in metrics.families():
        kind = CounterMetricFamily if family.is_counter else GaugeMetricFamily
        labels = ["store", family.label] if family.label else ["store"]
        metric = kind(family.name, family.description, labels=labels)
        for value, number in family.samples.items():
            metric.add_metric([metrics.store, value][: len(labels)], number)
        yield metric


class ProgressFile:
    """``progress.json`` beside a label store, for schedulers. Nothing of the store is read from it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def export(self, metrics: BulkMetrics) -> None:
        try:
            self._directory.replace(PROGRESS_FILE, encode_json(metrics.to_record()))
        except StorageError:
            # The rows go to the same storage: if it fails, the command ends and says so.
            logger.debug("%s was not written", PROGRESS_FILE, exc_info=True)


def check_text_file(path: str) -> None:
    """Refuse a text file that could not be written, before anything is started. It is left as it is.

    Raises:
        ConfigError: with the reason.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        reason = f"there is no folder {folder}"
    elif os.path.isdir(path):
        reason = "it is a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"the folder {folder} is not writable"
    else:
        return
    raise ConfigError(
        f"metrics_file: {path} cannot be written: {reason}; give a file in a folder that you may write to",
        key="metrics_file",
    )


@contextmanager
def exporting(metrics: BulkMetrics, exporters: list[Exporter]) -> Iterator[None]:
    """Export at once, every few seconds while the block runs, and when it has ended.

    Args:
        metrics: what is told.
        exporters: to whom; more may be added in the block. One that fails is named in the log once, and the command
            goes on.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_keep_exporting, args=(metrics, exporters, stop), name="metrics", daemon=True)
    thread.start()
    try:
        yield
        metrics.state = "finished"
    except BaseException as error:
        metrics.state = "stopped" if isinstance(error, KeyboardInterrupt | StoppedError) else "failed"
        raise
    finally:
        stop.set()
        # A storage that does not answer has its own deadline; nobody waits for that here.
        thread.join(_END_S)


def _keep_exporting(metrics: BulkMetrics, exporters: list[Exporter], stop: threading.Event) -> None:
    failed: set[Exporter] = set()
    while True:
        is_last = stop.is_set()
        for exporter in tuple(exporters):
            try:
                exporter.export(metrics)
            except Exception as error:  # whatever it is: the labels matter more than their number
                if exporter not in failed:
                    logger.warning("%s (%s); the run goes on", error, type(exporter).__name__)
                failed.add(exporter)
        if is_last:
            return
        stop.wait(_INTERVAL_S)

"""Check a labelled dataset: every line, every image, every pair, in one pass over the images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.datasets.collecting import Collector
from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.datasets.inspecting import InspectTask, inspect_entries, serve_inspecting
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.workers.prepare import check_resources, local_pool, start_workers
from imgcls_ray.workers.stopping import interrupt_on_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.check_result import CheckResult


def check_dataset(config: CheckConfig, on_progress: Callable[[int], None] | None = None) -> CheckResult:
    """Check every image of a dataset.

    Args:
        config: what and how; ``split`` and ``output`` are for the caller.
        on_progress: told how many images more were looked at.

    Raises:
        InputError: there is no such dataset.
        ResourceError: more workers than there are cores.
        StorageError: its storage fails.
        JobFailedError: a worker failed for good.
    """
    start = time.monotonic()
    check_resources(config, num_workers=config.num_workers)
    task = InspectTask(fetch_limits(config), decode_limits(config))
    # The processes load while the lists are read.
    with local_pool(config, serve_inspecting) as local, scratch_folder("check") as folder:
        source = read_dataset(
            config.data, delimiter=config.delimiter, split_folders=config.split_places, storage=storage_options(config)
        )
        source.tell_notes()
        entries = EntryFile(Path(folder, "entries.parquet"))
        collector = Collector(config, source, entries)
        pool = start_workers(config, local)
        # There is no report of a part of the images, so a stop waits for nothing.
        with interrupt_on_stop(0, pool.stop):
            for facts in inspect_entries(collector.blocks(), task, pool):
                collector.take(facts)
                if on_progress is not None:
                    on_progress(len(facts))
        collector.look_at_pairs(task)
        collector.look_at_classes()
        result = collector.result()
    result.seconds = time.monotonic() - start
    return result

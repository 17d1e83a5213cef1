"""What decoder and engine do without a service: the limit of what a service can do on the same cores."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import common
from benchmarks.bodies import SIZES, draw_jpegs
from benchmarks.common import available_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def keep_conversion(model: Path, environment: Mapping[str, str]) -> None:
    """Convert the network once, so that every server and every rate after it finds it converted."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as image:
        image.write(draw_jpegs(SIZES["10k"], 1)[0])
        image.flush()
        common.keep_conversion(model, Path(image.name), dict(environment))


def in_process_rate(model: Path, jpegs: Sequence[bytes], seconds: float, environment: Mapping[str, str]) -> float:
    """Images per second of the same classifier without a service, one thread per core, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor:
        return executor.submit(_classify_for, seconds, model, jpegs, dict(environment)).result()


def _classify_for(seconds: float, model: Path, jpegs: Sequence[bytes], environment: Mapping[str, str]) -> float:
    # As Ray sets it in the service's replicas.
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    from imgcls_ray.models.classifier import ImageClassifier, decode_model_input
    from imgcls_ray.models.folder import open_model_folder

    batch_size, cores = 8, available_cores()
    folder = open_model_folder(model)
    first = ImageClassifier.load(folder, batch_size=batch_size, num_threads=1, num_streams=cores, pad=False)
    classifiers = [first, *(first.beside() for _ in range(cores - 1))]
    done = [0] * cores
    barrier = threading.Barrier(cores + 1)

    def work(thread: int) -> None:
        classifier = classifiers[thread]

        def label(start: int) -> None:
            batch = [jpegs[(start + i) % len(jpegs)] for i in range(batch_size)]
            list(
                classifier.classify_inputs(
                    [decode_model_input(d, folder.spec.preprocess, classifier.limits) for d in batch]
                )
            )

        for i in range(4):
            label(i * batch_size)
        barrier.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            label(done[thread])
            done[thread] += batch_size

    threads = [threading.Thread(target=work, args=(i,)) for i in range(cores)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.monotonic()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - start)

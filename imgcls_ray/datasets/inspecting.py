"""Look at every image of a dataset: the work of one actor, and how it is handed out.

An image that ends its worker is found as in bulk labelling: after two deaths over one block its images are measured in
a child process, and the guilty one gets its code.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import ImageError, ImageErrorCode, JobFailedError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.measure import ImageFacts, measure_image
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.decoding import (
    CAREFUL_AFTER_DEATHS,
    MAX_DEATHS_OF_UNIT,
    ask_child,
    end_process_when_late,
    load_decoders,
    serve_images,
)
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, any_version, fetch_inputs
from imgcls_ray.workers.ray_failures import with_causes
from imgcls_ray.workers.ray_pool import dataset_of, map_units, quiet_ray_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.storage import FetchLimits


# A few seconds of one core: long enough that handing it out costs nothing, short enough for two in hand.
ROWS_PER_BLOCK = 512
# A block of Ray Data costs the driver some kilobytes: a large dataset goes in waves.
_BLOCKS_PER_WAVE = 1024
ENTRY_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("split", pa.int8()),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
    ]
)
"""What a worker gets: ``number`` is the place of the entry in the dataset, ``split`` that in ``SPLITS``."""

FACTS_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("split", pa.int8()),
        ("label", pa.int32()),
        ("uri", pa.string()),
        ("path_hash", pa.int64()),
        ("folded_hash", pa.int64()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("kind", pa.string()),
        ("is_turned", pa.bool_()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("perceptual_hash", pa.binary(16)),
        ("digest", pa.binary(16)),
    ]
)
"""What comes back: of an image that cannot be measured, ``code`` and ``detail`` instead of facts."""


@dataclass(frozen=True)
class InspectTask:
    """What every worker is told."""

    fetch_limits: FetchLimits
    decode_limits: DecodeLimits


class Inspector:
    """Fetches and measures blocks of entries on one core. Two threads may call it at once: one computes."""

    def __init__(self, task: InspectTask, board: Board) -> None:
        load_decoders()
        self._task, self._board = task, board
        self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")
        self._computing = threading.Lock()

    def __call__(self, entries: pa.Table) -> pa.Table:
        unit = f"block-{entries['number'][0].as_py()}"
        encoded = fetch_inputs(any_version(entries["uri"]), self._task.fetch_limits, self._executor)
        with self._computing:
            num_deaths = self._board.begin("inspect", unit)
            if num_deaths >= MAX_DEATHS_OF_UNIT:
                raise JobFailedError(
                    f"images {entries['number'][0]} and on have ended their worker {num_deaths} times, also when they "
                    "were decoded in a process of their own"
                )
            limits = self._task.decode_limits
            careful = num_deaths >= CAREFUL_AFTER_DEATHS
            with measure_in_child(limits) if careful else nullcontext(measure_in_time(limits)) as measure:
                results = [item if isinstance(item, ImageError) else measure(item) for item in encoded]
        self._board.end("inspect", unit)
        return _facts_table(entries, results)


def inspect_entries(entries: Iterable[pa.Table], task: InspectTask, *, num_workers: int) -> Iterator[pa.Table]:
    """Measure the images of blocks of entries (``ENTRY_SCHEMA``) on Ray; facts come back in any order of blocks."""
    quiet_ray_data()
    board = Board()
    blocks = iter(entries)
    while wave := list(itertools.islice(blocks, _BLOCKS_PER_WAVE)):
        dataset = dataset_of(wave)
        facts = map_units(dataset, Inspector, (task, board), num_actors=min(num_workers, len(wave)))
        measured: Any = facts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        yield from with_causes(measured)
    board.clear()


def measure_in_time(limits: DecodeLimits) -> Callable[[bytes], ImageFacts | ImageError]:
    """The ordinary way. An image that takes longer than ``limits.timeout_s`` ends the process by SIGALRM."""

    def measure(data: bytes) -> ImageFacts | ImageError:
        try:
            return measure_image(data, limits)
        except ImageError as error:
            return error.as_value()

    return end_process_when_late(measure, limits)


@contextmanager
def measure_in_child(limits: DecodeLimits) -> Iterator[Callable[[bytes], ImageFacts | ImageError]]:
    """The careful way: an image that ends its process gets ``decoder_crashed`` or ``decode_timeout``."""
    with ask_child(__name__, "serve_measuring", json.dumps(asdict(limits)).encode(), limits) as ask:

        def measure(data: bytes) -> ImageFacts | ImageError:
            answer = ask(data)
            return answer if isinstance(answer, ImageError) else _read_answer(answer)

        yield measure


def serve_measuring() -> None:
    """The child of ``measure_in_child``."""

    def begin(task: bytes) -> tuple[DecodeLimits, Callable[[bytes], bytes]]:
        limits = DecodeLimits(**json.loads(task))
        measure = measure_in_time(limits)
        return limits, lambda data: _write_answer(measure(data))

    serve_images(begin)


def _write_answer(result: ImageFacts | ImageError) -> bytes:
    if isinstance(result, ImageError):
        return json.dumps({"code": result.code, "detail": result.detail}).encode()
    values = result._asdict()
    for name in ("perceptual_hash", "digest"):
        values[name] = base64.b64encode(values[name]).decode()
    return json.dumps(values).encode()


def _read_answer(answer: bytes) -> ImageFacts | ImageError:
    values: dict[str, Any] = json.loads(answer)
    if "code" in values:
        return ImageError(ImageErrorCode(values["code"]), values["detail"])
    for name in ("perceptual_hash", "digest"):
        values[name] = base64.b64decode(values[name])
    return ImageFacts(**values)


def _facts_table(entries: pa.Table, results: list[ImageFacts | ImageError]) -> pa.Table:
    uris = entries["uri"].to_pylist()
    columns: dict[str, Any] = {name: entries[name].combine_chunks() for name in ("number", "split", "label", "uri")}
    columns["path_hash"] = [_hash64(uri) for uri in uris]
    columns["folded_hash"] = [_hash64(unicodedata.normalize("NFC", uri).casefold()) for uri in uris]
    columns["code"] = [str(result.code) if isinstance(result, ImageError) else None for result in results]
    columns["detail"] = [result.detail if isinstance(result, ImageError) else None for result in results]
    for name in ImageFacts._fields:
        columns[name] = [None if isinstance(result, ImageError) else getattr(result, name) for result in results]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in FACTS_SCHEMA})


def _hash64(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)

"""Look at every image of a dataset: what a worker does with a block of them."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import unicodedata
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.measure import HASH_BYTES, NUM_VIEWS, ImageFacts, measure_image
from imgcls_ray.workers.child import end_with_parent
from imgcls_ray.workers.decoding import ask_child, end_process_when_late, serve_images
from imgcls_ray.workers.fetching import any_version
from imgcls_ray.workers.local_worker import serve_workers
from imgcls_ray.workers.worker import Work, block_of_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from imgcls_ray.models.classifier import StageSeconds
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.workers.pool import Pool

Measure = Callable[[bytes], ImageFacts | ImageError]

# A few seconds of one core: long enough that handing it out costs nothing, short enough for two in hand.
ROWS_PER_BLOCK = 512
ENTRY_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("split", pa.int8()),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("source", pa.string()),
        ("locator", pa.string()),
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
        ("perceptual_hash", pa.binary(HASH_BYTES)),
        ("view_hashes", pa.binary(HASH_BYTES * NUM_VIEWS)),
        ("digest", pa.binary(16)),
    ]
)
"""What comes back: of an image that cannot be measured, ``code`` and ``detail`` instead of facts."""

_BYTES = ("perceptual_hash", "view_hashes", "digest")
"""Facts that JSON cannot hold."""


def block_of(rows: Sequence[tuple[object, ...]]) -> pa.Table:
    """A block of entries, of rows of ``ENTRY_SCHEMA``."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, ENTRY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ENTRY_SCHEMA)


@dataclass(frozen=True)
class InspectTask:
    """What every worker is told."""

    fetch_limits: FetchLimits
    decode_limits: DecodeLimits


class InspectWork(Work[ImageFacts, list[ImageFacts | ImageError]]):
    """Measures blocks of entries; what comes back of each are its facts."""

    def __init__(self, task: InspectTask) -> None:
        self.fetch_limits, self._decode_limits = task.fetch_limits, task.decode_limits

    def rows(self, entries: pa.Table) -> pa.Table:
        return any_version(entries["uri"], entries)

    def decoder(self, *, careful: bool) -> AbstractContextManager[Measure]:
        limits = self._decode_limits
        return measure_in_child(limits) if careful else nullcontext(measure_in_time(limits))

    def compute(
        self, _entries: pa.Table, facts: Iterator[ImageFacts | ImageError], _seconds: StageSeconds
    ) -> list[ImageFacts | ImageError]:
        return list(facts)

    def commit(
        self, entries: pa.Table, _rows: pa.Table, facts: list[ImageFacts | ImageError], _seconds: StageSeconds
    ) -> pa.Table:
        return _facts_table(entries, facts)


def serve_inspecting() -> None:
    """The process that local workers are forked from."""
    serve_workers()


def inspect_entries(entries: Iterable[pa.Table], task: InspectTask, pool: Pool) -> Iterator[pa.Table]:
    """Measure the images of blocks of entries (``ENTRY_SCHEMA``); facts come back in any order of blocks.

    Args:
        entries: of a block each.
        task: how.
        pool: its workers do it, and it is where the caller may call for a stop.

    Raises:
        ImgclsError: a worker failed for good.
    """
    blocks = pool.run(map(block_of_entries, entries), partial(InspectWork, task))
    return (block.content for block in blocks)


def measure_in_time(limits: DecodeLimits) -> Measure:
    """The ordinary way. An image that takes longer than ``limits.timeout_s`` ends the process by SIGALRM."""

    def measure(data: bytes) -> ImageFacts | ImageError:
        try:
            return measure_image(data, limits)
        except ImageError as error:
            return error.as_value()

    return end_process_when_late(measure, limits)


@contextmanager
def measure_in_child(limits: DecodeLimits) -> Iterator[Measure]:
    """The careful way: an image that ends its process gets ``decoder_crashed`` or ``decode_timeout``."""
    with ask_child(__name__, "serve_measuring", json.dumps(asdict(limits)).encode(), limits) as ask:

        def measure(data: bytes) -> ImageFacts | ImageError:
            answer = ask(data)
            return answer if isinstance(answer, ImageError) else _read_answer(answer)

        yield measure


def serve_measuring() -> None:
    """The child of ``measure_in_child``."""
    end_with_parent(signal.SIGKILL)

    def begin(task: bytes) -> tuple[DecodeLimits, Callable[[bytes], bytes]]:
        limits = DecodeLimits(**json.loads(task))
        measure = measure_in_time(limits)
        return limits, lambda data: _write_answer(measure(data))

    serve_images(begin)


def _write_answer(result: ImageFacts | ImageError) -> bytes:
    if isinstance(result, ImageError):
        return json.dumps({"code": result.code, "detail": result.detail}).encode()
    values = result._asdict()
    for name in _BYTES:
        values[name] = base64.b64encode(values[name]).decode()
    return json.dumps(values).encode()


def _read_answer(answer: bytes) -> ImageFacts | ImageError:
    values: dict[str, Any] = json.loads(answer)
    if "code" in values:
        return ImageError(ImageErrorCode(values["code"]), values["detail"])
    for name in _BYTES:
        values[name] = base64.b64decode(values[name])
    return ImageFacts(**values)


def _facts_table(entries: pa.Table, results: list[ImageFacts | ImageError]) -> pa.Table:
    uris = entries["uri"].to_pylist()
    columns: dict[str, Any] = {name: entries[name].combine_chunks() for name in ("number", "split", "label", "uri")}
    columns["path_hash"] = [_hash64(uri) for uri in uris]
    columns["folded_hash"] = [_hash64(folded(uri)) for uri in uris]
    columns["code"] = [str(result.code) if isinstance(result, ImageError) else None for result in results]
    columns["detail"] = [result.detail if isinstance(result, ImageError) else None for result in results]
    for name in ImageFacts._fields:
        columns[name] = [None if isinstance(result, ImageError) else getattr(result, name) for result in results]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in FACTS_SCHEMA})


def folded(name: str) -> str:
    """The same text for names that differ only in case or in how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _hash64(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)

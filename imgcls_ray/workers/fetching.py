"""Read the inputs of a unit ahead of the work: in order, several at a time, a bounded number of bytes.

A worker has two units in hand: what is ahead is at most twice the bounds here, and one image of any size for each.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from imgcls_ray.errors import ImageError
from imgcls_ray.images.crops import Crop, Picture
from imgcls_ray.packed.listing import fetch_input, fetch_whole
from imgcls_ray.packed.parquets import GroupScan
from imgcls_ray.packed.reading import Part, part_of, place_in_group, read_span, spans_of
from imgcls_ray.storage.crops import box_in
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from imgcls_ray.storage import FetchLimits

# At 50 ms an object, what feeds 300 images a second with some to spare: threads that wait cost nothing.
NUM_FETCH_THREADS = 32
_READS_AHEAD = 64
_BYTES_AHEAD = 32 * 2**20
# Addresses do not tell their size before they are read: sixteen ahead.
_UNKNOWN_BYTES = 2 * 2**20
# A file costs less than handing it to another thread: files travel in groups, what is far away alone.
_FILES_PER_GROUP = 8
# Members of one packed file are neighbours, and come in few requests.
_MEMBERS_PER_GROUP = 512


def any_version(uris: pa.Array | pa.ChunkedArray | Sequence[str], members: pa.Table | None = None) -> pa.Table:
    """Rows for ``fetch_inputs`` of inputs that no plan has looked at: whatever is there is taken.

    Args:
        uris: of the inputs.
        members: a table whose columns ``source`` and ``locator`` say where packed ones are.
    """
    nothing = {"etag": pa.nulls(len(uris), pa.string()), "size": pa.nulls(len(uris), pa.int64())}
    table = pa.table({"uri": uris, **nothing})
    for name in ("source", "locator"):
        if members is not None and name in members.schema.names:
            table = table.append_column(name, members[name])
    return table


def fetch_inputs(
    rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor
) -> Iterator[bytes | Crop | ImageError]:
    """Read the inputs of a plan's rows. Reading begins with this call, and goes on as results are taken.

    Args:
        rows: columns ``uri``, ``etag`` and ``size``; of members of packed files and of boxes ``source`` and
            ``locator``, too.
        limits: bounds of one read.
        executor: its threads do the reading.

    Returns:
        Content or failure of each row, in order. The boxes of one picture that follow each other share its content.
    """
    window = _Window(rows, limits, executor)
    window.fill()
    return window.read()


class _Input(NamedTuple):
    """A row of a plan, as far as reading it goes."""

    uri: str
    etag: str | None
    size: int | None
    source: str | None = None
    locator: str | None = None

    @property
    def group(self) -> str | None:
        """Which row group it is in: file and number; ``None`` if it is not in Parquet."""
        place = place_in_group(self.locator)
        return None if place is None else f"{place.group} {self.source}"

    @property
    def about_bytes(self) -> int:
        place = place_in_group(self.locator)
        return self.size or (place.about if place is not None else 0) or _UNKNOWN_BYTES

    @property
    def is_box(self) -> bool:
        return box_in(self.locator) is not None

    def is_read_with(self, other: _Input) -> bool:
        """Whether the next input can be read together with this one."""
        if self.locator is None or other.locator is None:
            return self.locator is other.locator
        if self.is_box is not other.is_box:
            return False
        return (self.source, self.etag, self.group) == (other.source, other.etag, other.group)


class _Read(NamedTuple):
    """A read that was started, of one input or of several that follow each other."""

    collect: Callable[[], Sequence[bytes | Crop | ImageError]]
    """Waits for the results, in order."""
    num_reads: int
    """As which it counts."""
    num_bytes: int


@dataclass
class _Scan:
    """A row group that is being read."""

    key: tuple[str, str | None]
    scan: GroupScan
    num_turns: int = 0


class _Window:
    """The reads that were started and whose results were not taken yet."""

    def __init__(self, rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor) -> None:
        self._groups = _groups(rows)
        self._limits, self._executor = limits, executor
        self._ahead: deque[_Read] = deque()
        self._reads_ahead = self._bytes_ahead = 0
        self._scan: _Scan | None = None
        """Of the row group whose rows come next."""

    def fill(self) -> None:
        ahead = self._ahead
        while not ahead or (self._reads_ahead < _READS_AHEAD and self._bytes_ahead < _BYTES_AHEAD):
            group = next(self._groups, None)
            if group is None:
                return
            read = self._start(*group)
            ahead.append(read)
            self._reads_ahead += read.num_reads
            self._bytes_ahead += read.num_bytes

    def read(self) -> Iterator[bytes | Crop | ImageError]:
        while self._ahead:
            read = self._ahead.popleft()
            yield from read.collect()
            self._reads_ahead -= read.num_reads
            self._bytes_ahead -= read.num_bytes
            self.fill()

    def _start(self, inputs: list[_Input], num_bytes: int) -> _Read:
        if inputs[0].locator is None:
            return _Read(self._executor.submit(_fetch_group, inputs, self._limits).result, len(inputs), num_bytes)
        if inputs[0].is_box:
            return _Read(self._executor.submit(_fetch_boxes, inputs, self._limits).result, 1, num_bytes)
        if inputs[0].group is not None:
            return self._start_rows(inputs, inputs[0].group, num_bytes)
        return self._start_spans(inputs, num_bytes)

    def _start_rows(self, inputs: list[_Input], group: str, num_bytes: int) -> _Read:
        """Rows of one row group: the same scan goes on as for the inputs before, if they were of it."""
        places = [place for item in inputs if (place := place_in_group(item.locator)) is not None]
        if self._scan is None or self._scan.key != (group, inputs[0].etag):
            file = FileInfo(inputs[0].source or inputs[0].uri, places[0].file_size, inputs[0].etag, None)
            scan = GroupScan(file, places[0].group, self._limits)
            self._scan = _Scan((group, inputs[0].etag), scan)
        turn, self._scan.num_turns = self._scan.num_turns, self._scan.num_turns + 1
        rows = [place.row for place in places]
        return _Read(self._executor.submit(self._scan.scan.take, turn, rows).result, 1, num_bytes)

    def _start_spans(self, inputs: list[_Input], num_bytes: int) -> _Read:
        """Members of one tar or zip file: each span of neighbours is one read."""
        results: list[bytes | ImageError | None] = [None] * len(inputs)
        parts: list[tuple[int, Part]] = []
        for place, item in enumerate(inputs):
            part = part_of(item.locator or "", self._limits.max_bytes)
            if isinstance(part, ImageError):
                results[place] = part
            else:
                parts.append((place, part))
        source, etag = inputs[0].source or inputs[0].uri, inputs[0].etag
        spans = [(span, self._executor.submit(read_span, source, etag, span, self._limits)) for span in spans_of(parts)]

        def collect() -> list[bytes | ImageError]:
            for span, future in spans:
                for (place, _), result in zip(span.members, future.result(), strict=True):
                    results[place] = result
            return results  # type: ignore[return-value] # each place has one now

        return _Read(collect, max(1, len(spans)), num_bytes)


def _groups(rows: pa.Table) -> Iterator[tuple[list[_Input], int]]:
    """Consecutive inputs that are read together, and about how many bytes they have."""
    names = [name for name in _Input._fields if name in rows.schema.names]
    group: list[_Input] = []
    num_bytes = 0
    for values in zip(*(rows.column(name).to_pylist() for name in names), strict=True):
        item = _Input(**dict(zip(names, values, strict=True)))
        if group and not group[0].is_read_with(item):
            yield group, num_bytes
            group, num_bytes = [], 0
        group.append(item)
        # The boxes of a picture are read with it.
        num_bytes += item.about_bytes if len(group) == 1 or not item.is_box else 0
        most = _FILES_PER_GROUP if item.locator is None else _MEMBERS_PER_GROUP
        is_alone = item.locator is None and (is_url(item.uri) or is_object(item.uri))
        if is_alone or len(group) == most or num_bytes >= _BYTES_AHEAD // 4:
            yield group, num_bytes
            group, num_bytes = [], 0
    if group:
        yield group, num_bytes


def _fetch_group(inputs: list[_Input], limits: FetchLimits) -> list[bytes | Crop | ImageError]:
    return [_fetch_one(item.uri, item.etag, limits) for item in inputs]


def _fetch_one(uri: str, etag: str | None, limits: FetchLimits) -> bytes | Crop | ImageError:
    try:
        return fetch_input(uri, etag, limits)
    except ImageError as error:
        return error.as_value()


def _fetch_boxes(inputs: list[_Input], limits: FetchLimits) -> Sequence[Crop | ImageError]:
    """Boxes of one picture: it is read once."""
    first = inputs[0]
    try:
        picture = Picture(fetch_whole(first.source or first.uri, first.etag, limits), len(inputs))
    except ImageError as error:
        return [error.as_value() for _ in inputs]
    return [Crop(picture, box_in(item.locator) or "") for item in inputs]

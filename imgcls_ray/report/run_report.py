"""Write one page about a label store and its newest run, which needs no other file.

::

    OUTPUT/report.html

An earlier page at the same place is replaced. However large the store is, the page has a few megabytes: pictures and
rows of tables are bounded, and the page says what it leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageErrorCode
from imgcls_ray.report.page import MAX_CLASS_ROWS, render_template
from imgcls_ray.report.pictures import Thumbnail
from imgcls_ray.report.small_pictures import thumbnails_of
from imgcls_ray.report.store_diff import pictured_moves
from imgcls_ray.storage import open_directory
from imgcls_ray.words import counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.store.extremes import Shown
    from imgcls_ray.store.overview import Overview
    from imgcls_ray.store.records import RunRecord

PAGE_NAME = "report.html"
NUM_EACH = 4
"""Largest number of pictures of each kind of a label, and of examples of an error."""

_MAX_PICTURES = 600
_NUM_MOVES = 20
# What was never decoded is not decoded here: it could end the process.
_DECODED = frozenset({ImageErrorCode.NON_FINITE_OUTPUT})


class _Card(NamedTuple):
    """A picture with what stands below it."""

    thumbnail: Thumbnail
    uri: str
    text: str

    @property
    def name(self) -> str:
        return self.uri.rstrip("/").rpartition("/")[2] or self.uri


class _Pictured(NamedTuple):
    """A label, or an error, with its pictures."""

    name: str
    num_inputs: int
    share: str
    kinds: list[tuple[str, list[_Card]]]


def write_report(overview: Overview, output: str, *, fetch_limits: FetchLimits, decode_limits: DecodeLimits) -> str:
    """Write the page, and return its address. The pictures on it are read again.

    Args:
        overview: of the store.
        output: local folder, made if it is not there, or ``s3://BUCKET/PREFIX``.
        fetch_limits: bounds on reading an image, and the object storage of images and page.
        decode_limits: bounds on decoding an image.

    Raises:
        InputError: the kind of storage is unknown.
        StorageError: the page cannot be written.
    """
    directory = open_directory(output, fetch_limits.storage)
    shown = _rows_by_label(overview)
    moves = overview.changes.moves if overview.changes is not None else []
    wanted = [row for _, kinds in shown for _, rows in kinds for row in rows]
    wanted += [row for code in _DECODED for row in overview.failed.get(code, ())]
    versions = {row.uri: row.etag for row in wanted}
    versions |= {example.uri: example.etag for move in moves[:_NUM_MOVES] for example in move.examples}
    thumbnails = thumbnails_of(versions, fetch_limits=fetch_limits, decode_limits=decode_limits)
    page = render_template(
        "run.html",
        overview=overview,
        facts=_facts(overview),
        labels=_label_rows(overview),
        max_labels=MAX_CLASS_ROWS,
        codes=[_code(overview, code, thumbnails) for code, _ in overview.codes.most_common()],
        bins=_bins(overview),
        pictured=[_pictured(overview, label, kinds, thumbnails) for label, kinds in shown],
        changes=overview.changes,
        moves=pictured_moves(moves[:_NUM_MOVES], thumbnails),
        num_more_moves=len(moves[_NUM_MOVES:]),
    )
    directory.replace(PAGE_NAME, page.encode())
    return f"{output.rstrip('/')}/{PAGE_NAME}"


def _rows_by_label(overview: Overview) -> list[tuple[str, list[tuple[str, list[Shown]]]]]:
    """The rows to show of each label: few where there are many labels, none of the rarest where there are too many."""
    kinds = {"surest": overview.surest, "most doubtful": overview.doubtful, "oddest": overview.oddest}
    kinds = {kind: rows for kind, rows in kinds.items() if rows}
    if not kinds:
        return []
    num_each = max(1, min(NUM_EACH, _MAX_PICTURES // (len(kinds) * len(overview.labels))))
    labels = _ranked(overview)[: _MAX_PICTURES // (len(kinds) * num_each)]
    found = []
    for label in labels:
        seen: set[str] = set()
        of_label = []
        for kind, rows in kinds.items():
            # Of a label with few images, the same ones are the surest and the most doubtful.
            new = [row for row in rows.get(label, ()) if row.uri not in seen][:num_each]
            seen.update(row.uri for row in new)
            of_label += [(kind, new)] if new else []
        found.append((label, of_label))
    return found


def _ranked(overview: Overview) -> list[str]:
    return sorted(overview.labels, key=lambda label: (-overview.labels[label].total, label))


def _pictured(
    overview: Overview, label: str, kinds: Iterable[tuple[str, list[Shown]]], thumbnails: dict[str, Thumbnail]
) -> _Pictured:
    count = overview.labels[label].total
    cards = [(kind, [_Card(thumbnails[row.uri], row.uri, _numbers(kind, row)) for row in rows]) for kind, rows in kinds]
    return _Pictured(label, count, f"{count / overview.num_labelled:.1%}", cards)


def _numbers(kind: str, row: Shown) -> str:
    confidence = "" if row.confidence is None else f"{row.confidence:.3f}"
    return f"{confidence} · {row.oddness:.3g}" if kind == "oddest" and row.oddness is not None else confidence


def _code(overview: Overview, code: str, thumbnails: dict[str, Thumbnail]) -> tuple[str, str, str, str, list[_Card]]:
    """A code with its meaning, its numbers of inputs in all and of the newest run, and some of them."""
    nothing = Thumbnail(b"", _meaning(code))
    rows = overview.failed.get(code, ())
    cards = [_Card(thumbnails[row.uri] if code in _DECODED else nothing, row.uri, "") for row in rows]
    return code, _meaning(code), f"{overview.codes[code]:,}", f"{overview.codes_of_run[code]:,}", cards


def _meaning(code: str) -> str:
    try:
        return ImageErrorCode(code).message
    except ValueError:  # of a later version
        return code


def _label_rows(overview: Overview) -> list[list[str]]:
    """Cells of the table of labels; the last one if the store has decisions."""
    # Once: of tens of thousands of labels, a sum for each would take a minute.
    rows, num_labelled = [], overview.num_labelled
    for label in _ranked(overview):
        counts = overview.labels[label]
        cells = [label, f"{counts.total:,}", f"{counts.total / num_labelled:.1%}", f"{counts.of_run:,}"]
        rows.append([*cells, f"{counts.unsure:,}"] if overview.has_decisions else cells)
    return rows


def _bins(overview: Overview) -> list[tuple[str, int]]:
    number = len(overview.histogram)
    return [(f"{i / number:.2f} to {(i + 1) / number:.2f}", int(count)) for i, count in enumerate(overview.histogram)]


def _facts(overview: Overview) -> Sequence[tuple[str, str]]:
    """What is told of the newest run, one line each."""
    if overview.run is None:
        return []
    if overview.record is None:
        return [("run", f"{overview.run:04d}, not finished: the numbers are of what it has labelled so far")]
    facts = {**_record_facts(overview.run, overview.record), "drift": overview.drift}
    return [(name, text) for name, text in facts.items() if text]


def _record_facts(run: int, record: RunRecord) -> dict[str, str]:
    counts = record["counts"]
    num_ok = counts.get("ok", 0)
    rate, cost, seconds = (record.get(key) for key in ("images_per_s", "cost_per_million_images", "seconds"))
    verdict = record.get("verdict")
    return {
        "run": f"{run:04d}, finished {record['finished'][:16].replace('T', ' ')} UTC",
        "inputs": f"{counted(record['num_images'], 'input')}, {counted(sum(counts.values()) - num_ok, 'error')}",
        "time": duration(seconds) if isinstance(seconds, int | float) else "",
        "rate": f"{rate:,.1f} images/s" if isinstance(rate, int | float) and rate else "",
        "cost": f"{cost:,.2f} for a million images" if isinstance(cost, int | float) else "",
        "rate is bound by": str(verdict.get("bound", "")) if isinstance(verdict, dict) else "",
    }

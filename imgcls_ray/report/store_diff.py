"""Write what two label stores differ in: a file for programs, and one page for people.

::

    OUTPUT/store_diff_result.json    what ``imgcls store diff --json`` prints; written last
    OUTPUT/store_diff/report.html    everything in one page, which needs no other file
    OUTPUT/store_diff/moves.png      moves from one class to another, as a matrix; absent if nothing is compared

Each file appears whole. An earlier report at the same place is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.json_files import encode_json
from imgcls_ray.report.confusion import Confusion, MatrixWords, draw_confusion
from imgcls_ray.report.page import render_template
from imgcls_ray.report.small_pictures import thumbnails_of
from imgcls_ray.storage import open_directory
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.report.pictures import Thumbnail
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.store.diff_result import Move, StoreDiff

RESULT_NAME = "store_diff_result.json"
PAGE_NAME = "store_diff/report.html"
PICTURE_NAME = "store_diff/moves.png"

_NUM_PICTURED = 30
"""Moves with example pictures."""
_MAX_ROWS = 500
_WORDS = MatrixWords(
    "class in A", "class in B", "blue: the same class, orange: another one; darker: a larger share of the class in A"
)


class PicturedMove(NamedTuple):
    """A move with its example pictures and their captions."""

    move: Move
    pictures: list[tuple[Thumbnail, str, str]]


def write_report(diff: StoreDiff, output: str, *, fetch_limits: FetchLimits, decode_limits: DecodeLimits) -> None:
    """Write the report of a comparison under ``output``. The example images are read again.

    Args:
        diff: what was found.
        output: folder, made if it is not there, or prefix of a bucket.
        fetch_limits: bounds on reading an image, and the object storage of images and report.
        decode_limits: bounds on decoding an image.

    Raises:
        InputError: the kind of storage is unknown.
        StorageError: a file cannot be written.
    """
    directory = open_directory(output, fetch_limits.storage)
    # While the files are replaced, nothing says that they belong together.
    directory.remove(RESULT_NAME)
    matrix = _matrix(diff) if diff.num_compared else None
    if matrix is not None:
        directory.replace(PICTURE_NAME, matrix)
    else:
        directory.remove(PICTURE_NAME)
    moves = diff.moves
    examples = {example.uri: example.etag for move in moves[:_NUM_PICTURED] for example in move.examples}
    thumbnails = thumbnails_of(examples, fetch_limits=fetch_limits, decode_limits=decode_limits)
    directory.replace(PAGE_NAME, _page(diff, moves, thumbnails, matrix).encode())
    directory.replace(RESULT_NAME, encode_json(diff.to_record()))


def _matrix(diff: StoreDiff) -> bytes:
    names = sorted({name for pair in diff.labels for name in pair})
    ids = {name: number for number, name in enumerate(names)}
    cells = sorted((ids[label_a], ids[label_b], count) for (label_a, label_b), count in diff.labels.items())
    of_a, of_b, counts = (np.array(column) for column in zip(*cells, strict=True))
    title = f"{diff.num_changed:,} of {counted(diff.num_compared, 'input')} changed their class"
    return draw_confusion(Confusion(of_a, of_b, counts), names, title=title, words=_WORDS)


def _page(diff: StoreDiff, moves: list[Move], thumbnails: dict[str, Thumbnail], matrix: bytes | None) -> str:
    of_a = {change.name: change.num_a for change in diff.classes}
    return render_template(
        "diff.html",
        diff=diff,
        num_changed=diff.num_changed,
        num_compared=diff.num_compared,
        share=f"{diff.num_changed / diff.num_compared:.2%}" if diff.num_compared else "",
        matrix=matrix,
        pictured=pictured_moves(moves[:_NUM_PICTURED], thumbnails),
        moves=[(move, f"{move.num_inputs / of_a[move.label_a]:.1%}") for move in moves[:_MAX_ROWS]],
        num_more_moves=len(moves[_MAX_ROWS:]),
        classes=[change for change in diff.classes if change.num_changed][:_MAX_ROWS],
        codes=diff.codes.most_common(),
    )


def pictured_moves(moves: Iterable[Move], thumbnails: dict[str, Thumbnail]) -> list[PicturedMove]:
    """Those of the moves that have examples, with their pictures."""
    return [_pictured(move, thumbnails) for move in moves if move.examples]


def _pictured(move: Move, thumbnails: dict[str, Thumbnail]) -> PicturedMove:
    return PicturedMove(
        move,
        [
            (thumbnails[example.uri], example.uri.rpartition("/")[2], f"{example.score_a:.3f} → {example.score_b:.3f}")
            for example in move.examples
        ],
    )

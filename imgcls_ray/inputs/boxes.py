"""Boxes in lists: columns ``x1``, ``y1``, ``x2``, ``y2``, COCO's ``bbox``, or the output file of MegaDetector.

Each box of an image is an input of its own. What a box has to do with its picture is found where that is decoded; here
only what is no number is refused, and what is missing is ``nan``.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.kept import text_of
from imgcls_ray.inputs.list_rows import ListRow
from imgcls_ray.inputs.tables import FILE_SCHEMA
from imgcls_ray.storage.crops import BOX_MARK, box_text, split_box
from imgcls_ray.storage.files import FileInfo, absolute_path, path_from_uri, stat_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.object_inputs import find_object
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgcls_ray.inputs.kept import Boxes, Kept
    from imgcls_ray.storage.options import StorageOptions

    Json = Any

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
_COCO_COLUMNS = ("bbox",)
_FILE, _CATEGORIES = "file", "detection_categories"
# MegaDetector writes four digits of x and of the width; their sum has more only by the rounding of floats.
_DIGITS = 6


def box_columns(where: str, names: Sequence[str], boxes: Boxes, *, noun: str = "column") -> tuple[str, ...]:
    """The columns of boxes in a list, if they are there and to be read.

    Raises:
        InputError: they were asked for and one is missing, or one is there twice.
    """
    if boxes == "none" or (boxes == "pixels" and not set(BOX_COLUMNS) <= set(names)):
        return ()
    needed = _COCO_COLUMNS if boxes == "coco" else BOX_COLUMNS
    for name in needed:
        if names.count(name) != 1:
            what = f"no {noun} {name!r}" if name not in names else f"the {noun} {name!r} twice"
            raise InputError(f"{where}: has {what}, and boxes need {', '.join(needed)}; see --boxes")
    return needed


def read_box(where: str, values: Sequence[Json], kept: Kept) -> str:
    """The box of a row, as its URI has it; counted.

    Raises:
        InputError: a value is no number, or the numbers are no pixels.
    """
    boxes = kept.boxes
    if boxes == "coco":
        corners = _coco_corners(where, values[0])
    else:
        corners = [_number(where, name, value) for name, value in zip(BOX_COLUMNS, values, strict=True)]
    x1, y1, x2, y2 = corners
    is_share = 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    if boxes == "pixels" and is_share and not all(map(float.is_integer, corners)):
        raise InputError(
            f"{where}: the box {box_text(corners, is_shares=False)} is smaller than a pixel; if its numbers are shares "
            "of the picture's width and height, give --boxes shares; if they are no boxes, --boxes none"
        )
    kept.count_box(has_area=x1 < x2 and y1 < y2)
    return box_text(corners, is_shares=boxes == "shares")


def _number(where: str, name: str, value: Json) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        if isinstance(value, bool | list | dict):
            raise TypeError(name)
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{where}: the column {name!r} is {str(value)[:60]!r}, needs a number: an edge of a box of the image; "
            "--boxes none takes whole images"
        ) from None


def _coco_corners(where: str, bbox: Json) -> list[float]:
    """The corners of ``[x, y, width, height]``; in a table it may be a text."""
    if isinstance(bbox, str):
        try:
            bbox = json.loads(bbox or "null")
        except ValueError:
            raise InputError(f"{where}: 'bbox' is {bbox[:60]!r}, needs [x, y, width, height]") from None
    if bbox is None:
        return [math.nan] * 4
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise InputError(f"{where}: 'bbox' is {str(bbox)[:60]}, needs [x, y, width, height]")
    x, y, width, height = (_number(where, "bbox", value) for value in bbox)
    return [x, y, x + width, y + height]


def with_boxes(table: pa.Table, boxes: pa.Array) -> pa.Table:
    """Pictures as boxes of them, where there is one; there may be more boxes than pictures, behind an error."""
    boxes = boxes.slice(0, table.num_rows)
    uris = table.column("uri").combine_chunks()
    is_box = boxes.is_valid()
    named = {
        "uri": pc.if_else(is_box, pc.binary_join_element_wise(uris, boxes, BOX_MARK), uris),
        "source": pc.if_else(is_box, uris, table.column("source").combine_chunks()),
        "locator": pc.if_else(
            is_box, pc.binary_join_element_wise("box:", boxes, ""), table.column("locator").combine_chunks()
        ),
    }
    for name, column in named.items():
        number = FILE_SCHEMA.get_field_index(name)
        table = table.set_column(number, FILE_SCHEMA.field(number), column)
    return table


def stat_input(path: str) -> FileInfo:
    """Describe one path as ``stat_file`` does; a box of a picture, if no file of such a name is there."""
    info = stat_file(path)
    if info.size is not None or (named := split_box(path)) is None:
        return info
    picture = stat_file(named.source)
    uri = named._replace(source=picture.uri).uri
    return picture._replace(uri=uri, source=picture.uri, locator=named.locator)


def is_box(source: str, storage: StorageOptions) -> bool:
    """Whether INPUT names a box of a picture, ``a.jpg#box=0,0,20,10``, and no file has this name."""
    if split_box(source) is None:
        return False
    if is_url(source):
        return True
    if is_object(source):
        return find_object(source, storage) is None
    return not os.path.lexists(path_from_uri(source))


def named_box(source: str, storage: StorageOptions) -> FileInfo:
    """The box that INPUT names; without a version if its picture is not there, as its row will say."""
    named = split_box(source)
    assert named is not None
    if is_url(source):
        return FileInfo(named.uri, None, None, None, named.source, named.locator)
    if not is_object(source):
        return stat_input(absolute_path(path_from_uri(source)))
    found = find_object(named.source, storage)
    size, etag, mtime = (found.size, found.etag, found.mtime) if found else (None, None, None)
    return FileInfo(named.uri, size, etag, mtime, named.source, named.locator)


def is_megadetector(document: Mapping[str, Json]) -> bool:
    """Whether a JSON document is MegaDetector's output."""
    return _CATEGORIES in document and isinstance(document.get("images"), list)


def megadetector_rows(path: str, document: Mapping[str, Json], kept: Kept) -> Iterator[ListRow]:
    """A row for each box of MegaDetector's output, with its ``category`` by name and its ``conf``.

    Raises:
        InputError: an entry is not what MegaDetector writes.
    """
    categories = document[_CATEGORIES] if isinstance(document[_CATEGORIES], dict) else {}
    num_failed = num_empty = num_low = 0
    for number, image in enumerate(document["images"], 1):
        where = f"{path}, entry {number}"
        if not isinstance(image, dict) or not isinstance(image.get(_FILE), str) or not image[_FILE]:
            raise InputError(f"{where}: has no text {_FILE!r}, which names the image in MegaDetector's output")
        detections = image.get("detections")
        if detections is None:
            num_failed += 1
            continue
        if not isinstance(detections, list):
            raise InputError(f"{where}: its 'detections' are no list")
        num_empty += not detections
        for detection in detections:
            box = _relative_box(where, detection)
            if kept.min_conf and not _conf(where, detection) >= kept.min_conf:
                num_low += 1
                continue
            category = detection.get("category")
            values = {
                _FILE: image[_FILE],
                "category": categories.get(str(category), category),
                "conf": detection.get("conf"),
            }
            found = kept.values_of(where, values, _FILE)
            yield ListRow(number, image[_FILE], others=text_of(where, found) if found else None, box=box)
    if num_failed:
        kept.tell("failed", f"{path}: {counted(num_failed, 'image')} that MegaDetector could not read: left out")
    if num_empty:
        kept.tell("empty", f"{path}: {counted(num_empty, 'image')} without a box: left out")
    if num_low:
        kept.tell("low", f"{path}: {counted(num_low, 'box', 'boxes')} with a conf below {kept.min_conf:g}: left out")


def _conf(where: str, detection: Mapping[str, Json]) -> float:
    conf = detection.get("conf")
    if isinstance(conf, bool) or not isinstance(conf, int | float):
        raise InputError(f"{where}: a detection needs 'conf', a number, for --min-conf")
    return conf


def _relative_box(where: str, detection: Json) -> str:
    box = detection.get("bbox") if isinstance(detection, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(f"{where}: a detection needs 'bbox', four numbers: x, y, width and height")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in box):
        raise InputError(f"{where}: 'bbox' is {str(box)[:100]}, needs four numbers")
    x, y, width, height = map(float, box)
    return box_text([round(value, _DIGITS) for value in (x, y, x + width, y + height)], is_shares=True)

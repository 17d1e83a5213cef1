"""Boxes in lists: one name each, however written; columns that are no boxes are refused with the way out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.lists import read_list
from imgcls_ray.storage.options import StorageOptions

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.inputs.kept import Boxes
    from imgcls_ray.storage.files import FileInfo


def read(tmp_path: Path, text: str, name: str = "list.csv", kept: Kept | None = None) -> list[FileInfo]:
    (tmp_path / name).write_text(text)
    return list(read_list(str(tmp_path / name), StorageOptions(), kept=kept or Kept((), boxes="pixels")))


@pytest.mark.parametrize("box", ["10,20,110,220", "10.0,2e1,110.00,220", "1e1,20,110,2.2e2"])
@pytest.mark.parametrize("picture", ["PATH/a.jpg", "s3://b/a.jpg", "hf://datasets/o/n/a.jpg", "https://host/a.jpg"])
def test_a_box_that_is_typed_by_hand_has_the_name_that_its_columns_give(tmp_path: Path, picture: str, box: str) -> None:
    picture = picture.replace("PATH", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"x")
    [typed] = read(tmp_path, f"{picture}#box={box}\n", "list.txt")
    [columns] = read(tmp_path, f"uri,x1,y1,x2,y2\n{picture},10,20,110.0,220\n")
    assert typed.uri == columns.uri == f"{picture}#box=10,20,110,220"


def test_a_file_that_is_called_so_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg#box=10.0,20,110,220"
    path.write_bytes(b"x")
    assert [info.uri for info in read(tmp_path, f"{path}\n", "list.txt")] == [str(path)]


@pytest.mark.parametrize("numbers", ["5,5,1,9", "0,0,0,0", ",,,", "3,nan,9,9"])
def test_columns_without_a_single_box_are_refused(tmp_path: Path, numbers: str) -> None:
    rows = "".join(f"s3://b/{i}.jpg,{numbers}\n" for i in range(16))
    with pytest.raises(InputError, match=r"none of its 16 boxes has an area .*--boxes none takes whole images"):
        read(tmp_path, f"uri,x1,y1,x2,y2\n{rows}")
    assert len(read(tmp_path, f"uri,x1,y1,x2,y2\n{rows}", kept=Kept(()))) == 16
    # One is a box, so the others are rows that say what is wrong with them; and few may be wrong by accident.
    assert len(read(tmp_path, f"uri,x1,y1,x2,y2\n{rows}s3://b/c.jpg,0,0,9,9\n")) == 17
    assert len(read(tmp_path, f"uri,x1,y1,x2,y2\ns3://b/1.jpg,{numbers}\n")) == 1


@pytest.mark.parametrize("numbers", ["0.1,0.1,0.5,0.5", "left,0,9,9"])
def test_columns_of_another_meaning_are_refused_with_the_way_out(tmp_path: Path, numbers: str) -> None:
    with pytest.raises(InputError, match=r"list\.csv:2: .*--boxes none"):
        read(tmp_path, f"uri,x1,y1,x2,y2\ns3://b/1.jpg,{numbers}\n")


BBOX = [10, 20, 100, 200.5]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_bbox_of_coco_is_a_box_with_that_option(tmp_path: Path, kind: str) -> None:
    rows = [{"uri": "s3://b/1.jpg", "bbox": BBOX}, {"uri": "s3://b/2.jpg", "bbox": None}]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text(f'uri,bbox\ns3://b/1.jpg,"{BBOX}"\ns3://b/2.jpg,\n')
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))

    def uris(boxes: Boxes) -> list[str]:
        return [info.uri for info in read_list(str(path), StorageOptions(), kept=Kept((), boxes=boxes))]

    assert uris("coco") == ["s3://b/1.jpg#box=10,20,110,220.5", "s3://b/2.jpg#box=nan,nan,nan,nan"]
    assert uris("pixels") == ["s3://b/1.jpg", "s3://b/2.jpg"]


@pytest.mark.parametrize(
    ("bbox", "told"),
    [
        ('"1,2"', "'bbox' is '1,2', needs"),
        ('"[1,2,3]"', r"'bbox' is \[1, 2, 3\], needs \[x, y, width, height\]"),
        ('"[1,2,3,null,5]"', "needs .x, y, width, height."),
        ('"[1,2,""a"",4]"', "'bbox' is 'a', needs a number"),
        ("7", "'bbox' is 7, needs"),
    ],
)
def test_a_bbox_that_is_none_is_refused_with_the_line(tmp_path: Path, bbox: str, told: str) -> None:
    with pytest.raises(InputError, match=f"list.csv:2: .*{told}"):
        read(tmp_path, f"uri,bbox\ns3://b/1.jpg,{bbox}\n", kept=Kept((), boxes="coco"))
    with pytest.raises(InputError, match="has no column 'bbox', and boxes need bbox; see --boxes"):
        read(tmp_path, "uri,x1\ns3://b/1.jpg,7\n", kept=Kept((), boxes="coco"))

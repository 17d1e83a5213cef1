"""Boxes of images are inputs of their own, with the rows that files of their pixels have."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.images import decoder
from imgcls_ray.images.crops import Crop
from imgcls_ray.images.decoder import DecodeLimits, decode_image
from imgcls_ray.inputs.boxes import stat_input
from imgcls_ray.inputs.checks import is_single_file
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.listing import list_inputs
from imgcls_ray.inputs.tables import table_of
from imgcls_ray.models.api import create_model
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from imgcls_ray.packed.listing import fetch_input, fetch_whole
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import FetchLimits, open_directory
from imgcls_ray.storage.files import stat_file
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from imgcls_ray.workers import decoding, fetching
from imgcls_ray.workers.classifier_task import ClassifierTask, ClassifierWork
from imgcls_ray.workers.decoding import decode_in_child
from imgcls_ray.workers.worker import Block, BlockClassifier, BlockDecoder, BlockWorker
from tests.images import bad_images as make
from tests.packed.making import write_tar
from tests.s3.proxy import Faults
from tests.workers.test_worker import OwnBoard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imgcls_ray.models.classifier import StageSeconds
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.storage.files import FileInfo
    from tests.s3.proxy import S3Proxy

Box = tuple[float, float, float, float]
BOXES: list[Box] = [(0, 0, 40, 30), (10, 5, 60, 45.5), (50.2, 20.7, 80, 60), (3, 3, 4, 4)]
WIDTH, HEIGHT = 80, 60


@pytest.fixture
def label(small_model: ModelFolder, tmp_path: Path) -> Callable[..., PredictReport]:
    def run(**values: Any) -> PredictReport:
        values = {"model": small_model.path, "output": tmp_path / "store", "on": "local", "num_workers": 1, **values}
        config = make_config(PredictConfig, {k: str(v) if hasattr(v, "parts") else v for k, v in values.items()})
        return predict(config, Console(stderr=True, force_terminal=False))

    return run


def rows_of(store: Path) -> list[dict[str, Any]]:
    opened = open_store(open_directory(str(store)))
    assert verify_store(opened).problems == []
    return [row for table in latest_rows(opened) for row in table.to_pylist()]


def photos(folder: Path, count: int = 3) -> list[Path]:
    """JPEG files, one of them turned by its EXIF orientation."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    random = np.random.default_rng(0)
    for number, path in enumerate(paths):
        stored = (HEIGHT, WIDTH) if number == 1 else (WIDTH, HEIGHT)
        small = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        encoded = make.jpeg(np.asarray(small.resize(stored)))
        path.write_bytes(make.insert_segments(encoded, make.app1_exif(make.exif(6))) if number == 1 else encoded)
    return paths


def write_list(path: Path, rows: Sequence[tuple[Any, ...]], names: str = "uri,x1,y1,x2,y2") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names.split(","), *rows])
    return path


def pixels_of(path: Path, box: Box) -> np.ndarray:
    x1, y1, x2, y2 = (int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1))
    return decode_image(path.read_bytes())[y1:y2, x1:x2]


def answer_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("status", "label", "labels", "scores", "width", "height"))


@pytest.mark.parametrize("on", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_rows_of_boxes_are_those_of_files_of_their_pixels(
    on: str, label: Callable[..., PredictReport], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if on == "ray":
        request.getfixturevalue("ray_session")
    paths = photos(tmp_path / "photos")
    listed = write_list(tmp_path / "boxes.csv", [(path, *box) for path in paths for box in BOXES])
    label(input=listed, on=on)
    boxes = {row["uri"]: row for row in rows_of(tmp_path / "store")}

    (tmp_path / "crops").mkdir()
    expected = {}
    for path in paths:
        for box in BOXES:
            crop = tmp_path / "crops" / f"{path.stem}-{box[0]}.png"
            Image.fromarray(pixels_of(path, box)).save(crop)
            expected[str(crop)] = f"{path}#box={','.join(f'{value:g}' for value in box)}"
    label(input=tmp_path / "crops", output=tmp_path / "store of files")
    files = rows_of(tmp_path / "store of files")
    assert len(files) == len(boxes) == len(paths) * len(BOXES)
    assert {expected[row["uri"]]: answer_of(row) for row in files} == {
        uri: answer_of(row) for uri, row in boxes.items()
    }


def test_a_picture_is_read_and_decoded_once_for_all_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [path] = photos(tmp_path / "photos", 1)
    calls: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*asked: Any, **how: Any) -> Any:
            calls.append(function.__name__)
            return function(*asked, **how)

        return call

    monkeypatch.setattr(fetching, "fetch_whole", counted(fetch_whole))
    monkeypatch.setattr(decoder, "_decode", counted(decoder._decode))
    found = fetched(boxes_of(path, [(x, 0, x + 20, 20) for x in range(40)]))
    with ThreadPoolExecutor(4) as executor:
        pixels = list(executor.map(decode_image, found))
    assert calls == ["fetch_whole", "_decode"]
    assert all((a == pixels_of(path, (x, 0, x + 20, 20))).all() for x, a in enumerate(pixels))
    assert found[0].picture._pixels is None


def test_a_picture_in_a_bucket_is_read_once_for_its_boxes(bucket: str, proxy: S3Proxy, tmp_path: Path) -> None:
    """By the columns of a list that is in the bucket, too; and alone, by the name of a box that was typed by hand."""
    paths = photos(tmp_path / "photos")
    source = write_list(tmp_path / "boxes.csv", [(f"photos/{path.name}", *box) for path in paths for box in BOXES])
    directory = open_directory(f"s3://{bucket}")
    for path in [*paths, source]:
        directory.replace(str(path.relative_to(tmp_path)), path.read_bytes())
    found = list(list_inputs(f"s3://{bucket}/boxes.csv", ListingCounts(), kept=Kept((), boxes="pixels")))
    proxy.set_faults(Faults())
    crops = fetched(table_of(found))
    assert proxy.counts().requests["get"] == len(paths)
    expected = {f"{path.name}#box={','.join(f'{v:g}' for v in box)}": (path, box) for path in paths for box in BOXES}
    assert len(crops) == len(expected)
    for info, crop in zip(found, crops, strict=True):
        np.testing.assert_array_equal(decode_image(crop), pixels_of(*expected[info.uri.rpartition("/")[2]]))
    [typed] = list_inputs(f"s3://{bucket}/photos/0.jpg#box=10.0,5,6e1,45.5", ListingCounts())
    assert typed.uri == f"s3://{bucket}/photos/0.jpg#box=10,5,60,45.5"
    np.testing.assert_array_equal(
        decode_image(fetch_input(typed.uri, None, FetchLimits())), pixels_of(paths[0], (10, 5, 60, 45.5))
    )


def fetched(rows: pa.Table) -> list[Crop]:
    """As a worker reads them."""
    with ThreadPoolExecutor(4) as executor:
        found = list(fetching.fetch_inputs(rows, FetchLimits(), executor))
    crops = [item for item in found if isinstance(item, Crop)]
    assert len(crops) == len(found)
    return crops


def boxes_of(path: Path, boxes: Sequence[Box]) -> pa.Table:
    infos = [stat_input(f"{path}#box={','.join(map(str, box))}") for box in boxes]
    assert all(info.source == str(path) and info.etag for info in infos)
    return table_of(infos)


BAD: dict[str, tuple[Any, ...]] = {
    "outside": (80, 0, 100, 20),
    "reaches out": (60, 0, 100, 20),
    "above": (0, -9, 20, 20),
    "without width": (20, 10, 20, 30),
    "reversed": (30, 30, 20, 20),
    "not a number": (0, "nan", 10, 10),
    "missing": ("", 0, 10, 10),
    "infinite": (0, 0, "inf", 10),
}


def test_a_box_that_is_none_costs_its_row_and_no_other(label: Callable[..., PredictReport], tmp_path: Path) -> None:
    good, broken = photos(tmp_path / "photos", 2)
    broken.write_bytes(broken.read_bytes()[:-100])
    rows = [(good, *box) for box in (*BAD.values(), BOXES[1], (-1, 0, 81, 60.5))]
    missing = tmp_path / "photos" / "none.jpg"
    label(input=write_list(tmp_path / "boxes.csv", rows + [(p, *box) for p in (broken, missing) for box in BOXES]))
    found = {row["uri"]: row for row in rows_of(tmp_path / "store")}
    assert len(found) == len(rows) + 2 * len(BOXES)
    of = {path: [row for uri, row in found.items() if uri.startswith(f"{path}#")] for path in (good, broken, missing)}
    assert {row["error"] for row in of[broken]} == {"truncated"}
    assert {row["error"] for row in of[missing]} == {"not_found"}
    errors = [row["error"] for row in of[good]]
    assert (errors.count("bad_box"), errors.count(None)) == (len(BAD), 2)
    edge = found[f"{good}#box=-1,0,81,60.5"]
    assert (edge["width"], edge["height"]) == (WIDTH, HEIGHT)


def test_lists_of_each_kind_and_unit_name_the_same_boxes(tmp_path: Path) -> None:
    [path] = photos(tmp_path / "photos", 1)
    columns = {"uri": [str(path)] * 2, "x1": [8, 0], "y1": [6, 0], "x2": [40, 80], "y2": [30, 60], "id": ["a", "b"]}
    rows = list(zip(*columns.values(), strict=True))
    write_list(tmp_path / "a.csv", rows, ",".join(columns))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    (tmp_path / "a.json").write_text(json.dumps(objects))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    for kind in ("csv", "parquet", "json", "jsonl"):
        found = listed(tmp_path / f"a.{kind}", "pixels")
        assert [info.uri for info in found] == [f"{path}#box=0,0,80,60", f"{path}#box=8,6,40,30"]
        assert {(info.source, info.etag) for info in found} == {(str(path), stat_file(str(path)).etag)}
        assert [json.loads(info.values or "")["id"] for info in found] == ["b", "a"]
        assert [info.uri for info in listed(tmp_path / f"a.{kind}", "none")] == [str(path)]
    shares = write_list(tmp_path / "shares.csv", [(path, 0.1, 0.1, 0.5, 0.5), (path, 0, 0, 1, 1)])
    by_share = [fetch_input(info.uri, None, FetchLimits()) for info in listed(shares, "shares")]
    by_pixel = [fetch_input(info.uri, None, FetchLimits()) for info in found]
    for one, other in zip(by_share, by_pixel, strict=True):
        np.testing.assert_array_equal(decode_image(one), decode_image(other))


def listed(source: Path, boxes: Any) -> list[FileInfo]:
    return list(list_inputs(str(source), ListingCounts(), kept=Kept(boxes=boxes)))


@pytest.mark.parametrize(
    ("row", "boxes", "told"),
    [
        ((0.1, 0.1, 0.5, 0.5), "pixels", "a.csv:2: the box 0.1,0.1,0.5,0.5 is smaller than a pixel; .* --boxes shares"),
        ((0, 0, "left", 9), "pixels", "a.csv:2: the column 'x2' is 'left', needs a number"),
        ((0, 0, 9), "shares", "a.csv:1: has no column 'y2', and boxes need x1, y1, x2, y2; see --boxes"),
    ],
)
def test_what_are_no_boxes_is_refused_with_the_line(
    row: tuple[Any, ...], boxes: str, told: str, tmp_path: Path
) -> None:
    names = ["uri", "x1", "y1", "x2", "y2"][: len(row) + 1]
    path = write_list(tmp_path / "a.csv", [("a.jpg", *row)], ",".join(names))
    with pytest.raises(InputError, match=told):
        listed(path, boxes)


def test_one_box_is_an_input_and_a_file_of_such_a_name_stays_one(small_model: ModelFolder, tmp_path: Path) -> None:
    first, second = photos(tmp_path / "photos", 2)
    box = f"{first}#box=10,5,60,45"
    assert is_single_file(box)
    [found] = list_inputs(box, ListingCounts())
    assert (found.source, found.locator) == (str(first), "box:10,5,60,45")
    model = create_model(small_model.path)
    [result] = model.predict([box])
    assert (result.width, result.height) == (50, 40)

    second.rename(box)
    assert list(list_inputs(box, ListingCounts())) == [stat_file(box)]
    assert fetch_input(box, None, FetchLimits()) == (tmp_path / box).read_bytes()


def test_boxes_of_a_member_of_a_tar(tmp_path: Path) -> None:
    [path] = photos(tmp_path / "photos", 1)
    packed = write_tar(tmp_path / "a.tar", [("x/0.jpg", path.read_bytes())])
    [info] = listed(write_list(tmp_path / "a.csv", [(f"{packed}#x/0.jpg", 1, 2, 11, 22)]), "pixels")
    [together] = fetched(table_of([info]))
    for crop in (together, fetch_input(info.uri, None, FetchLimits())):
        np.testing.assert_array_equal(decode_image(crop), pixels_of(path, (1, 2, 11, 22)))


def test_the_output_of_megadetector_is_a_list_of_boxes(label: Callable[..., PredictReport], tmp_path: Path) -> None:
    photos(tmp_path / "photos", 3)
    document = {
        "info": {"detector": "md_v5a.0.0.pt", "format_version": "1.3"},
        "detection_categories": {"1": "animal", "2": "person"},
        "images": [
            {
                "file": "photos/0.jpg",
                "detections": [
                    {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.5, 0.4]},
                    {"category": "2", "conf": 0.2, "bbox": [0.0, 0.0, 1.0001, 1.0]},
                ],
            },
            {"file": "photos/1.jpg", "detections": []},
            {"file": "photos/2.jpg", "detections": None, "failure": "Failure image access"},
        ],
    }
    (tmp_path / "md.json").write_text(json.dumps(document, indent=1))
    label(input=tmp_path / "md.json")
    rows = rows_of(tmp_path / "store")
    path = tmp_path / "photos" / "0.jpg"
    assert [(row["uri"], row["width"], row["height"]) for row in rows] == [
        (f"{path}#box=shares:0,0,1.0001,1", 80, 60),
        (f"{path}#box=shares:0.1,0.2,0.6,0.6", 40, 24),
    ]
    told: list[str] = []
    good = Kept(tell=told.append, boxes="pixels", min_conf=0.5)
    [only] = list_inputs(str(tmp_path / "md.json"), ListingCounts(), kept=good)
    assert only.uri == rows[1]["uri"]
    assert [line.partition(": ")[2] for line in told] == [
        "1 image that MegaDetector could not read: left out",
        "1 image without a box: left out",
        "1 box with a conf below 0.5: left out",
    ]
    kept = [json.loads(info.values or "") for info in listed(tmp_path / "md.json", "pixels")]
    assert kept[1] == {"file": "photos/0.jpg", "category": "animal", "conf": 0.9}
    document["images"][0]["detections"][0]["bbox"] = [0.1, 0.2]  # type: ignore[index]
    (tmp_path / "md.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"md.json, entry 1: a detection needs 'bbox', four numbers"):
        listed(tmp_path / "md.json", "pixels")


def test_the_careful_way_gives_the_same_and_blames_a_picture_once(
    tmp_path: Path, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = photos(tmp_path / "photos", 1)
    preprocess, limits = small_model.spec.preprocess, DecodeLimits()
    found, again = fetched(boxes_of(path, BOXES)), fetched(boxes_of(path, BOXES))
    with decode_in_child(preprocess, limits) as decode:
        for one, other in zip(found, again, strict=True):
            here, there = decode_model_input(one, preprocess, limits), decode(other)
            assert isinstance(here, ModelInput)
            assert isinstance(there, ModelInput)
            np.testing.assert_array_equal(here.pixels, there.pixels)
            assert (here.width, here.height) == (there.width, there.height)
    asked: list[bytes] = []

    def die(message: bytes) -> ImageError:
        asked.append(message)
        return ImageError(ImageErrorCode.DECODER_CRASHED)

    monkeypatch.setattr(decoding, "ask_child", lambda *_: nullcontext(die))
    with decode_in_child(preprocess, limits) as decode:
        errors = [decode(crop) for crop in again]
    assert [error.code for error in errors if isinstance(error, ImageError)] == ["decoder_crashed"] * len(BOXES)
    assert len(asked) == 1


def test_the_same_box_twice_is_one_input_with_two_rows_of_the_list(tmp_path: Path) -> None:
    [path] = photos(tmp_path / "photos", 1)
    rows = [(path, "1", "2", "11", "22", "a"), (path, "1.0", "2", "11.0", " 22", "b")]
    [info] = listed(write_list(tmp_path / "a.csv", rows, "uri,x1,y1,x2,y2,id"), "pixels")
    assert [row["id"] for row in json.loads(info.values or "")] == ["a", "b"]


def test_boxes_of_a_list_are_labelled_again_with_another_model(
    label: Callable[..., PredictReport], tmp_path: Path
) -> None:
    [path] = photos(tmp_path / "photos", 1)
    boxes = write_list(tmp_path / "a.csv", [(path, *box) for box in BOXES])
    label(input=boxes)
    assert label(input=boxes).plan.answered == len(BOXES)
    label(like=tmp_path / "store", output=tmp_path / "other")
    both = [{row["uri"]: answer_of(row) for row in rows_of(tmp_path / name)} for name in ("store", "other")]
    assert both[0] == both[1]
    path.write_bytes(path.read_bytes() + b"\0")
    assert label(input=boxes).plan.changed == len(BOXES)


class Sizes(ClassifierWork[list[Any]]):
    """Labels the rows that are a block's content."""

    def rows(self, content: pa.Table) -> pa.Table:
        return content

    def compute(
        self, _content: pa.Table, inputs: Iterator[ModelInput | ImageError], seconds: StageSeconds
    ) -> list[Any]:
        return list(self._classifier.classify_inputs(inputs, seconds))

    def commit(self, _content: pa.Table, _rows: pa.Table, results: list[Any], _seconds: StageSeconds) -> pa.Table:
        told = [repr(result) for result in results]
        return pa.table({"result": told})


def test_boxes_decoded_for_a_gpu_elsewhere_have_the_same_rows(small_model: ModelFolder, tmp_path: Path) -> None:
    [path] = photos(tmp_path / "photos", 1)
    rows = boxes_of(path, [*BOXES, (0, 0, 200, 20)])
    task = ClassifierTask(str(small_model.path), small_model.spec.fingerprint, top_k=3)

    def worker(kind: type[BlockWorker[Any, Any]], device: str | None) -> BlockWorker[Any, Any]:
        return kind(lambda: Sizes(task, device, 1, 1), OwnBoard(), lambda: "me")

    block = Block(0, "block-0", "the block", rows)
    alone = worker(BlockWorker, "cpu").run(block).content["result"].to_pylist()
    decoded = Block.from_table(worker(BlockDecoder, None).run(block).to_table())
    apart = worker(BlockClassifier, "cpu").run(decoded).content["result"].to_pylist()
    assert alone == apart
    assert "width=40, height=30" in alone[0]
    assert "the picture is 80 x 60 pixels" in alone[-1]

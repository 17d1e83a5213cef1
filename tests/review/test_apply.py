"""Answers become lines of a dataset, or nothing is written and one line says why."""

from __future__ import annotations

import csv
import json
import os
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from imgcls_ray.commands import review
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import UsageError
from imgcls_ray.review.answers import read_answers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of lists with two classes, and images beside it: 0.png to 3.png."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "label.txt").write_text("0 cat\n1 dog\n")
    (folder / "train.txt").write_text("old.png 0")  # without a newline at its end
    (folder / "val.txt").write_text("val.png 1\n")
    for name in ("data/old", "data/val", "data/inside", "0", "1", "2", "3 <b>"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    return folder


def apply(tmp_path: Path, answers: Path | str, **options: Any) -> None:
    review.run(None, [], {"apply": str(answers), "dataset": str(tmp_path / "data"), **options})


_IN_UTF16 = '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>'.encode("utf-16").decode(errors="surrogateescape")


def save(tmp_path: Path, *rows: tuple[str, str | None], **more: Any) -> Path:
    """Answers as the page saves them, of images in the folder."""
    content = {
        "format": "imgcls-answers",
        "version": 1,
        "answers": [{"uri": str(tmp_path / name), "label": label, "predicted": "cat", **more} for name, label in rows],
    }
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(content))
    return path


def entries(data: Path) -> list[tuple[str, str, int]]:
    return [(entry.split, entry.uri, entry.label) for entry in read_dataset(str(data)).read(lambda _: None)]


def refused(tmp_path: Path, answers: Path | str, pattern: str, **options: Any) -> None:
    """A refusal in one line, with exit code 2, that leaves everything as it was."""
    folder = tmp_path / "data"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=pattern) as error:
        apply(tmp_path, answers, **options)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_answers_are_added_to_train_with_where_they_come_from(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apply(tmp_path, save(tmp_path, ("0.png", "dog"), ("3 <b>.png", "cat"), ("data/inside.png", "cat"), ("1.png", None)))
    assert entries(data) == [
        ("train", str(data / "old.png"), 0),
        ("train", str(tmp_path / "0.png"), 1),
        ("train", str(tmp_path / "3 <b>.png"), 0),
        ("train", str(data / "inside.png"), 0),
        ("val", str(data / "val.png"), 1),
    ]
    assert "\ninside.png 0\n" in (data / "train.txt").read_text()
    assert (data / "train.txt.bak").read_text() == "old.png 0"
    with (data / "reviewed.csv").open(newline="") as file:
        first, *_ = rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert (first["path"], first["label"], first["predicted"], first["split"]) == (
        str(tmp_path / "0.png"), "dog", "cat", "train",
    )  # fmt: skip
    assert first["source"].endswith("answers.json")
    told = capsys.readouterr().out
    assert "3 images added to train.txt" in told
    assert "1 image answered otherwise than the model said" in told
    assert "1 image left out: nobody could tell" in told


def test_the_same_answers_add_nothing_again_and_more_add_more(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apply(tmp_path, save(tmp_path, ("0.png", "dog")))
    apply(tmp_path, save(tmp_path, ("0.png", "dog"), ("0.png", "dog")))
    assert "0 images added to train.txt\n1 image there already" in capsys.readouterr().out
    apply(tmp_path, save(tmp_path, ("0.png", "dog"), ("1.png", "cat")), split="val")
    assert [uri for split, uri, _ in entries(data) if split == "val"] == [
        str(data / "val.png"),
        str(tmp_path / "1.png"),
    ]
    assert (data / "reviewed.csv").read_text().count("\n") == 3


@pytest.mark.usefixtures("data")
def test_unknown_labels_are_refused_with_the_class_that_may_be_meant(tmp_path: Path) -> None:
    answers = save(tmp_path, ("0.png", "dog"), ("1.png", "cta"), ("2.png", "<b>"))
    pattern = r"2 answers have labels that .*data has no class for, e\.g\. 'cta' \(answer 2\); did you mean 'cat'\? "
    refused(tmp_path, answers, pattern + "Nothing was written: correct the answers, or add the class to label")
    refused(tmp_path, save(tmp_path, ("2.png", "<b>")), r"e\.g\. '<b>' \(answer 1\)\. Nothing was written")


@pytest.mark.usefixtures("data")
def test_answers_that_differ_are_refused(tmp_path: Path) -> None:
    answers = save(tmp_path, ("0.png", "dog"), ("1.png", "cat"), ("0.png", "cat"))
    refused(tmp_path, answers, r"0\.png is 'dog' in answer 1 and 'cat' in answer 3; leave one answer")
    refused(
        tmp_path, save(tmp_path, ("0.png", None), ("0.png", "cat")), "is what nobody can tell in answer 1 and 'cat'"
    )


@pytest.mark.usefixtures("data")
def test_an_answer_that_the_dataset_contradicts_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, save(tmp_path, ("data/old.png", "dog")), r"train\.txt:1 has old\.png as 'cat', and answer 1 of ")


@pytest.mark.usefixtures("data")
def test_images_that_are_gone_or_changed_are_refused(tmp_path: Path) -> None:
    answers = save(tmp_path, ("gone.png", "dog"), ("none.png", "dog"), ("0.png", "dog"))
    refused(
        tmp_path,
        answers,
        r"2 images cannot be read as they were labelled, e\.g\. .*gone\.png \(answer 1\): there is no",
    )
    refused(tmp_path, save(tmp_path, ("0.png", "dog"), etag="of yesterday"), "it changed after")


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("answers.json", "{", "holds no answers that can be read"),
        ("answers.json", "[]", "holds no answer; label some images first"),
        ("answers.json", '{"answers": [{"label": "cat"}]}', "answer 1 has no uri"),
        ("answers.json", '{"answers": [{"uri": "x", "label": 3}]}', "answer 1 has the label '3', which is no text"),
        ("answers.json", '{"answers": 3}', "its answers are no list"),
        ("answers.json", "[" * 100_000, "holds no answers that can be read"),
        ("answers.csv", "a,b\n1,2\n", "it has no column uri and no column label"),
        ("answers.csv", "", "it has no column uri"),
        ("answers.txt", "\udcff", "is not UTF-8"),
        ("cvat.xml", "<annotations><image></annotations>", "is damaged"),
        ("cvat.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "it declares a document type"),
        ("cvat.xml", _IN_UTF16, "it declares a document type"),
        ("cvat.xml", "<annotations/>", "--queue"),
        ("cvat.zip", "PK\x03\x04", "is damaged"),
    ],
)
def test_files_that_hold_no_answers_are_refused(tmp_path: Path, name: str, content: str, pattern: str) -> None:
    answers = tmp_path / name
    answers.write_bytes(content.encode(errors="surrogateescape"))
    refused(tmp_path, answers, pattern)


@pytest.mark.usefixtures("data")
def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "none.json", "there is no such file")
    refused(tmp_path, tmp_path, "cannot be read")
    refused(tmp_path, "s3://bucket/answers.json", "is in a bucket; .* copy it first")


def test_a_dataset_without_lists_or_with_a_fault_is_refused(tmp_path: Path, data: Path) -> None:
    answers = save(tmp_path, ("0.png", "dog"))
    (data / "train.txt").write_text("old.png,0\n")
    refused(tmp_path, answers, "give delimiter, e.g. ','")
    for name in ("train.txt", "val.txt", "label.txt"):
        os.remove(data / name)
    (data / "cat").mkdir()
    os.rename(data / "old.png", data / "cat" / "old.png")
    with pytest.raises(UsageError, match=r"has no lists to add images to; `imgcls split .*` makes lists"):
        apply(tmp_path, answers)


@pytest.mark.usefixtures("data")
def test_a_dataset_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    answers = save(tmp_path, ("0.png", "dog"))
    (tmp_path / "table.csv").write_text("uri,label\n0.png,dog\n")
    refused(
        tmp_path,
        answers,
        r"table\.csv: is no folder; answers are added to a folder",
        dataset=str(tmp_path / "table.csv"),
    )
    refused(tmp_path, answers, "there is no such folder; answers are added to", dataset=str(tmp_path / "none"))


def test_lists_with_another_delimiter_go_on_with_it(tmp_path: Path, data: Path) -> None:
    (data / "train.txt").write_text("old.png,0\n")
    (data / "val.txt").write_text("val.png,1\n")
    apply(tmp_path, save(tmp_path, ("0.png", "dog")), delimiter=",")
    assert (data / "train.txt").read_text() == f"old.png,0\n{tmp_path}/0.png,1\n"


@pytest.mark.usefixtures("data")
def test_a_name_that_no_list_can_hold_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x\ny.png")
    refused(tmp_path, save(tmp_path, ("x\ny.png", "dog")), "cannot stand in a list")


def task(tmp_path: Path, name: str, *choices: str, **annotation: Any) -> dict[str, Any]:
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}]
    made = {"id": 1, "was_cancelled": False, "result": result if choices else [], **annotation}
    data = {"image": "/data/local-files/?d=data/00001.jpg", "uri": str(tmp_path / name), "etag": None}
    return {"id": 7, "data": {**data, "predicted": "cat"}, "annotations": [made], "predictions": []}


def test_label_studio_s_exports_are_read(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    skipped = task(tmp_path, "2.png", "cat", was_cancelled=True)
    tasks = [task(tmp_path, "0.png", "dog"), task(tmp_path, "1.png"), skipped]
    path.write_text(json.dumps(tasks))
    assert [(answer.uri, answer.label, answer.predicted) for answer in read_answers(str(path), None)] == [
        (str(tmp_path / "0.png"), "dog", "cat"),
        (str(tmp_path / "1.png"), None, "cat"),
    ]
    short = {"id": 7, "image": "x", "uri": "/in/0.png", "label": "dog", "annotator": 1}
    path.write_text(json.dumps([short, {"id": 8, "image": "y", "uri": "/in/1.png"}]))
    assert [(answer.uri, answer.label) for answer in read_answers(str(path), None)] == [("/in/0.png", "dog")]
    path.write_text(json.dumps([task(tmp_path, "0.png", "dog", "cat")]))
    with pytest.raises(UsageError, match="task 1 has 2 choices"):
        read_answers(str(path), None)


def test_cvat_s_exports_are_read_with_the_queue(tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "queue.csv").write_text("picture,uri,etag,label\n00001.jpg,/in/0.png,v1,cat\n00002.jpg,/in/1.png,,cat\n")
    images = (
        '<image id="0" name="data/00001.jpg"><tag label="dog" source="manual"/></image>'
        '<image id="1" name="00002.jpg"></image>'
    )
    with zipfile.ZipFile(tmp_path / "cvat.zip", "w") as packed:
        packed.writestr("annotations.xml", f"<annotations>{images}</annotations>")
    [answer] = read_answers(str(tmp_path / "cvat.zip"), str(queue))
    assert answer[:4] == ("/in/0.png", "v1", "dog", "cat")
    (queue / "cvat.xml").write_text('<annotations><image name="7.jpg"><tag label="dog"/></image></annotations>')
    with pytest.raises(UsageError, match=re.escape("image 1 is '7.jpg', which is no picture of the queue")):
        read_answers(str(queue / "cvat.xml"), None)

"""Read what a person answered: the files of the review page, and exports of Label Studio and CVAT."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from imgcls_ray.errors import UsageError
from imgcls_ray.review.tasks import QUEUE_NAME
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MAX_BYTES = 256 * 2**20
_CVAT_MEMBER = "annotations.xml"
_FORMS = "the JSON or CSV of the review page, JSON or CSV of Label Studio, or XML or ZIP of CVAT (CVAT for images 1.1)"


class Answer(NamedTuple):
    """What a person said of one image."""

    uri: str
    etag: str | None
    """Version of the image that was looked at; ``None``: not known."""
    label: str | None
    """``None``: nobody can tell."""
    predicted: str
    """What the model had said; empty where the file does not tell."""
    where: str
    """Place in the file, for people: ``answer 3``."""


def read_answers(file: str, queue: str | None) -> list[Answer]:
    """Read a file of answers, in its order.

    Args:
        file: on this machine, as the queue is.
        queue: folder of the queue that was answered, whose ``queue.csv`` says which picture is which input; ``None``:
            the folder of the file. Only CVAT's files need it.

    Raises:
        UsageError: it cannot be read, is of no known form, or holds no answer.
    """
    for place in filter(None, (file, queue)):
        if is_object(place):
            raise UsageError(f"{place}: is in a bucket; answers and their queue are read here, so copy it first")
    data = _read(file)
    kind = os.path.splitext(file)[1].lower()
    try:
        if kind == ".zip" or data[:4] == b"PK\x03\x04":
            answers = _of_cvat(file, _unzipped(file, data), queue)
        elif kind == ".xml" or data.lstrip()[:1] == b"<":
            answers = _of_cvat(file, data, queue)
        elif kind == ".json" or data.lstrip()[:1] in (b"{", b"["):
            answers = list(_of_json(json.loads(data)))
        else:
            answers = list(_of_csv(data.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: is not UTF-8; give {_FORMS}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UsageError(f"{file}: holds no answers that can be read ({error}); give {_FORMS}") from error
    except (ElementTree.ParseError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{file}: is damaged ({error}); export the answers once more") from error
    if not answers:
        raise UsageError(f"{file}: holds no answer; label some images first, and save the answers")
    return answers


def _read(file: str) -> bytes:
    path = path_from_uri(file)
    try:
        if os.path.getsize(path) > _MAX_BYTES:
            raise UsageError(f"{file}: is larger than {_MAX_BYTES >> 20} MiB; give {_FORMS}")
        with open(path, "rb") as opened:
            return opened.read()
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file; give the answers that were saved or exported") from error
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{file}: cannot be read: {what}") from error


def _of_json(content: Any) -> Iterator[Answer]:
    if isinstance(content, dict):
        rows = content["answers"]
        if not isinstance(rows, list):
            raise ValueError("its answers are no list")
        yield from (_answer(row, row["label"], f"answer {number}") for number, row in enumerate(rows, 1))
        return
    for number, task in enumerate(content, 1):
        where = f"task {number}"
        if "annotations" not in task:
            # Label Studio's short form: what the task has, and the choice under the name of its control.
            if (choice := task.get("label")) is not None:
                yield _answer(task, choice["choices"][0] if isinstance(choice, dict) else choice, where)
            continue
        made = [one for one in task["annotations"] if not one.get("was_cancelled")]
        for annotation in made:
            choices = [choice for part in annotation["result"] for choice in part.get("value", {}).get("choices", ())]
            if len(choices) > 1:
                raise ValueError(f"{where} has {len(choices)} choices, an image has one label")
            yield _answer(task["data"], choices[0] if choices else None, where)


def _of_csv(text: str) -> Iterator[Answer]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if lacking := [name for name in ("uri", "label") if name not in (reader.fieldnames or ())]:
        raise ValueError(f"it has no column {' and no column '.join(lacking)}")
    for row in reader:
        yield _answer(row, row["label"], f"line {reader.line_num}")


def _of_cvat(file: str, data: bytes, queue: str | None) -> list[Answer]:
    # Entities could make gigabytes of a few lines. In UTF-16, which has zero bytes, they would not be seen.
    if b"\0" in data or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("it declares a document type, or is not UTF-8")
    root = ElementTree.fromstring(data)
    rows = _queue_rows(file, queue)
    answers = []
    for number, image in enumerate(root.iter("image"), 1):
        where = f"image {number}"
        tags = [tag.get("label") for tag in image.iter("tag")]
        if len(tags) > 1:
            raise ValueError(f"{where} has {len(tags)} tags, an image has one label")
        if tags:
            name = (image.get("name") or "").rpartition("/")[2]
            if name not in rows:
                raise ValueError(f"{where} is {name[:60]!r}, which is no picture of the queue")
            answers.append(_answer(rows[name], tags[0], where))
    return answers


def _queue_rows(file: str, queue: str | None) -> Mapping[str, dict[str, str]]:
    """The rows of ``queue.csv`` by the name of the picture."""
    folder = path_from_uri(queue) if queue is not None else os.path.dirname(os.path.abspath(path_from_uri(file)))
    try:
        with open(os.path.join(folder, QUEUE_NAME), encoding="utf-8", newline="") as opened:
            return {row["picture"]: {**row, "predicted": row["label"]} for row in csv.DictReader(opened)}
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file}: names pictures, and {folder} holds no {QUEUE_NAME} that says which images they are; give the "
            "folder of the queue with --queue"
        ) from error


def _unzipped(file: str, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if _CVAT_MEMBER not in packed.namelist():
            raise UsageError(f"{file}: holds no {_CVAT_MEMBER}; export as CVAT for images 1.1")
        with packed.open(_CVAT_MEMBER) as member:
            text = member.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{file}: its {_CVAT_MEMBER} is larger than {_MAX_BYTES >> 20} MiB")
    return text


def _answer(row: Mapping[str, Any], label: Any, where: str) -> Answer:
    uri, etag, predicted = row.get("uri"), row.get("etag"), row.get("predicted")
    if not isinstance(uri, str) or not uri:
        raise ValueError(f"{where} has no uri")
    if not isinstance(label, str | None):
        raise ValueError(f"{where} has the label {str(label)[:60]!r}, which is no text")
    return Answer(uri, str(etag) if etag else None, label or None, str(predicted or ""), where)


def each_once(file: str, answers: Iterable[Answer]) -> list[Answer]:
    """The answers without those that say the same again; images that nobody can tell are left out.

    Raises:
        UsageError: two answers differ.
    """
    first: dict[str, Answer] = {}
    pairs = [(first.setdefault(answer.uri, answer), answer) for answer in answers]
    differing = [(known, answer) for known, answer in pairs if known.label != answer.label]
    if differing:
        one, other = differing[0]
        more = f", and so are {len(differing) - 1:,} more" if len(differing) > 1 else ""
        raise UsageError(
            f"{file}: {one.uri} is {_told(one)} in {one.where} and {_told(other)} in {other.where}{more}; leave one "
            "answer for each image"
        )
    return [answer for answer in first.values() if answer.label is not None]


def _told(answer: Answer) -> str:
    return "what nobody can tell" if answer.label is None else repr(answer.label[:60])

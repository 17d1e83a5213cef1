"""A queue as the files that annotation programs read: Label Studio, CVAT, FiftyOne, and a table."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from imgcls_ray.json_files import Json
    from imgcls_ray.review.queue import Item, Queue

QUEUE_NAME = "queue.csv"
PICTURES_FOLDER = "data"
FIELDS = ("picture", "uri", "etag", "label", "confidence", "oddness", "why", "num_alike", "other_labels")

_CONTROL, _OBJECT = "label", "image"
_KEYS = "1234567890"


def picture_name(number: int) -> str:
    """Name of the picture of an item, from 0, in ``PICTURES_FOLDER``; nothing in it is anyone's text."""
    return f"{number + 1:05d}.jpg"


def queue_table(queue: Queue) -> bytes:
    """``queue.csv``: an image a line, the first one first. Its columns say which picture is which input."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(FIELDS)
    for number, item in enumerate(queue.items):
        numbers = ["" if value is None else f"{value:.6g}" for value in (item.confidence, item.oddness)]
        others = "; ".join(f"{name} {score:.3f}" for name, score in zip(item.labels[1:], item.scores[1:], strict=False))
        row = [picture_name(number), item.uri, item.etag or "", item.label, *numbers, item.why, item.num_alike, others]
        writer.writerow(row)
    return text.getvalue().encode(errors="backslashreplace")


def label_studio_tasks(queue: Queue, pictures: str | None) -> bytes:
    """Tasks with the model's label as a prediction.

    Args:
        queue: which.
        pictures: address of the folder of pictures, ``s3://...``; ``None``: they are served as local files.
    """
    return _json([_task(queue, item, number, pictures) for number, item in enumerate(queue.items)])


def _task(queue: Queue, item: Item, number: int, pictures: str | None) -> Json:
    name = f"{PICTURES_FOLDER}/{picture_name(number)}"
    result: Json = {
        "from_name": _CONTROL,
        "to_name": _OBJECT,
        "type": "choices",
        "value": {"choices": [item.label]},
    }
    return {
        "data": {
            _OBJECT: f"{pictures}/{picture_name(number)}" if pictures else f"/data/local-files/?d={name}",
            "uri": item.uri,
            "etag": item.etag,
            "predicted": item.label,
            "why": item.why,
        },
        "predictions": [
            {"model_version": f"{queue.model} {queue.fingerprint[:12]}", "score": item.confidence, "result": [result]}
        ],
    }


def label_studio_config(queue: Queue) -> bytes:
    """The labelling interface: one choice among the classes, the first ones by keys."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_OBJECT, value=f"${_OBJECT}")
    choices = ElementTree.SubElement(view, "Choices", name=_CONTROL, toName=_OBJECT, choice="single", showInline="true")
    for number, name in enumerate(queue.classes):
        choice = ElementTree.SubElement(choices, "Choice", value=_xml_text(name))
        if number < len(_KEYS):
            choice.set("hotkey", _KEYS[number])
    return _xml(view)


def cvat_annotations(queue: Queue) -> bytes:
    """Annotations of a CVAT task whose images are those of ``PICTURES_FOLDER`` (CVAT for images 1.1)."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, item in enumerate(queue.items):
        width, height = item.size
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=picture_name(number), width=str(width), height=str(height)
        )
        ElementTree.SubElement(image, "tag", label=_xml_text(item.label), source="auto")
    return _xml(root)


def cvat_labels(queue: Queue) -> bytes:
    """The labels of a CVAT task, for its field Raw."""
    return _json([{"name": name, "type": "tag", "attributes": []} for name in queue.classes])


def fiftyone_labels(queue: Queue) -> bytes:
    """``labels.json`` beside ``data/``: a FiftyOneImageClassificationDataset."""
    labels = {
        picture_name(number).partition(".")[0]: {
            "label": item.label,
            "confidence": item.confidence,
            "attributes": {"uri": item.uri, "why": item.why},
        }
        for number, item in enumerate(queue.items)
    }
    return _json({"classes": queue.classes, "labels": labels})


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _xml(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _xml_text(text: str) -> str:
    """XML has no control characters and no lone surrogates; they become ``\\x00``."""
    return "".join(
        character
        if character in "\t\n\r"
        or (character >= " " and not "\ud800" <= character <= "\udfff" and character < "\ufffe")
        or character > "\uffff"
        else ascii(character)[1:-1]
        for character in text
    )

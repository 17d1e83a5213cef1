"""Write a queue into a folder.

::

    OUTPUT/review.html            label the queue in a browser, and save the answers; needs no other file
    OUTPUT/queue.csv              the queue as a table; says which picture is which input
    OUTPUT/data/00001.jpg ...     its pictures
    OUTPUT/label_studio.json      tasks for Label Studio, and label_studio.xml, the labelling interface
    OUTPUT/cvat.xml               annotations for CVAT, and cvat_labels.json, its labels
    OUTPUT/labels.json            with data/, a FiftyOneImageClassificationDataset
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import UsageError
from imgcls_ray.report.review_page import render_review
from imgcls_ray.review import tasks
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from imgcls_ray.review.queue import Queue
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions

PAGE_NAME = "review.html"


def open_output(output: str, storage: StorageOptions) -> Directory:
    """Open a place for a queue: one with nothing in it, so that no picture of an earlier queue is taken for another.

    Raises:
        InputError: its kind of storage is unknown.
        UsageError: there is something.
        StorageError: it cannot be listed.
    """
    directory = open_directory(output, storage)
    if next(iter(directory.entries()), None) is not None:
        raise UsageError(f"{output}: is not empty; a queue needs a folder of its own, give a new one")
    return directory


def write_queue(queue: Queue, directory: Directory) -> None:
    """Write all files of a queue; the page comes last.

    Raises:
        StorageError: a file cannot be written.
    """
    for number, item in enumerate(queue.items):
        directory.replace(f"{tasks.PICTURES_FOLDER}/{tasks.picture_name(number)}", item.jpeg)
    pictures = f"{directory.uri.rstrip('/')}/{tasks.PICTURES_FOLDER}" if is_object(directory.uri) else None
    directory.replace("label_studio.json", tasks.label_studio_tasks(queue, pictures))
    directory.replace("label_studio.xml", tasks.label_studio_config(queue))
    directory.replace("cvat.xml", tasks.cvat_annotations(queue))
    directory.replace("cvat_labels.json", tasks.cvat_labels(queue))
    directory.replace("labels.json", tasks.fiftyone_labels(queue))
    directory.replace(tasks.QUEUE_NAME, tasks.queue_table(queue))
    about = {name: getattr(queue, name) for name in ("store", "model", "fingerprint", "classes")}
    names = ("uri", "etag", "label", "labels", "confidence", "why", "num_alike", "jpeg")
    items = [{name: getattr(item, name) for name in names} for item in queue.items]
    directory.replace(PAGE_NAME, render_review(about, items).encode())

"""The page of a run, a queue and answers, all in one bucket."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from imgcls_ray.commands import report, review
from imgcls_ray.errors import UsageError
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import create_or_open_store
from tests.report.test_run_report import label, num_pictures
from tests.store.stores import identity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("s3")
def test_page_queue_and_answers_work_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    place = f"s3://{bucket}/all"
    directory = open_directory(place)
    for number, colour in enumerate(("red", "green")):
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), colour).save(picture, "PNG")
        directory.replace(f"in/{number}.png", picture.getvalue())
    store = create_or_open_store(open_directory(f"{place}/store"), identity())
    label(store, {f"{place}/in/0.png": ("cat", 0.5), f"{place}/in/1.png": ("cat", 0.75)})

    report.run(None, [], {"store": f"{place}/store"})
    assert num_pictures(directory.read("store/report/report.html").decode()) == 2

    review.run(None, [], {"store": f"{place}/store", "output": f"{place}/queue", "budget": 1})
    [task] = json.loads(directory.read("queue/label_studio.json"))
    assert task["data"]["image"] == f"{place}/queue/data/00001.jpg"
    assert directory.read("queue/data/00001.jpg")[:2] == b"\xff\xd8"

    for name, text in {"label.txt": "0 cat\n1 dog\n", "train.txt": "../in/1.png 0\n", "val.txt": "x.png 1\n"}.items():
        directory.replace(f"data/{name}", text.encode())
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"answers": [{"uri": f"{place}/in/0.png", "label": "dog"}]}))
    review.run(None, [], {"apply": str(answers), "dataset": f"{place}/data"})
    assert directory.read("data/train.txt").decode() == f"../in/1.png 0\n{place}/in/0.png 1\n"
    assert b"answers.json" in directory.read("data/reviewed.csv")

    # A bucket's list cannot name a file of this machine.
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    answers.write_text(json.dumps({"answers": [{"uri": str(tmp_path / "x.png"), "label": "dog"}]}))
    with pytest.raises(UsageError, match="bring it to where the dataset is"):
        review.run(None, [], {"apply": str(answers), "dataset": f"{place}/data"})

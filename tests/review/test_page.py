"""The page on which a person labels a queue, in a real browser."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import expect

from imgcls_ray.report.pictures import to_jpeg
from imgcls_ray.report.review_page import render_review
from tests.report.test_check_report import HOSTILE
from tests.serve.browser import open_browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CLASSES = ["cat", "dog", "</script><script>alert(1)</script>"]
HOSTILE_URI = f'/in/"><img src=x onerror=alert(1)>{HOSTILE}\u2028.jpg'.replace("\udc80", "")
URIS = [HOSTILE_URI, "/in/2.jpg", "s3://b/3.jpg", "/in/4.jpg"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def write_page(folder: Path, classes: list[str]) -> Path:
    items = [
        {
            "uri": uri,
            "etag": None,
            "label": "dog",
            "labels": ("dog", "cat"),
            "confidence": 0.25,
            "why": "odd",
            "num_alike": number,
            "jpeg": to_jpeg(Image.new("RGB", (40, 30), (60 * number, 0, 90)), quality=80),
        }
        for number, uri in enumerate(URIS)
    ]
    about = {"store": "/labels", "model": "small", "fingerprint": "f" * 64, "classes": classes}
    path = folder / "review.html"
    path.write_text(render_review(about, items))
    return path


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(write_page(tmp_path, CLASSES).as_uri())
    yield page
    page.close()
    assert wrong == []


def saved(page: Page, button: str) -> Path:
    with page.expect_download() as download:
        page.click(button)
    return download.value.path()


def test_labels_are_picked_by_keys_and_saved(page: Page) -> None:
    expect(page.locator("#count")).to_have_text("1 of 4 · 0 answered")
    # Enter: as the model says. 2: the model's second. u: nobody can tell. Right: no answer.
    for key in ("Enter", "2", "u", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#count")).to_have_text("4 of 4 · 3 answered")
    content = json.loads(saved(page, "#json").read_bytes())
    assert (content["format"], content["model"]) == ("imgcls-answers", "small")
    assert [(row["uri"], row["label"], row["predicted"]) for row in content["answers"]] == [
        (HOSTILE_URI, "dog", "dog"),
        ("/in/2.jpg", "cat", "dog"),
        ("s3://b/3.jpg", None, "dog"),
    ]
    with saved(page, "#csv").open(newline="", encoding="utf-8") as file:
        assert [(row["uri"], row["label"]) for row in csv.DictReader(file)] == [
            (HOSTILE_URI, "dog"),
            ("/in/2.jpg", "cat"),
            ("s3://b/3.jpg", ""),
        ]


def test_hostile_names_and_labels_are_text_and_the_page_fits_a_phone(page: Page) -> None:
    assert page.locator("#name").text_content() == HOSTILE_URI
    page.click(f"text={CLASSES[2]}")
    assert page.locator("script").count() == 2
    assert page.locator("main img").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_answers_stay_when_the_page_is_loaded_again_and_can_be_taken_back(page: Page) -> None:
    page.keyboard.press("1")
    page.reload()
    expect(page.locator("#count")).to_have_text("1 of 4 · 1 answered")
    page.keyboard.press("Backspace")
    expect(page.locator("#count")).to_have_text("1 of 4 · 0 answered")
    expect(page.locator("#json")).to_be_disabled()


def test_a_key_that_is_held_down_answers_one_picture_and_enter_presses_what_tab_reached(page: Page) -> None:
    page.keyboard.down("Enter")
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    expect(page.locator("#count")).to_have_text("2 of 4 · 1 answered")
    page.focus("#labels button:nth-child(2)")
    page.keyboard.press("Enter")
    # A click leaves no button behind that Enter presses.
    page.click("#back")
    page.click("#next")
    page.keyboard.press("Enter")
    answers = json.loads(saved(page, "#json").read_bytes())["answers"]
    assert [row["label"] for row in answers] == ["dog", "cat", "dog"]


def test_of_many_classes_any_is_found_by_its_name(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(write_page(tmp_path, ["cat", "dog", *(f"class {i}" for i in range(1000))]).as_uri())
    page.keyboard.press("/")
    page.keyboard.type("CLASS 777")
    page.keyboard.press("Enter")
    [answer] = json.loads(saved(page, "#json").read_bytes())["answers"]
    assert answer["label"] == "class 777"
    page.close()

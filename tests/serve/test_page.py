"""The page, in a real browser against a real server."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SMALL_CLASSES, make_small_model
from tests.images.bad_images import jpeg, slopes, tiff
from tests.serve.browser import API_KEY, BrowserError, Site, open_browser, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FilePayload, Locator, Page

CLASSES = ("<b>x</b>", *SMALL_CLASSES[1:])
HOSTILE_NAME = "<img src=x onerror=alert(1)>.jpg"
# The browser's own line for every answer of 400 and above, and for every request that did not get through.
_EXPECTED = "Failed to load resource:"

# Files reach a page by events that only people cause; made by hand, with the same data, they look the same to it.
_TRANSFER = """([kind, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const data = kind === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
  const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
  return !document.body.dispatchEvent(new Kind(kind, { ...data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("model") / "small"
    make_small_model(folder, seed=0, class_names=CLASSES)
    with serve(folder) as site:
        yield site


@pytest.fixture
def site(server: Site) -> Iterator[Site]:
    """The service in good order, whatever the last test did to it."""
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page, opened; at the end it has neither complained nor asked anything of anyone."""
    with browser.new_context() as context:
        page = context.new_page()
        complaints = watch(page)
        page.goto(site.url)
        yield page
        assert complaints == []


def watch(page: Page) -> list[str]:
    """What the browser complains about from now on: broken rules of the CSP, errors in scripts, and dialogs."""
    complaints: list[str] = []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("console", lambda _: complaints[:] = [])
    return complaints

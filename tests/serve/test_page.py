"""The page, in a real browser against a real server."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.conftest import SMALL_CLASSES, make_small_model
from tests.images.bad_images import jpeg, slopes, tiff
from tests.serve.browser import API_KEY, Site, open_browser, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Dialog, FilePayload, Locator, Page

CLASSES = ("<b>x</b>", *SMALL_CLASSES[1:])
HOSTILE_NAME = "<img src=x onerror=alert(1)>.jpg"
PATIENCE_MS = 20_000
LONG_NAME = "a_name_without_a_place_to_break_" * 4 + ".jpg"
# The browser's own line for every answer of 400 and above, and for every request that does not get through.
_ORDINARY = "Failed to load resource:"

# Only people can drag and paste. An event made by hand, with a file in it, looks the same to the page.
_SEND_FILE = """([kind, name, content]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
  document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options));
}"""
_COUNT_ADDRESSES = """
  globalThis.addresses = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (file) => {
    const address = createObjectURL(file);
    addresses.add(address);
    return address;
  };
  URL.revokeObjectURL = (address) => {
    addresses.delete(address);
    revokeObjectURL(address);
  };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
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
    """The service in good order, whatever a test does to it."""
    yield server
    server.reset()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with new_page(browser, site) as page:
        page.goto(site.url)
        yield page


@contextmanager
def new_page(browser: Browser, site: Site, *, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """An empty page, in which until the block ends no rule of the CSP may be broken, no script may fail, no dialog may
    appear, and nothing may be asked of another server."""
    complaints: list[str] = []

    def refuse_dialog(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    with browser.new_context(viewport={"width": width, "height": height}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", refuse_dialog)
        page.on("request", lambda request: complaints.append(f"asked: {request.url}"))
        yield page
    own = (f"asked: {site.url}/", f"asked: blob:{site.url}/", "asked: data:", f"error: {_ORDINARY}")
    assert [complaint for complaint in complaints if not complaint.startswith(own)] == []


def file(name: str, content: bytes, kind: str = "image/jpeg") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": content}


def picture(name: str = "a.jpg", seed: int = 0) -> FilePayload:
    return file(name, jpeg(slopes(96, 80 + seed)))


def choose(page: Page, *files: FilePayload) -> None:
    page.locator("#files").set_input_files(files)


def card(page: Page, name: str) -> Locator:
    return page.locator(".card").filter(has=page.get_by_role("heading", name=name, exact=True))


def expect_labels(card: Locator, count: int) -> None:
    expect(card).to_have_attribute("data-state", "done")
    expect(card.locator(".labels li")).to_have_count(count)


def expect_error(card: Locator, code: str) -> None:
    expect(card.locator(".code")).to_be_visible()
    expect(card.locator(".code")).to_have_text(code)


def take_up_top_k(page: Page, top_k: int) -> None:
    page.locator("#top-k label", has_text=re.compile(rf"^{top_k}$")).click()


def test_page_says_which_model_answers(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("small")
    expect(page.locator("#model-facts")).to_have_text(re.compile(r"^7 classes · [0-9a-f]{12}$"))


def test_every_picture_gets_a_card_and_a_broken_one_its_code(page: Page) -> None:
    choose(page, picture("a.jpg"), file("broken.jpg", jpeg(slopes(96, 80))[:-200]), picture("b.jpg", 1))

    expect(page.locator(".card .name")).to_have_text(["a.jpg", "broken.jpg", "b.jpg"])
    for name in ("a.jpg", "b.jpg"):
        expect_labels(card(page, name), 5)
        expect(card(page, name).locator(".facts")).to_have_text(re.compile(r"^96 × 8[01] · \d+ ms$"))
    expect_error(card(page, "broken.jpg"), "truncated")
    expect(card(page, "broken.jpg").locator(".message")).not_to_be_empty()
    expect(card(page, "broken.jpg").locator(".labels")).not_to_be_visible()


def test_newest_pictures_come_first(page: Page) -> None:
    choose(page, picture("a.jpg"))
    choose(page, picture("b.jpg"), picture("c.jpg"))
    expect(page.locator(".card .name")).to_have_text(["b.jpg", "c.jpg", "a.jpg"])


def test_bars_are_as_long_as_the_scores_say(page: Page) -> None:
    take_up_top_k(page, 10)
    choose(page, picture())
    expect_labels(card(page, "a.jpg"), len(CLASSES))

    scores = [float(text.rstrip("%")) for text in page.locator(".score").all_text_contents()]
    assert sum(scores) == pytest.approx(100, abs=0.5)
    assert scores == sorted(scores, reverse=True)
    lengths = page.locator(".bar > span").evaluate_all(
        "bars => bars.map((bar) => (100 * bar.getBoundingClientRect().width) / bar.parentNode.clientWidth)"
    )
    assert lengths == pytest.approx(scores, abs=0.5)


def test_fewer_labels_are_shown_at_once_and_more_are_asked_for(page: Page, site: Site) -> None:
    choose(page, picture())
    expect_labels(card(page, "a.jpg"), 5)
    take_up_top_k(page, 3)
    expect_labels(card(page, "a.jpg"), 3)
    assert site.queries == ["top_k=5"]
    take_up_top_k(page, 10)
    expect_labels(card(page, "a.jpg"), len(CLASSES))
    assert site.queries == ["top_k=5", "top_k=10"]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_taken_that_are_dropped_or_pasted(page: Page, kind: str) -> None:
    page.evaluate(_SEND_FILE, [kind, "a.jpg", base64.b64encode(picture()["buffer"]).decode()])
    expect_labels(card(page, "a.jpg"), 5)


def test_whole_page_shows_that_files_may_be_dropped(page: Page) -> None:
    curtain = page.locator("#drop")
    expect(curtain).not_to_be_visible()
    page.evaluate(_SEND_FILE, ["dragenter", "a.jpg", ""])
    expect(curtain).to_be_visible()
    assert curtain.bounding_box() == {"x": 0, "y": 0, "width": 1280, "height": 900}
    curtain.dispatch_event("dragleave")
    expect(curtain).not_to_be_visible()


def test_names_of_files_and_classes_are_text(page: Page) -> None:
    take_up_top_k(page, 10)
    choose(page, picture(HOSTILE_NAME), file(f"broken {HOSTILE_NAME}", b"no picture"))
    expect_labels(card(page, HOSTILE_NAME), len(CLASSES))
    expect_error(card(page, f"broken {HOSTILE_NAME}"), "unsupported_format")
    expect(page.locator(".label", has_text="<b>x</b>")).to_have_count(1)
    expect(page.locator("main :is(b, [onerror])")).to_have_count(0)


def test_picture_that_the_browser_cannot_show_has_a_placeholder(page: Page) -> None:
    content = tiff((24, 16), (8, 8, 8), 2, slopes().tobytes())
    choose(page, file("scan.tiff", content, "image/tiff"))
    expect_labels(card(page, "scan.tiff"), 5)
    expect(card(page, "scan.tiff").locator(".picture")).to_have_text("tiff")


def test_service_is_asked_what_a_file_is_whatever_its_name_says(page: Page) -> None:
    choose(page, file("a.json", jpeg(slopes(96, 80)), "application/json"))
    expect_labels(card(page, "a.json"), 5)


def test_four_pictures_are_on_their_way_and_the_others_wait(page: Page, site: Site) -> None:
    site.is_held = True
    choose(page, *(picture(f"{i}.jpg", i) for i in range(6)))
    expect(page.locator(".step", has_text="Labelling")).to_have_count(4)
    expect(page.locator(".step", has_text="Queued")).to_have_count(2)
    expect(page.locator("#progress")).to_have_text("0/6")
    expect(page.locator(".spinner:visible")).to_have_count(6)
    assert len(site.queries) <= 4
    site.is_held = False
    expect(page.locator(".card[data-state=done]")).to_have_count(6)
    expect(page.locator("#progress")).to_be_empty()


def open_with_stopped_clock(page: Page, site: Site) -> None:
    """Time goes on only where the test says so: on a busy machine a second passes between two of its lines."""
    page.clock.install(time=0)
    page.goto(site.url)
    # Installing alone does not stop it.
    page.clock.pause_at(3_600_000)


def test_busy_service_is_asked_again_when_it_says(browser: Browser, site: Site) -> None:
    site.num_busy = 1
    with new_page(browser, site) as page:
        open_with_stopped_clock(page, site)
        choose(page, picture())
        expect(card(page, "a.jpg").locator(".step")).to_have_text("The service is busy: again in 1 s (1 of 5)")
        page.clock.run_for(900)
        assert len(site.queries) == 1
        page.clock.run_for(100)
        expect_labels(card(page, "a.jpg"), 5)


def test_service_that_stays_busy_is_left_alone_after_five_more_tries(browser: Browser, site: Site) -> None:
    site.num_busy = 100
    with new_page(browser, site) as page:
        open_with_stopped_clock(page, site)
        choose(page, picture())
        for retry in range(1, 6):
            expect(card(page, "a.jpg").locator(".step")).to_contain_text(f"({retry} of 5)")
            page.clock.run_for(1_000)
        expect_error(card(page, "a.jpg"), "overloaded")
        assert len(site.queries) == 6
        site.num_busy = 0
        card(page, "a.jpg").get_by_role("button", name="Retry").click()
        expect_labels(card(page, "a.jpg"), 5)


def test_lost_connection_is_told_and_tried_again_on_request(page: Page) -> None:
    page.route("**/v1/classify*", lambda route: route.abort("connectionfailed"))
    choose(page, picture())
    expect_error(card(page, "a.jpg"), "no_connection")
    page.unroute_all()
    card(page, "a.jpg").get_by_role("button", name="Retry").click()
    expect_labels(card(page, "a.jpg"), 5)


def test_answer_of_something_in_between_is_told(page: Page) -> None:
    page.route("**/v1/classify*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    choose(page, picture())
    expect_error(card(page, "a.jpg"), "http_502")


def test_file_that_has_gone_is_told_apart_from_a_lost_connection(page: Page, site: Site, tmp_path: Path) -> None:
    site.is_held = True
    choose(page, *(picture(f"{i}.jpg", i) for i in range(4)))
    path = tmp_path / "gone.jpg"
    path.write_bytes(picture()["buffer"])
    page.locator("#files").set_input_files(path)
    expect(card(page, "gone.jpg")).to_be_visible()
    path.unlink()
    site.is_held = False
    expect_error(card(page, "gone.jpg"), "unreadable")


def test_key_is_asked_for_kept_for_the_tab_and_used(browser: Browser, site: Site) -> None:
    site.needs_key = True
    with new_page(browser, site) as page:
        page.goto(site.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        choose(page, picture())
        field.fill("a key of somebody else")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The service does not know this key.")
        field.fill(API_KEY)
        field.press("Enter")

        expect_labels(card(page, "a.jpg"), 5)
        expect(field).not_to_be_visible()
        expect(page.locator("#model-facts")).to_contain_text("7 classes")
        assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
            [API_KEY],
            0,
            "",
        ]


def test_key_that_is_needed_from_now_on_costs_no_picture(page: Page, site: Site) -> None:
    expect(page.locator("#model-facts")).to_contain_text("7 classes")
    site.needs_key = True
    choose(page, *(picture(f"{i}.jpg", i) for i in range(6)))
    expect(page.locator(".step", has_text="Waits for the API key")).to_have_count(4)
    page.get_by_label("API key").fill(API_KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator(".card[data-state=done]")).to_have_count(6)


def test_clear_takes_everything_away_and_what_was_on_its_way_does_not_come_back(page: Page, site: Site) -> None:
    site.is_held = True
    choose(page, *(picture(f"{i}.jpg", i) for i in range(6)))
    expect(page.locator(".step", has_text="Labelling")).to_have_count(4)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)
    choose(page, picture("new.jpg"))
    expect(card(page, "new.jpg").locator(".step")).to_have_text("Labelling …")
    site.is_held = False
    expect_labels(card(page, "new.jpg"), 5)
    expect(page.get_by_role("log")).to_have_text(re.compile(r"^new\.jpg: [^:]+$"))
    expect(page.locator(".card")).to_have_count(1)
    assert len(site.queries) <= 5, "what waited was sent all the same"


def test_files_do_not_stay_in_memory_for_their_thumbnails(browser: Browser, site: Site) -> None:
    with new_page(browser, site) as page:
        page.add_init_script(_COUNT_ADDRESSES)
        page.goto(site.url)
        choose(page, picture(), file("scan.tiff", tiff((24, 16), (8, 8, 8), 2, slopes().tobytes()), "image/tiff"))
        expect(page.locator(".card[data-state=done]")).to_have_count(2)
        expect(page.locator(".kind")).to_have_count(1)
        page.locator(".card img").evaluate("image => image.decode()")
        assert page.evaluate("addresses.size") == 0


def test_results_are_told_to_those_who_hear_the_page(page: Page) -> None:
    choose(page, picture())
    news = page.get_by_role("log")
    expect(news).to_have_attribute("aria-live", "polite")
    expect(news).to_have_text(re.compile(r"^a\.jpg: .+, \d+\.\d%$"))


def test_page_can_be_used_by_keyboard(browser: Browser, site: Site) -> None:
    with new_page(browser, site) as page:
        # Not only when it is needed: a busy browser may be told too late whom to ask for files.
        page.on("filechooser", lambda chooser: chooser.set_files([picture()]))
        page.goto(site.url)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="API")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#files")).to_be_focused()
        page.keyboard.press("Enter")
        expect_labels(card(page, "a.jpg"), 5)
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")
        expect_labels(card(page, "a.jpg"), 3)


def test_phone_scrolls_in_one_direction(browser: Browser, site: Site) -> None:
    with new_page(browser, site, width=360, height=740) as page:
        page.goto(site.url)
        take_up_top_k(page, 10)
        choose(page, picture(LONG_NAME), file("broken.jpg", b"no picture"))
        expect_labels(card(page, LONG_NAME), len(CLASSES))
        expect_error(card(page, "broken.jpg"), "unsupported_format")
        site.needs_key = True
        choose(page, picture("waiting.jpg"))
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_colours_follow_the_system(page: Page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(245, 246, 248)", "rgb(15, 17, 21)"]


def test_documentation_describes_requests_without_a_network(browser: Browser, site: Site) -> None:
    with new_page(browser, site) as page:
        page.goto(f"{site.url}/docs")
        operation = page.locator(".opblock", has_text="/v1/classify")
        operation.locator(".opblock-summary-control").click()
        body = operation.locator(".opblock-section-request-body")
        body.get_by_label("Request content type").select_option("application/json")
        expect(body).to_contain_text('"base64": "string"')
        expect(page.locator(".errors-wrapper")).to_have_count(0)

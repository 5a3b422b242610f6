"""Pages in a real browser: they show to everybody what was asked, and axe-core objects to nothing.

Without Chromium they are skipped, but fail in CI; $MOBISIM_BROWSER names one that is elsewhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from mobisim.pages.explorer import Explorer
from mobisim.pages.report import write_report
from mobisim.prepare import Options
from mobisim.runner import run
from mobisim.scenario.load import load

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("MOBISIM_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
REFUSED = "Failed to load resource: the server responded with a status of 422"

expect.set_options(timeout=60_000)  # as slow as a machine with other work may be
pytestmark = pytest.mark.skipif(
    BROWSER is None and "CI" not in os.environ, reason="no Chromium is installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser, without a window."""
    assert BROWSER is not None, "CI looks at the pages: install Chromium, or set $MOBISIM_BROWSER"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER)
        yield started
        started.close()


@contextmanager
def looking(browser: Browser, url: str, size: ViewportSize = WIDE, *, dark: bool) -> Iterator[Page]:
    """A page as somebody has it open; no script of it fails and its policy refuses nothing."""
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light")
    page, told = context.new_page(), []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text))
    page.goto(url)
    yield page
    assert [text for text in told if not text.startswith(REFUSED)] == []
    context.close()


def check(page: Page) -> None:
    """Nobody is kept out (WCAG 2.1 A and AA and good practice), and nothing sticks out sideways."""
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a federation, and of a run that does not fit in memory."""
    folder = tmp_path_factory.mktemp("report")
    few = ["num_batches=3", *(f"devices[{group}].count=2" for group in range(3))]
    asked = {"fed_mixed": few, "lte": ["devices[0].profile.memory=1 GiB"]}
    results = [
        run(load(name, sets), Options(train=False, plots=False, out=folder / name)).path
        for name, sets in asked.items()
    ]
    return write_report(results, folder / "report.html").as_uri()


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)])
def test_a_report_can_be_read_by_all(
    size: ViewportSize, dark: bool, report: str, browser: Browser
) -> None:
    """On a large screen and on a phone, in both schemes."""
    with looking(browser, report, size, dark=dark) as page:
        check(page)


def test_a_timeline_is_moved_by_keyboard(report: str, browser: Browser) -> None:
    """It shows itself, says what it shows, and plus goes as close as asked."""
    with looking(browser, report, dark=False) as page:
        status = page.locator("figure.zoom .status").first
        expect(status).to_contain_text("From 0 ")
        whole = status.inner_text()
        page.locator("figure.zoom canvas").first.focus()
        page.keyboard.press("+")
        expect(status).not_to_have_text(whole)
        page.keyboard.press("Home")
        expect(status).to_have_text(whole)


def test_a_knob_moved_by_keyboard_is_answered_by_the_engine(
    lte: Explorer, lte_page: str, browser: Browser
) -> None:
    """What the page comes to rest with is the engine's whole answer, word for word."""
    with looking(browser, lte_page, dark=False) as page:
        expect(page.locator("body")).to_have_attribute("data-state", "whole")
        for key in ("Tab", "Enter", "Tab", "ArrowRight", "ArrowRight"):  # past the skip link
            page.keyboard.press(key)
        stop = page.get_by_role("slider").first.get_attribute("aria-valuetext")
        assert stop not in {None, "15 Mbit/s"}
        wanted = lte.answer({"uplink": str(stop)}, whole=True)
        expect(page.locator("#command")).to_have_text(wanted["command"])
        expect(page.locator("body")).to_have_attribute("data-state", "whole")
        assert page.locator("#headline").inner_text() == wanted["headline"]
        assert page.locator("#details p").all_inner_texts() == wanted["details"]
        rows = page.locator("#numbers tr").all_inner_texts()
        assert [tuple(row.split("\t")) for row in rows] == wanted["numbers"]


@pytest.mark.parametrize(
    ("knobs", "state", "words"),
    [
        ("", "whole", "The uplink sets the pace"),
        ("uplink=700+Mbit%2Fs&codec=int2", "whole", "The device sets the pace"),
        ("batch=256", "error", "a shape that no profile covers"),
    ],
)
def test_the_knobs_are_answered(
    knobs: str, state: str, words: str, lte_page: str, browser: Browser
) -> None:
    """What an address asks for: the whole run's answer, or an error in words; for all to read."""
    with looking(browser, f"{lte_page}/#{knobs}", PHONE, dark=True) as page:
        expect(page.locator("body")).to_have_attribute("data-state", state)
        expect(page.locator("#headline")).to_contain_text(words)
        expect(page.get_by_text("The same on the command line")).to_be_visible(
            visible=state == "whole"
        )
        check(page)
        page.emulate_media(color_scheme="light")
        check(page)

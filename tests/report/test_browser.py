"""The page in a real browser: the player steps and plays, nothing is loaded, nothing is logged."""

from __future__ import annotations

import pytest

from couplet.report.animation import write_svg
from couplet.report.page import write_report
from couplet.report.trace import Trace
from tests.report.browser import Browser, find_chromium
from tests.report.folders import finish, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine (apt-get install chromium)"),
]
PLAYER = "document.querySelector('.player')"
HIDDEN = f"{PLAYER}.querySelectorAll('.masked').length"
TOKENS = f"{PLAYER}.querySelectorAll('[data-step]').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(finish(write_run(tmp_path_factory.mktemp("runs") / "run")))


@pytest.fixture(scope="module")
def browser(page):
    with Browser() as found:
        yield found
        assert found.problems == [], "console errors, exceptions or violations of the page's security policy"
        assert [url for url in found.requests if not url.startswith(("file:", "about:"))] == []


@pytest.fixture(autouse=True)
def opened(browser, page):
    browser.open(page)
    browser.until(f"{PLAYER}.dataset.state === 'paused'")
    browser.evaluate(f"{PLAYER}.focus()")


def shown(browser) -> int:
    return int(browser.evaluate(f"{PLAYER}.dataset.shown"))


def test_the_page_is_one_request(browser, page) -> None:
    browser.requests.clear()
    browser.open(page)
    assert [url for url in browser.requests if url != "about:blank"] == [page.as_uri()]


def test_the_keyboard_steps_through_the_denoising(browser) -> None:
    steps = int(browser.evaluate(f"{PLAYER}.dataset.steps"))
    assert shown(browser) == steps and browser.evaluate(HIDDEN) == 0
    browser.press("Home")
    hidden = [browser.evaluate(HIDDEN)]
    assert shown(browser) == 0 and hidden[0] == browser.evaluate(TOKENS)
    for step in range(1, steps + 1):
        browser.press("ArrowRight")
        assert shown(browser) == step
        own = f"[...{PLAYER}.querySelectorAll('[data-step]')].filter(t => t.dataset.step >= {step}).length"
        assert browser.evaluate(HIDDEN) == browser.evaluate(own)
    browser.press("ArrowRight")
    assert shown(browser) == steps
    browser.press("ArrowLeft")
    assert shown(browser) == steps - 1
    browser.press("End")
    assert browser.evaluate(HIDDEN) == 0


def test_a_masked_token_is_invisible_but_keeps_its_place(browser) -> None:
    width = f"{PLAYER}.querySelector('[data-step]').getBoundingClientRect().width"
    before = browser.evaluate(width)
    browser.press("Home")
    colour = browser.evaluate(f"getComputedStyle({PLAYER}.querySelector('[data-step]')).color")
    assert colour == "rgba(0, 0, 0, 0)" and browser.evaluate(width) == before > 0


def test_space_plays_to_the_end_and_pauses(browser) -> None:
    browser.evaluate(f"{PLAYER}.querySelector('select').value = '4'")
    browser.press(" ")
    browser.until(f"{PLAYER}.dataset.state === 'playing' && {PLAYER}.dataset.shown > 1")
    browser.press(" ")
    stopped = shown(browser)
    assert browser.evaluate(f"{PLAYER}.dataset.state") == "paused" and stopped > 1
    browser.press(" ")
    browser.until(f"{PLAYER}.dataset.state === 'paused' && {PLAYER}.dataset.shown === {PLAYER}.dataset.steps")


def test_buttons_and_the_slider_do_the_same(browser) -> None:
    browser.evaluate(f"{PLAYER}.querySelector('[data-do=first]').click()")
    browser.evaluate(
        f"{PLAYER}.querySelector('[data-do=forward] path').dispatchEvent(new Event('click', {{bubbles: true}}))"
    )
    assert shown(browser) == 1
    browser.evaluate(f"{PLAYER}.querySelector('input').focus()")
    browser.press("ArrowRight")
    assert shown(browser) == 2
    assert browser.evaluate(f"{PLAYER}.querySelector('input').getAttribute('aria-valuetext')").startswith("step 2 of")


def test_closing_the_details_pauses(browser) -> None:
    browser.press(" ")
    browser.evaluate(f"{PLAYER}.closest('details').open = false")
    browser.until(f"{PLAYER}.dataset.state === 'paused'")


def test_a_phone_needs_no_sideways_scrolling(browser) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_attacks_in_completions_did_nothing(browser) -> None:
    assert browser.evaluate("document.scripts.length") == 1 and browser.evaluate("document.images.length") == 0


def test_the_spaces_of_an_svg_have_their_width(browser, tmp_path) -> None:
    path = write_svg(Trace("q", ("    return", " x"), (0, 0), 1), tmp_path / "trace.svg")
    browser.open(path)
    length = "[...document.querySelectorAll('text')].find(t => t.textContent.includes('return')).getNumberOfChars()"
    assert browser.evaluate(length) == len("    return")

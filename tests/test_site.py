"""The documentation site in a browser: widths, themes, search, folds, and that it asks nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import faults

pytestmark = pytest.mark.browser

# pages of every kind: the first, prose, many names, drawings, a viewer
TYPICAL = (
    "index.html",
    "core/trace.html",
    "training/grpo.html",
    "viewer/charts.html",
    "commands.html",
    "tutorials/own_video.html",
)

# What axe reads, which takes long for a page of many names: entries and highlighted code look the
# same on all of them.
AXE = {
    "light": ("index.html", "viewer/charts.html", "tutorials/own_video.html", "commands.html"),
    "dark": ("index.html", "core/trace.html", "tutorials/own_video.html"),
}

# Elements that stick out of the page, and not out of a box that scrolls.
STICKING_OUT = """() => {
    const boxed = element => {
        for (let box = element; box; box = box.parentElement)
            if (getComputedStyle(box).overflowX !== 'visible') return true;
        return false;
    };
    return [...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e.parentElement))
        .map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 60)}`);
}"""

# Boxes with lines that can be neither seen nor scrolled to.
CUT_OFF = """() => [...document.querySelectorAll('main *')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1
        && ['hidden', 'clip'].includes(getComputedStyle(e).overflowX) && !e.closest('.widget'))
    .map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 60)}`)"""


@pytest.mark.parametrize("width", [320, 800, 1400])
def test_nothing_sticks_out_or_is_cut_off(site: Path, open_page, width: int) -> None:
    for name in (*TYPICAL, "names.html"):
        page = open_page(site / name, viewport={"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(STICKING_OUT) == [], name
        assert page.evaluate(CUT_OFF) == [], name
        assert page.requested == [] and page.errors == [], name
        page.close()


def test_code_of_a_hundred_columns_fits_on_a_desk(site: Path, open_page) -> None:
    page = open_page(site / "training" / "grpo.html", viewport={"width": 1400, "height": 900})
    wide = "e => e.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    assert page.locator("main pre:visible").evaluate_all(wide) == []


@pytest.mark.parametrize("theme", AXE)
def test_axe_finds_no_serious_fault(site: Path, open_page, theme: str) -> None:
    for name in AXE[theme]:
        page = open_page(site / name, color_scheme=theme, reduced_motion="reduce")
        assert faults(page) == [], name
        page.close()


def becomes(true: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether something becomes true within some seconds."""
    last = time.monotonic() + seconds
    while not true():
        if time.monotonic() > last:
            return False
        time.sleep(0.05)
    return True


def test_a_table_that_scrolls_shows_it_and_is_reached_by_keys(site: Path, open_page) -> None:
    page = open_page(site / "index.html", viewport={"width": 390, "height": 800})
    table = page.get_by_role("region", name="table: model, accuracy").first.element_handle()
    assert table.evaluate("e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex === 0")
    assert table.evaluate("e => getComputedStyle(e).backgroundAttachment") == "local, scroll"
    table.focus()
    page.keyboard.press("ArrowRight")
    # the page's policy forbids the script by which `wait_for_function` would look
    assert becomes(lambda: table.evaluate("e => e.scrollLeft > 0"))
    page.set_viewport_size({"width": 1400, "height": 900})
    assert becomes(lambda: table.evaluate("e => e.tabIndex === -1"))


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_the_theme_follows_the_reader_until_it_is_chosen(site: Path, open_page) -> None:
    page = open_page(site / "index.html", color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(BACKGROUND)
    assert dark != light
    switch = page.locator("#site-theme")
    switch.click()  # from the reader's preference to light, then to dark
    switch.click()
    assert page.evaluate(BACKGROUND) == dark
    assert page.evaluate("document.documentElement.dataset.jpThemeLight") == "false"  # for widgets
    page.reload()
    assert page.evaluate(BACKGROUND) == dark  # it is remembered
    assert "dark" in (switch.get_attribute("aria-label") or "")


def test_search_finds_names_and_words_with_the_keyboard(site: Path, open_page) -> None:
    page = open_page(site / "training" / "grpo.html")
    page.keyboard.press("/")
    page.keyboard.type("parse_trace")
    results = page.locator("#site-results a")
    results.first.wait_for()
    assert results.first.inner_text().startswith("parse_trace\n")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#site-results') !== null")
    page.keyboard.press("Enter")
    page.wait_for_url("**/core/trace.html#parse_trace")
    page.locator("#site-query").fill("zero advantages dead groups")
    results.first.wait_for()
    assert any("GRPO" in text for text in results.all_inner_texts())
    page.locator("#site-query").fill("<img src=x onerror=alert(1)> qqq")
    page.locator("#site-results p", has_text="Nothing has").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#site-results").is_hidden()
    assert page.requested == [] and page.errors == []


def test_checks_are_closed_and_open_at_a_click(site: Path, open_page) -> None:
    page = open_page(site / "core" / "trace.html")
    assert page.locator("main details[open]").count() == 0
    fold = page.locator("details.checks").first
    assert not fold.locator("pre").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("pre").first.is_visible()


def test_contents_on_a_phone(site: Path, open_page) -> None:
    page = open_page(site / "training" / "grpo.html", viewport={"width": 320, "height": 640})
    chapter = page.locator("#site-parts a", has_text="5.1 Outcome rewards")
    assert not chapter.is_visible()
    page.locator("#site-menu").click()
    assert page.locator("#site-menu").get_attribute("aria-expanded") == "true"
    chapter.click()
    page.wait_for_url("**/training/outcome_rewards.html")


def test_skip_link_landmarks_and_neighbours(site: Path, open_page) -> None:
    page = open_page(site / "training" / "grpo.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "site-main"
    for role in ("banner", "main", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1, role
    assert page.locator("[aria-current=page]").inner_text() == "5.16 GRPO"
    page.locator("a[rel=next]").click()
    page.wait_for_url("**/training/recipes.html")
    levels = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all("e => e.map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_policy_lets_nothing_in(site: Path, open_page) -> None:
    """The pages may ask no server, and the frame's own style and script still work."""
    page = open_page(site / "index.html")
    assert page.locator("#site-theme").inner_text() == "Auto"  # the script has run
    assert page.evaluate("fetch('https://example.org').then(() => 'in', () => 'refused')") == (
        "refused"
    )
    assert any("Content Security Policy" in line for line in page.errors)
    picture = page.locator("main img[src*='viewer.gif']")
    assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") > 300


def test_widgets_run_without_a_kernel(site: Path, open_page) -> None:
    page = open_page(site / "tutorials" / "own_video.html")
    viewer = page.locator(".widget .vt").first
    viewer.wait_for()
    assert viewer.locator("[role=slider], button").count() > 0
    assert page.requested == [] and page.errors == []


def test_paper_has_the_text_alone_and_cuts_nothing(site: Path, open_page) -> None:
    page = open_page(site / "training" / "grpo.html", viewport={"width": 700, "height": 900})
    page.emulate_media(media="print")
    for name in ("#site-parts", ".bar", "aside", "details.checks >> nth=0"):
        assert not page.locator(name).is_visible(), name
    wide = "e => e.filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.locator("main pre:visible").evaluate_all(wide) == 0

"""The page in a real browser, from its file: Debian's Chromium, driven by Playwright."""

import shutil

import pytest

from ecood import conformal
from tests.report import example

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        # Root, as CI is, cannot have Chromium's sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(example.page(), "utf-8")
    return path


@pytest.fixture
def page(browser, file):
    """The page just opened; nothing may be said on its console, asked for or fail."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    trouble = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert trouble == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    page.close()


def table(page):
    """The rows of the table: name, score, p-value, …"""
    return page.eval_on_selector_all(
        "#table tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )


def visible(page):
    return page.eval_on_selector_all(
        ".card:not([hidden]) h4 bdi", "all => all.map(e => e.textContent)"
    )


def test_the_gallery_and_the_table_show_all_the_most_ood_first(page):
    order = example.scorer()(example.images()).argsort()[::-1]
    names = [example.names()[i].removeprefix("photos/").replace("\u202e", "\\u202e") for i in order]
    assert visible(page) == names
    assert [row[0] for row in table(page)] == names[:100]
    page.click("#next")
    assert [row[0] for row in table(page)] == names[100:]
    assert page.is_disabled("#next") and page.inner_text("#where") == "101 to 130 of 130"
    assert page.locator(".card img").evaluate_all("all => all.every(i => i.naturalWidth > 0)")


def test_the_slider_moves_the_count_to_what_is_ood_says(page):
    scorer, images = example.scorer(), example.images()
    n = len(scorer.calibration)
    page.focus("#level")
    assert page.inner_text("#told") == "5 %"
    places = []
    for key, fpr in (("Home", 0.03), ("ArrowRight", 0.05), ("ArrowRight", 0.07), ("End", 0.5)):
        page.keyboard.press(key)
        flagged = scorer.is_ood(images, fpr)
        assert page.inner_text("#told") == f"{100 * fpr:g} %"
        assert page.inner_text("#flagged") == str(flagged.sum())
        assert page.inner_text("#expected") == f"{conformal.expected_fpr(n, fpr) * len(images):.3g}"
        assert page.locator(".card.is-flagged").count() == flagged.sum()
        places.append(float(page.get_attribute("#limit", "x1")))
    assert places == sorted(places, reverse=True) and places[0] > places[-1]


def test_filters_filter_and_follow_the_slider(page):
    scorer, images = example.scorer(), example.images()
    page.select_option("#status", "flagged")
    count = scorer.is_ood(images, 0.05).sum()
    assert len(visible(page)) == len(table(page)) == count
    page.focus("#level")
    page.keyboard.press("End")
    assert len(visible(page)) == scorer.is_ood(images, 0.5).sum()
    page.select_option("#status", "rest")
    assert page.inner_text("#matching") == f"{(~scorer.is_ood(images, 0.5)).sum()} match"
    page.select_option("#status", "all")
    page.fill("#name", "ONERROR")
    assert visible(page) == [example.NASTY]
    page.fill("#name", "no such")
    assert visible(page) == table(page) == [] and page.is_visible("#none")
    page.select_option("#status", "damaged")
    assert page.is_visible("#damaged") and not page.is_visible("#scored")
    assert f"{example.NASTY} cannot be decoded" in page.inner_text("#damaged")
    assert "In all 8 images." in page.inner_text("#damaged")


def test_sorting_sorts_both(page):
    page.select_option("#sort", "order")
    assert visible(page)[:3] == ["000.png", "001.png", "002.png"]
    page.select_option("#sort", "-similarity")
    similarity = [float(row[4]) for row in table(page)]
    assert similarity == sorted(similarity)
    assert visible(page)[:100] == [row[0] for row in table(page)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_in_both_schemes(browser, file, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, back.removeprefix("rgb(").removesuffix(")").split(","))) > 380
    assert light == (scheme == "light")
    page.close()


def test_it_can_be_read_without_script(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".card").count() == example.COUNT
    assert page.inner_text("#flagged") == str(example.scorer().is_ood(example.images()).sum())
    context.close()


def test_everything_has_a_name_and_a_heading(page):
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(e => !(e.labels?.length "
        "|| e.textContent.trim() && e.tagName === 'BUTTON')).length"
    )
    assert unnamed == 0
    levels = page.eval_on_selector_all(
        "h1, h2, h3, h4", "all => all.map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.eval_on_selector_all("svg", "all => all.every(s => s.getAttribute('aria-label'))")

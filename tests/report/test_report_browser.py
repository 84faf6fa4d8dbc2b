"""The pages of ``fastretina.report`` in Chromium: clicked, narrowed and printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser, browsing
from contrast import LEAST, contrasts, luminance
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image
from report_pages import FIGURES, HOSTILE, write_experiment
from reported_runs import edit, predicted, renamed, write_run
from small_runs import Outcome

from fastretina.metrics.figures import draw_matrix
from fastretina.metrics.predictions import Predictions
from fastretina.report.template import asset

Reports = Callable[..., Outcome]


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "experiment", finished)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, finished: Path) -> Iterator[Browser]:
    """The run's page in a fresh window; nothing may have been complained of."""
    browser.prefer("light")
    browser.complaints()
    browser.open(finished / "report.html")
    yield browser
    assert browser.complaints() == []


def column(browser: Browser, number: int) -> list[str]:
    return browser.texts(f"#photographs tbody td:nth-child({number})")


def count(browser: Browser) -> int:
    return int(browser.find("#shown").text.partition(" ")[0].replace(",", ""))


def test_browser_draws_every_figure(opened: Browser):
    seen = opened.run(
        "return [...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt])"
    )
    assert len(seen) == len(FIGURES)
    assert all(drawn > 0 and shown > 200 and alt for drawn, shown, alt in seen)


def test_browser_sorts_both_ways_and_says_which(opened: Browser, finished: Path):
    test = Predictions.load(finished / "test.parquet")
    sure = np.rint(1000 * test.probabilities.max(axis=1))
    heading = "#photographs th:nth-child(4)"
    button = opened.find(f"{heading} button")
    button.click()
    assert opened.find(heading).get_attribute("aria-sort") == "descending"
    highest = [f"{value / 10:.1f}%" for value in np.sort(sure)[::-1][:25]]
    assert column(opened, 4) == highest
    button.click()
    assert opened.find(heading).get_attribute("aria-sort") == "ascending"
    assert column(opened, 4) == [f"{value / 10:.1f}%" for value in np.sort(sure)[:25]]
    opened.find("#photographs th:nth-child(8) button").click()
    assert opened.find(heading).get_attribute("aria-sort") == "none"
    numbers = sorted(map(int, test.patients))[:25]
    assert column(opened, 8) == [str(number) for number in numbers]


def test_browser_filters_by_each_field_and_counts(opened: Browser, finished: Path):
    from selenium.webdriver.support.ui import Select

    test = Predictions.load(finished / "test.parquet")
    wrong = test.grades != test.labels
    assert count(opened) == 120
    Select(opened.find("#filter-true")).select_by_value("2")
    assert count(opened) == (test.labels == 2).sum() > 0
    assert set(column(opened, 2)) == {"2 Moderate"}
    Select(opened.find("#filter-predicted")).select_by_value("0")
    both = (test.labels == 2) & (test.grades == 0)
    assert count(opened) == both.sum()
    Select(opened.find("#filter-true")).select_by_value("")
    assert count(opened) == (test.grades == 0).sum() > 0
    assert set(column(opened, 3)) == {"0 No DR"}
    opened.find("#filter-wrong").click()
    assert count(opened) == ((test.grades == 0) & wrong).sum()
    opened.find("#filter-reset").click()
    assert count(opened) == 120
    opened.find("#filter-wrong").click()
    assert count(opened) == wrong.sum()
    opened.find("#filter-reset").click()
    opened.find("#filter-text").send_keys("1_LEFT")
    wanted = [key for key in test.keys if "1_left" in key]
    assert count(opened) == len(wanted) > 1
    assert column(opened, 1) == wanted
    opened.find("#filter-text").send_keys("nobody")
    assert count(opened) == 0
    assert column(opened, 1) == []


def test_browser_turns_pages(opened: Browser, finished: Path):
    test = Predictions.load(finished / "test.parquet")
    assert column(opened, 1) == test.keys[:25]
    before, after = opened.find("#page-before"), opened.find("#page-after")
    assert not before.is_enabled()
    for _ in range(4):
        after.click()
    assert column(opened, 1) == test.keys[100:]
    assert not after.is_enabled()
    before.click()
    assert column(opened, 1) == test.keys[75:100]


def test_browser_sorts_by_keyboard(opened: Browser):
    button = opened.find("#photographs th:nth-child(5) button")
    opened.run("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    off = [int(text) for text in column(opened, 5)]
    assert off == sorted(off, reverse=True)
    assert off[0] > 0


@pytest.mark.parametrize("width", [320, 360, 414, 768])
def test_browser_shows_it_on_a_phone_without_scrolling_sideways(
    opened: Browser, width: int
):
    opened.resize((width, PHONE[1]))
    seen = opened.run(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth]"
    )
    assert max(seen) <= width
    narrow = opened.run(
        "return [...document.querySelectorAll('figure img')].map(i => i.clientWidth)"
    )
    assert min(narrow) > 0.8 * min(width, 400) - 40
    opened.resize(DESKTOP)


def test_browser_prints_it_without_the_table_of_photographs(opened: Browser):
    assert opened.printed().startswith(b"%PDF-")
    opened.prefer("light", media="print")
    assert not opened.find("#samples").is_displayed()
    assert not opened.find("nav").is_displayed()
    assert opened.find(".tiles").is_displayed()
    assert all(image.is_displayed() for image in opened.all("figure img"))
    opened.prefer("light", media="screen")


def test_browser_unfolds_the_config_for_print(opened: Browser):
    folded = "return [...document.querySelectorAll('details')].map(d => d.open)"
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    assert all(opened.run(folded))
    opened.run("window.dispatchEvent(new Event('afterprint'))")
    assert not any(opened.run(folded))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_has_contrast_in_either_scheme(opened: Browser, scheme: str):
    opened.prefer(scheme)
    opened.run(UNFOLD)
    opened.find("#filter-reset").click()  # whatever other tests have filtered
    opened.find("#filter-wrong").click()
    found = contrasts(opened)
    assert len(found) > 500
    assert found[0].ratio >= LEAST, found[:5]
    shade = opened.run("return getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", shade)[:3])) < 150
    assert dark == (scheme == "dark")
    opened.resize(PHONE)
    assert contrasts(opened)[0].ratio >= LEAST
    opened.resize(DESKTOP)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_prints_with_contrast_whatever_the_scheme(opened: Browser, scheme: str):
    opened.prefer(scheme, media="print")
    opened.run(UNFOLD)
    found = contrasts(opened)
    opened.prefer("light", media="screen")
    assert found[0].ratio >= LEAST, found[:5]


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_experiments_with_contrast(
    browser: Browser, experiment: Path, reports: Reports, scheme: str, media: str
):
    edit(experiment / "experiment.json", notes=["Something is left out."])
    assert reports(experiment).code == 0
    browser.prefer(scheme, media=media)
    browser.open(experiment / "report.html")
    found = contrasts(browser)
    browser.resize(PHONE)
    found += contrasts(browser)
    browser.prefer("light", media="screen")
    worst = min(found)
    assert worst.ratio >= LEAST, worst
    assert any("failed" in each.where for each in found)
    assert any("verdict" in each.where for each in found)


def test_contrast_is_measured_through_opacity_and_in_what_css_writes(
    browser: Browser, tmp_path: Path
):
    page = tmp_path / "page.html"
    page.write_text(
        "<style>body{background:#fff;color:#000} .half{opacity:.5} .grey{color:#777}"
        ".after::after{content:'x';color:#aaa}</style><p>black</p>"
        "<p class=half>half</p><p class=grey>grey</p><p class=after>after</p>"
        "<p hidden style='color:#fff'>hidden</p>"
    )
    browser.prefer("light")
    browser.open(page)
    found = {each.text: round(each.ratio, 2) for each in contrasts(browser)}
    assert found == {
        '"x"': 2.32,
        "half": 3.98,
        "grey": 4.48,
        "black": 21.0,
        "after": 21.0,
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_confusion_matrix_has_contrast_in_either_scheme(
    browser: Browser, tmp_path: Path, scheme: str
):
    """Its text, its foot and its cells, as the page's style shows a figure."""
    axis = MatplotlibFigure().subplots()
    image = draw_matrix(axis, (100 * np.eye(5)).astype(int).tolist(), "shares")
    (ink,) = {to_rgb(text.get_color()) for text in axis.texts}
    cells = image.to_rgba(np.linspace(0, 1, 16))[:, :3]
    drawn = np.vstack([[ink], cells]).repeat(40, axis=0)[None].repeat(40, axis=0)
    swatches = Image.fromarray(np.rint(255 * drawn).astype(np.uint8))
    swatches.save(tmp_path / "swatches.png")
    (tmp_path / "page.html").write_text(
        f"<style>{asset('report.css')}</style>"
        "<figure><img src=swatches.png style='width:680px;max-width:none'></figure>"
    )
    browser.prefer(scheme)
    browser.open(tmp_path / "page.html")
    browser.photograph(tmp_path / "shot.png", whole=False)
    box = browser.run(
        "const r = document.images[0].getBoundingClientRect(); return [r.x, r.y]"
    )
    browser.prefer("light")
    with Image.open(tmp_path / "shot.png") as shot:
        seen = [
            shot.convert("RGB").getpixel((int(box[0]) + 20 + 40 * n, int(box[1]) + 20))
            for n in range(17)
        ]
    text, *behind = [luminance(colour) for colour in seen]
    assert (text > behind[0]) == (scheme == "dark")
    ratios = [(max(text, cell) + 0.05) / (min(text, cell) + 0.05) for cell in behind]
    assert min(ratios) >= LEAST


UNFOLD = "for (const each of document.querySelectorAll('details')) each.open = true"


def test_browser_shows_hostile_names_as_text(
    browser: Browser, tmp_path: Path, reports: Reports
):
    test = renamed(predicted(30), [(HOSTILE, HOSTILE, "left")])
    test.probabilities[0] = [0, 0, 0, 0, 1]
    run = write_run(tmp_path / "run", test)
    assert reports(run).code == 0
    browser.complaints()
    browser.open(run / "report.html")
    assert browser.complaints() == []
    assert browser.driver.title == "run: report"
    assert column(browser, 1)[0] == HOSTILE
    assert column(browser, 8)[0] == HOSTILE
    assert HOSTILE in browser.texts(".mistakes h4")


def test_browser_forbids_what_the_page_does_not_hold(opened: Browser):
    opened.run(
        "const image = new Image(); image.src = 'https://example.org/x.png';"
        "document.body.append(image);"
        "const script = document.createElement('script');"
        "script.textContent = 'document.title = \"gotcha\"';"
        "document.body.append(script);"
    )
    assert opened.driver.title != "gotcha"
    told_of = opened.complaints()
    assert len(told_of) >= 2
    assert all("Content Security Policy" in line for line in told_of)


def test_browser_browses_7026_photographs_at_once(
    browser: Browser, tmp_path: Path, reports: Reports
):
    run = write_run(tmp_path / "run", predicted(7026))
    assert reports(run).code == 0
    browser.open(run / "report.html")
    assert browser.find("#shown").text == "7,026 of 7,026 photographs, 1 to 25 here"
    took = browser.run(
        "const begun = performance.now();"
        "document.querySelector('#photographs th:nth-child(4) button').click();"
        "return performance.now() - begun"
    )
    assert took < 500  # ms; 20 on an idle core


def test_browser_sorts_the_cells_of_an_experiment(
    browser: Browser, experiment: Path, reports: Reports
):
    path = experiment / "experiment.json"
    cells = json.loads(path.read_text())["cells"]
    for score in cells[0]["scores"].values():
        score["mean"] = 0.6  # below that of b, which says one grade for all
    edit(path, cells=[*cells, cells[0] | {"title": "Cell e"}])
    again = json.loads(path.read_text())["cells"]
    for score in again[4]["scores"].values():
        score["mean"] = 0.5
    edit(path, cells=again)
    assert reports(experiment).code == 0
    browser.complaints()
    browser.open(experiment / "report.html")
    names = "#cell-table tbody th"

    def order() -> list[str]:
        return [text.split()[1] for text in browser.texts(names)]

    button = browser.find("#cell-table th:nth-child(3) button")
    button.click()
    assert order() == ["a", "e", "b", "c", "d"]  # what has no score stays below
    button.click()
    assert order() == ["e", "a", "b", "c", "d"]  # and so does one grade for all
    heading = browser.find("#cell-table th:nth-child(3)")
    assert heading.get_attribute("aria-sort") == "ascending"
    (drawn,) = browser.run("return [...document.images].map(i => i.naturalWidth)")
    assert drawn > 0
    browser.resize(PHONE)
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.complaints() == []

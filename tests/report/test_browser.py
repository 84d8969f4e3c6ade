"""The page in a browser: what a person does with it. Needs playwright and Debian's chromium."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.report.pages import METRICS, make_run
from zoo.figures import Figure, write_figure

pytestmark = pytest.mark.long
SIZES = {"wide": (1280, 900), "narrow": (390, 800)}


def make_pictures(folder):
    """Three grids, and a field of two steps."""
    (folder / "samples").mkdir()
    for step in (5, 10, 20):
        Image.fromarray(np.full((8, 8), step, np.uint8)).save(
            folder / "samples" / f"step-{step:07d}.png"
        )
    axis = np.linspace(-1, 1, 6)
    points = np.random.default_rng(0).normal(size=(2, 50, 2)) / 3
    for step in (10, 20):
        arrays = {"real": points[0], "fake": step * points[1] / 20, "x": axis, "y": axis}
        arrays["values"] = axis[:, None] * axis
        figure = Figure("field", "Points and critic", arrays)
        write_figure(figure, folder / "report" / f"plane.step-{step:07d}.npz")


@pytest.fixture
def opened(zoo_cli, tmp_path):
    """Opens the page of two runs; gives it, what it asked for and what it threw."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("there is no chromium")
    make_pictures(make_run(tmp_path / "runs/one"))
    two = make_run(tmp_path / "runs/two", metrics=METRICS.replace("0.375", "0.3"))
    (two / "samples").mkdir()
    for step, row in ((10, "<i>ten\t0.125"), (20, "<i>twenty\t0.25")):
        file = two / "samples" / f"step-{step:07d}.tsv"
        file.write_text(f"text\tsimilarity\n{row}\n", "utf-8")
    assert zoo_cli("report", "runs/one", "runs/two", "-o", "page.html")[0] == 0
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def open_(size, scheme):
            width, height = SIZES[size]
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            asked, thrown = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: thrown.append(str(error)))
            page.goto(f"file://{tmp_path}/page.html")
            page.wait_for_selector("html[data-ready]")
            return page, asked, thrown

        yield open_
        browser.close()


def test_texts_follow_their_slider(opened):
    page, _, thrown = opened("narrow", "light")
    written = card(page, "Samples · two")
    cells = lambda: written.locator("td").all_inner_texts()  # noqa: E731
    assert cells() == ["<i>twenty", "0.2500"]
    written.get_by_role("slider").press("ArrowLeft")
    assert cells() == ["<i>ten", "0.1250"]
    assert written.locator("th").all_inner_texts() == ["text", "similarity"]
    assert thrown == []


def card(page, title):
    return page.locator(".card", has=page.get_by_role("heading", name=title, exact=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_page_fits_its_window_and_asks_the_network_for_nothing(opened, size, scheme):
    page, asked, thrown = opened(size, scheme)
    assert thrown == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    named = page.locator(".modebar-btn").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert "Reset axes" in named
    assert not any("hare" in name for name in named)  # nothing that uploads
    for chart in page.locator(".chart").all():
        assert chart.locator("svg.main-svg").count() > 0
        legend, plot = (chart.locator(part) for part in (".legend", ".nsewdrag"))
        if legend.count():  # stands above what is drawn
            assert (
                legend.bounding_box()["y"] + legend.bounding_box()["height"]
                <= plot.first.bounding_box()["y"] + 2
            )
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(247, 247, 245)") == (scheme == "light")


def test_controls_do_what_they_say(opened):
    page, _, thrown = opened("wide", "light")
    samples = card(page, "Samples · one")
    images = {samples.locator("img").get_attribute("src")}
    slider = samples.get_by_role("slider")
    for step in ("10", "5"):
        slider.press("ArrowLeft")
        assert samples.locator("output").inner_text() == step
        images.add(samples.locator("img").get_attribute("src"))
    assert len(images) == 3

    plane = card(page, "Points and critic · one")
    x = "document.querySelectorAll('.card')[1].querySelector('.chart').data[2].x"
    at_end = page.evaluate(f"Array.from({x}._inputArray || {x})[0]")
    plane.get_by_role("slider").press("ArrowLeft")
    assert plane.locator("output").inner_text() == "10"
    at_ten = page.evaluate(f"Array.from({x}._inputArray || {x})[0]")
    assert at_ten == pytest.approx(at_end / 2, rel=1e-5)
    plane.locator(".steps button").click()
    page.wait_for_function("document.querySelectorAll('.card output')[1].textContent === '20'")
    page.wait_for_function("document.querySelectorAll('.steps button')[1].textContent === '▶'")

    loss = card(page, "loss")
    loss.get_by_label("log").check()
    kind = "node => node.querySelector('.chart').layout.yaxis.type"
    assert loss.evaluate(kind) == "log"
    loss.get_by_label("log").uncheck()
    assert loss.evaluate(kind) == "linear"

    chart = loss.locator(".nsewdrag")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.wait_for_selector(".hoverlayer .legend, .hoverlayer text")
    label = loss.locator(".hoverlayer").text_content()
    assert "one · val" in label
    assert "two · val" in label
    before = loss.evaluate("node => node.querySelector('.chart').layout.xaxis.range[1]")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 90, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    after = loss.evaluate("node => node.querySelector('.chart').layout.xaxis.range[1]")
    assert after < before
    colour = "node => node.querySelector('.chart').data[0].line.color"
    light = loss.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert loss.evaluate(colour) != light
    assert loss.evaluate("node => node.querySelector('.chart').layout.xaxis.range[1]") == after
    assert thrown == []

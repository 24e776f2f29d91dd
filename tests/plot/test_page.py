"""The page of a recording, in a real browser: keys, hover, no errors, both widths, quick."""

import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from patience import HANGS, within
from reattend.plot.page import write_page
from reattend.recording import Recording

pytest.importorskip("plotly")
pytest.importorskip("PIL")


def made(rows=4, layers=6, heads=4, grid=(5, 6), **more):
    rng = np.random.default_rng(0)
    tokens = grid[0] * grid[1]
    image = np.zeros(tokens + 10, bool)
    image[5 : 5 + tokens] = True
    sinks = np.zeros((layers, len(image)), bool)
    sinks[2:, 12] = True
    reading = {
        "layer": 3, "method": "VAR", "segments": ["rest", "<sinks>"], "rows": 4,
        "changed": [0.5, 1.0], "before": [[0.6, 0.4]] * 2, "after": [[0.8, 0.2]] * 2, "found": {},
    }  # fmt: skip
    given = {
        "words": ["A", " </script>", " cat", *(f" w{n}" for n in range(rows))][:rows],
        "picture": rng.integers(0, 255, (50, 60, 3), np.uint8), "grid": grid,
        "settings": {"model": "<tiny>", "methods": ["VAR()"]}, "methods": {"readings": [reading]},
    }  # fmt: skip
    weights = rng.dirichlet(np.ones(tokens), (rows, layers, heads)) / 2
    return Recording(weights, rng.random((rows, layers, heads)), sinks, image, **given | more)


def test_the_page_holds_the_numbers_and_nothing_from_outside(tmp_path):
    recording = made()
    write_page(recording, tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    held = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(held[1])
    assert data["words"] == list(recording.words)
    mean = recording.attention.astype(float).mean((1, 2)).reshape(4, 5, 6)
    np.testing.assert_allclose(data["maps"], mean, atol=1e-5)
    np.testing.assert_allclose(data["mass"], recording.attention.astype(float).sum(-1), atol=1e-4)
    assert data["sinks"] == [7]
    assert "&lt;tiny&gt;" in page
    assert "&lt;sinks&gt; 0.400 &rarr; 0.200" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', page)
    assert [*tmp_path.iterdir()] == [tmp_path / "run.html"]


def test_what_cannot_be_a_page_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_page(made(), tmp_path / "run.txt")
    empty = Recording(np.zeros((1, 2, 2, 0)), np.zeros((1, 2, 2)), np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="must have image tokens"):
        write_page(empty, tmp_path / "run.html")
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keys_and_hover_work_without_errors(browser, tmp_path, width, scheme):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    write_page(made(), tmp_path / "run.html")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
    browser.get((tmp_path / "run.html").as_uri())

    def ask(script):
        return browser.execute_script("return " + script)

    assert ask("document.getElementById('told').textContent").startswith("Word 1 of 4: “A”")
    before = ask("document.getElementById('map').data[0].z[0]")
    body = browser.find_element("tag name", "body")
    body.send_keys(keys.ARROW_RIGHT)
    assert "“</script>”" in ask("document.getElementById('told').textContent")
    assert ask("document.getElementById('map').data[0].z[0]") != before
    assert ask("document.activeElement.textContent") == "</script>"
    body.send_keys(keys.ARROW_LEFT * 3)
    assert ask("document.getElementById('map').data[0].z[0]") == before
    browser.find_elements("css selector", "#words button")[2].click()
    assert ask("document.querySelectorAll('[aria-pressed=true]').length") == 1
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    actions.move_to_element(browser.find_element("id", "mass")).perform()
    end = time.monotonic() + HANGS
    while "layer" not in (told := ask("document.querySelector('#mass .hoverlayer').textContent")):
        assert time.monotonic() < end, f"hover says {told!r}"
    assert re.search(r"layer \d, head \d: 0\.\d+", told)
    assert ask("document.documentElement.scrollWidth") <= width  # nothing reaches off the page
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    if folder := os.environ.get("REATTEND_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/page-{width}-{scheme}.png")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_large_run_opens_in_two_seconds(browser, tmp_path):
    path = tmp_path / "large.html"
    write_page(made(64, 32, 32, (24, 24)), path)

    def process_time():  # of the page's process: a CPU's seconds, not the clock's
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ProcessTime")

    def seconds(_):
        browser.get("about:blank")
        begun = process_time()
        browser.get(path.as_uri())
        assert browser.execute_script("return document.getElementById('map').data.length") == 1
        return process_time() - begun

    browser.execute_cdp_cmd("Performance.enable", {})
    assert within(seconds, 2)

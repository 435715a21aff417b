"""The report in a real Chromium: no error, all curves, nothing wider than the window.

It needs Chromium and its driver (Debian's ``chromium`` and ``chromium-driver``), and Selenium.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.cli import main

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed"),
]

WIDTHS = (1200, 400)


@pytest.fixture(scope="module")
def page(small, tmp_path_factory) -> Path:
    """A report on two runs; the name of one is a long word."""
    folder = tmp_path_factory.mktemp("runs")
    names = {"ppo": "ppo", "reinforce": "reinforce-" + "w" * 80}
    for agent, name in names.items():
        main(["train", *small, "--agent", agent, "--output", str(folder / name)])
    main(["report", *(str(folder / name) for name in names.values()), "--device", "cpu"])
    return folder / "report.html"


@pytest.fixture(scope="module")
def driver():
    """A browser without a window, whose console can be read."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=WIDTHS)
def shown(request, page, driver):
    """The browser with the page, at each width."""
    metrics = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def test_the_console_is_empty_and_nothing_is_loaded(shown, page):
    assert shown.get_log("browser") == []
    loaded = shown.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_curves_are_drawn(shown):
    """Every plot has a size, and a line in it that is longer than a point."""
    plots = shown.execute_script(
        """return [...document.querySelectorAll("figure svg")].map(svg => ({
            width: svg.getBoundingClientRect().width,
            height: svg.getBoundingClientRect().height,
            longest: Math.max(...[...svg.querySelectorAll("g[id^=line2d] path")].map(
                path => path.getTotalLength())),
        }))"""
    )
    assert len(plots) >= 6
    for plot in plots:
        assert plot["width"] > 200 and plot["height"] > 100 and plot["longest"] > 20, plot


def test_nothing_is_wider_than_the_window(shown):
    """Only what can be scrolled by itself, such as the table of settings, may be wider."""
    wide = shown.execute_script(
        """const width = document.documentElement.clientWidth;
        return [...document.querySelectorAll("body *")].filter(element =>
            !element.closest(".wide, svg") && element.getBoundingClientRect().right > width + 1
        ).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert wide == []
    scrolls = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert shown.execute_script(scrolls) <= 0


def test_texts_can_be_read(shown):
    """No text of the page is smaller than 12 pixels, none of a plot is smaller than 6.5."""
    sizes = shown.execute_script(
        """const drawn = [...document.querySelectorAll("figure svg text")].map(text =>
            parseFloat(getComputedStyle(text).fontSize)
            * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b));
        const written = [...document.querySelectorAll("p, td, th, dd, dt, li, small")].map(
            element => parseFloat(getComputedStyle(element).fontSize));
        return [Math.min(...drawn), Math.min(...written)]"""
    )
    assert sizes[0] >= 6.5 and sizes[1] >= 12

"""The page in a real headless Chromium: it renders, its samples can be browsed, and it is alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from rto.report.page import write_report
from run_folders import HOSTILE, WORDS, rollout, write_iteration, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and os.environ.get("CI") != "true",
    reason="no chromium and chromedriver on the path: `make browser` installs them as root",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.fail("CI needs chromium and chromedriver: `make browser`")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; a prompt of the first is hostile, and so are texts of its tokens."""
    root = tmp_path_factory.mktemp("report")
    runs = [write_run(root / name, seed=i) for i, name in enumerate(("rto", "ppo"))]
    ids = [WORDS.index("</script>"), WORDS.index("<b>")]
    for iteration in (0, 2):
        rows = [rollout(n, f"prompt {n}", "one two", float(n)) for n in range(2)]
        write_iteration(runs[0], iteration, [*rows, rollout(2, HOSTILE, HOSTILE, 9.0, ids)])
    target = root / "report.html"
    write_report(runs, target)
    return target


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    return browser


def find(browser: webdriver.Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def text(browser: webdriver.Chrome, selector: str) -> str:
    (element,) = find(browser, selector)
    return element.text


def requested(browser: webdriver.Chrome) -> list[str]:
    """Every address that the page asked for, itself included."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]


def test_it_renders_alone_and_without_a_complaint(opened: webdriver.Chrome, page: Path) -> None:
    assert text(opened, "h1") == "rto · ppo"
    charts = find(opened, ".chart")
    drawn = [chart for chart in charts if chart.is_displayed()]
    assert {"reward/mean", "policy/loss"} <= {c.get_attribute("data-key") for c in drawn}
    for line in drawn[0].find_elements(By.TAG_NAME, "polyline"):
        assert line.size["width"] > 100
    assert [rect for rect in find(opened, ".timeline rect") if rect.size["height"] > 0]
    width = opened.execute_script("return document.documentElement.scrollWidth")
    assert width <= opened.execute_script("return document.documentElement.clientWidth")
    find(opened, "#next")[0].click()
    assert opened.get_log("browser") == []
    assert [url for url in requested(opened) if not url.startswith("data:")] == [page.as_uri()]


def test_a_foreign_request_would_be_seen_and_is_refused(opened: webdriver.Chrome) -> None:
    """What the test above relies on: the logs speak when a page does ask for something."""
    opened.execute_script("new Image().src = 'http://127.0.0.1:9/x.png'")
    said = " ".join(entry["message"] for entry in opened.get_log("browser"))
    assert "Content Security Policy" in said


def test_the_samples_can_be_browsed(opened: webdriver.Chrome) -> None:
    assert text(opened, "#position") == "1 / 3"
    prompts = [text(opened, "#prompt")]
    for _ in range(2):
        find(opened, "#next")[0].click()
        prompts.append(text(opened, "#prompt"))
    assert len(set(prompts)) == 3
    assert text(opened, "#position") == "3 / 3"
    find(opened, "#next")[0].click()
    assert (text(opened, "#position"), text(opened, "#prompt")) == ("1 / 3", prompts[0])
    find(opened, "#previous")[0].click()
    assert text(opened, "#prompt") == prompts[2]


def go_to(browser: webdriver.Chrome, start: str) -> None:
    for _ in range(3):
        if text(browser, "#prompt").startswith(start):
            return
        find(browser, "#next")[0].click()
    raise AssertionError(f"no sample begins with {start!r}")


def test_first_and_last_stand_side_by_side_for_each_run(opened: webdriver.Chrome) -> None:
    go_to(opened, "prompt 0")
    heads = [head.text for head in find(opened, ".response h4 span:first-child")]
    assert heads == ["iteration 1", "iteration 3"] * 2
    left, right = find(opened, ".response")[:2]
    assert left.rect["y"] == right.rect["y"]
    assert left.rect["x"] < right.rect["x"]
    terms = [[part.text for part in left.find_elements(By.TAG_NAME, tag)] for tag in ("dt", "dd")]
    assert dict(zip(*terms, strict=True))["DPO reward"] == "1"


def test_tokens_are_coloured_by_the_dpo_reward_unless_told_otherwise(
    opened: webdriver.Chrome,
) -> None:
    go_to(opened, "prompt 0")

    def colours() -> set[str]:
        return {t.value_of_css_property("background-color") for t in find(opened, ".token")}

    by_dpo = colours()
    assert len(by_dpo) == 1
    assert by_dpo != {"rgba(0, 0, 0, 0)"}
    find(opened, "#colour option[value='']")[0].click()
    assert colours() == {"rgba(0, 0, 0, 0)"}


def test_hostile_text_is_shown_and_does_nothing(opened: webdriver.Chrome) -> None:
    go_to(opened, "</script>")
    assert "onerror" in text(opened, "#prompt")
    assert [token.text.strip() for token in find(opened, ".token")][:2] == ["</script>", "<b>"]
    assert find(opened, "img") == []
    assert opened.execute_script("return window.broken === undefined")


def test_the_legend_hides_a_run(opened: webdriver.Chrome) -> None:
    go_to(opened, "prompt 0")
    assert len(find(opened, ".response")) == 4
    find(opened, "#legend button")[0].click()
    assert [e for e in find(opened, ".run-0") if e.is_displayed()] == []
    assert [e for e in find(opened, ".run-1") if e.is_displayed()]
    assert len(find(opened, ".response")) == 2
    find(opened, "#legend button")[0].click()
    assert len(find(opened, ".response")) == 4


def test_the_pointer_reads_values(opened: webdriver.Chrome) -> None:
    (chart,) = find(opened, ".chart[data-key='reward/mean']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(opened).move_to_element(chart).perform()
    assert text(opened, "#tip").split() == ["2", "rto", "0.5", "ppo", "0.5"]
    bar = find(opened, ".timeline g")[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(opened).move_to_element(bar).perform()
    assert text(opened, "#tip") == "1\ngenerate 1 s\nupdate 2 s\nother 1 s"

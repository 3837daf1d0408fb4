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
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from rto.report.page import write_report
from run_folders import HOSTILE, WORDS, metrics_row, rollout, write_iteration, write_run

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


def points(browser: webdriver.Chrome, selector: str) -> list[tuple[float, float]]:
    (line,) = find(browser, f".chart[data-key='reward/mean'] {selector}")
    pairs = (line.get_attribute("points") or "").split()
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]


def test_the_arrow_keys_read_a_charts_points(opened: webdriver.Chrome) -> None:
    (chart,) = find(opened, ".chart[data-key='reward/mean']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    seen: list[str] = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_RIGHT, Keys.ARROW_LEFT):
        chart.send_keys(key)
        seen.append(text(opened, "#tip").splitlines()[0])
    assert seen == ["1", "2", "3", "3", "2"]
    assert chart.get_attribute("aria-valuetext") == "2, rto 0.5, ppo 0.5"
    chart.send_keys(Keys.ESCAPE)
    assert not find(opened, "#tip")[0].is_displayed()


def test_the_focus_is_seen_wherever_the_tab_key_goes(opened: webdriver.Chrome) -> None:
    reached: set[str] = set()
    for _ in range(60):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        element = opened.switch_to.active_element
        if element.tag_name == "body":
            break
        assert element.value_of_css_property("outline-style") != "none", element.tag_name
        reached.add(element.tag_name)
    assert {"a", "button", "input", "summary", "svg", "div"} <= reached


def test_the_arrow_keys_go_from_bar_to_bar_and_from_token_to_token(
    opened: webdriver.Chrome,
) -> None:
    bars = find(opened, ".timeline")[0]
    bars.send_keys(Keys.END)
    assert text(opened, "#tip").startswith("3\n")
    bars.send_keys(Keys.ARROW_LEFT)
    assert text(opened, "#tip").startswith("2\n")
    go_to(opened, "prompt 0")
    tokens = find(opened, ".response .text")[0]
    tokens.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert text(opened, "#tip").startswith('" two"')
    assert [t.text.strip() for t in find(opened, ".token.at")] == ["two"]


def test_smoothing_draws_a_second_line_over_the_faint_raw_one(opened: webdriver.Chrome) -> None:
    raw = points(opened, ".run-0 polyline")
    (control,) = find(opened, "#smooth")
    control.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert text(opened, "#smoothed") == "0.50"
    assert points(opened, ".run-0 polyline.faint") == raw
    smooth = points(opened, ".run-0 polyline.smooth")
    # Values 0, 0.5, 1 with weights that halve: 0, 0.5/1.5, (0.25 + 1)/1.75. Up is more.
    low, high = raw[0][1], raw[2][1]
    assert [(low - y) / (low - high) for _, y in smooth] == pytest.approx(
        [0, 1 / 3, 1.25 / 1.75], abs=2e-3
    )
    (line,) = find(opened, ".chart[data-key='reward/mean'] .run-0 polyline.faint")
    assert float(line.value_of_css_property("opacity")) < 0.5
    control.send_keys(Keys.HOME)
    assert find(opened, "polyline.smooth") == []
    assert find(opened, ".faint") == []


def test_runs_of_unlike_length_share_an_axis_from_0_to_100_percent(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    runs = [write_run(tmp_path / "a", iterations=2), write_run(tmp_path / "b", iterations=4)]
    write_report(runs, tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())

    def ends() -> list[float]:
        return [points(browser, f".run-{run} polyline")[-1][0] for run in (0, 1)]

    by_share = ends()
    assert by_share[0] == by_share[1]
    (chart,) = find(browser, ".chart[data-key='reward/mean']")
    labels = [each.text for each in chart.find_elements(By.CSS_SELECTOR, "text.x")]
    assert [label for label in labels if label] == ["0%", "25%", "50%", "75%", "100%"]
    chart.send_keys(Keys.HOME)
    assert text(browser, "#tip").split() == ["25%", "of", "the", "run", "b", "0", "at", "1"]
    chart.send_keys(Keys.ARROW_RIGHT)
    assert text(browser, "#tip").split()[-8:] == ["a", "0", "at", "1", "b", "0.5", "at", "2"]
    find(browser, "#share")[0].click()
    shorter, longer = ends()
    assert shorter < longer == by_share[1]


def test_on_a_phone_the_page_is_as_wide_as_the_screen_and_words_stay_whole(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    runs = [write_run(tmp_path / f"a-name-of-some-length-{i}", seed=i) for i in range(4)]
    figures = {f"figure_number_{i}": {"mean": 1.0, "ci95": [0.5, 1.5]} for i in range(6)}
    stages = {"stages": {"rto": {**figures, "kl": 2.0}}}
    (tmp_path / "summary.json").write_text(json.dumps(stages))
    write_report(runs, tmp_path / "report.html")
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get((tmp_path / "report.html").as_uri())
        for details in find(browser, "details:not([open]) > summary"):
            details.click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        boxes = find(browser, ".wide")
        assert [b for b in boxes if int(b.get_property("scrollWidth")) > int(b.size["width"])]  # pyright: ignore[reportArgumentType]
        broken = browser.execute_script(
            "const found = [];"
            "for (const cell of document.querySelectorAll('th, td, p, figcaption, h1')) {"
            "  const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);"
            "  for (let node; node = walk.nextNode();) {"
            "    for (const word of node.data.matchAll(/[A-Za-z]+/g)) {"
            "      const range = document.createRange();"
            "      range.setStart(node, word.index);"
            "      range.setEnd(node, word.index + word[0].length);"
            "      if (range.getClientRects().length > 1) found.push(word[0]);"
            "    }"
            "  }"
            "}"
            "return found;"
        )
        assert broken == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_live_page_loads_itself_again_as_it_was_left(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    target = tmp_path / "report.html"
    write_report(runs, target, reload=2)
    browser.get(target.as_uri())
    find(browser, "#smooth")[0].send_keys(*[Keys.ARROW_RIGHT] * 4)
    find(browser, "#legend button")[1].click()
    find(browser, "#next")[0].click()
    find(browser, "#configuration summary")[0].click()
    prompt = text(browser, "#prompt")
    write_iteration(runs[0], 3, [rollout(9, "prompt 9", "late", 5.0)])
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_row(3)) + "\n")
    write_report(runs, target)
    # While the page loads itself, it has no part for a moment, or one that is about to go.
    waiting = WebDriverWait(browser, 30, ignored_exceptions=[StaleElementReferenceException])
    waiting.until(lambda _: any("4 iterations" in x.text for x in find(browser, "#overview")))
    # The page that came is the last one, which is no live page: it opens as any other.
    assert text(browser, "#smoothed") == "off"
    write_report(runs, target, reload=60)
    browser.refresh()
    assert text(browser, "#smoothed") == "0.20"
    assert find(browser, "#legend button")[1].get_attribute("aria-pressed") == "false"
    assert text(browser, "#prompt") == prompt
    assert find(browser, "#configuration details")[0].get_attribute("open")


def test_the_samples_open_at_the_strongest_token_rewards(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Of the last iteration's two prompts the second is stronger, by its token 350 of 400."""
    folder = write_run(tmp_path / "rto", iterations=1)
    rows = [rollout(n, f"last {n}", "one", 0.0, [1, 2] * 200) for n in range(2)]
    rows[1]["scores"]["dpo"]["tokens"][350] = 9.0
    write_iteration(folder, 1, rows)
    write_report([folder], tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())
    assert text(browser, "#prompt") == "last 1"
    (box,) = find(browser, ".response .text")
    strongest = box.find_elements(By.CSS_SELECTOR, ".token")[350]
    assert (strongest.get_attribute("data-tip") or "").splitlines()[1].endswith("+10.5")
    frame = box.rect
    assert frame["y"] <= strongest.rect["y"] < frame["y"] + frame["height"]
    assert box.get_property("scrollTop") != 0

"""The documentation site: it builds strictly, and a browser reads it from a disk without asking anyone anything.

With AUDIORL_SITE, a folder in which it was built already, that one is opened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.code_blocks import ROOT
from tests.report.browser import chromium

pytest.importorskip("material", reason="pip install 'audiorl[docs]'")


@pytest.fixture(scope="module")
def hooks():
    """The modules beside docs/mkdocs.yml, which are no package."""
    sys.path.insert(0, str(ROOT / "docs"))
    import hooks

    yield hooks
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if "AUDIORL_SITE" in os.environ:
        return Path(os.environ["AUDIORL_SITE"]).resolve()
    folder = tmp_path_factory.mktemp("site")
    command = [
        str(Path(sys.executable).with_name("mkdocs")),
        "build",
        "--strict",
        "--quiet",
        "-f",
        "docs/mkdocs.yml",
        "-d",
        folder,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(browser, address: str) -> list[str]:
    """Open a page and return what it asked for, each address once; its console must be empty."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    deadline = time.monotonic() + 20
    while browser.execute_script("return document.readyState") != "complete":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return sorted({one["request"]["url"] for one in asked if one["documentURL"].startswith("file:")})


@pytest.mark.parametrize("page", ["index", "quickstart", "data", "performance", "reference/trainers"])
def test_a_page_asks_for_files_of_the_site_alone(browser, site, page):
    asked = opened(browser, (site / f"{page}.html").as_uri())
    assert asked
    assert [url for url in asked if not url.startswith((site.as_uri(), "data:", "blob:"))] == []
    assert browser.execute_script("return document.querySelectorAll('article h1').length") == 1


def searched(browser, site, words: str) -> list[str]:
    """Where the results of a search lead, in their order."""
    opened(browser, (site / "index.html").as_uri())
    browser.execute_script(
        """document.querySelector("#__search").checked = true;
        document.querySelector("#__search").dispatchEvent(new Event("change", {bubbles: true}));
        const query = document.querySelector("[data-md-component=search-query]");
        query.focus();
        query.value = arguments[0];
        query.dispatchEvent(new Event("input", {bubbles: true}));
        query.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));""",
        words,
    )
    deadline, found = time.monotonic() + 20, []
    while not found:
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.1)
        found = browser.execute_script(
            "return [...document.querySelectorAll('.md-search-result__link')].map((one) => one.getAttribute('href'))"
        )
    return found


def test_a_word_is_found_without_a_server(browser, site):
    assert any("data.html" in address for address in searched(browser, site, "max_audio_seconds"))
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("learning rate", ("faq.html",)),
        ("oom", ("faq.html",)),
        ("out of memory", ("faq.html",)),
        ("colab", ("notebooks.html", "installation.html")),
        ("wer got worse", ("faq.html",)),
    ],
)
def test_a_question_finds_its_answer_first(browser, site, words, first):
    addresses = searched(browser, site, words)
    assert any(page in addresses[0] for page in first), addresses[:5]


def test_formulas_leave_no_letters_in_what_the_search_shows(site):
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    texts = [one["text"] for one in json.loads(index)["docs"]]
    assert len(texts) > 300
    marks = ("\u2211", "<math", "mrow", "\u2061", "\u03c0\u03b8")
    debris = [text for text in texts for mark in marks if mark in text]
    assert debris == []


def test_stars_of_the_models_table_are_stars(browser, site):
    from tests.trained_models import table

    opened(browser, (site / "families.html").as_uri())
    found = browser.execute_script(
        """const tables = [...document.querySelectorAll("article table")];
        const found = tables.find((one) => /Moonshine/.test(one.textContent) && /distillation/.test(one.textContent));
        return [found.textContent.split("*").length - 1, found.querySelectorAll("em").length];"""
    )
    assert found == [table().count("*"), 0] and found[0] > 50


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("page", ["index", "trainers/grpo", "coming_from/trl", "small_team", "logs"])
def test_pages_fit_the_window(browser, site, page, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        opened(browser, (site / f"{page}.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_formulas_are_folded_and_a_link_opens_them(browser, site):
    opened(browser, (site / "trainers" / "dpo.html").as_uri())
    shown = "return document.querySelector('#the-losses').checkVisibility()"
    assert browser.execute_script(shown) is False
    browser.get((site / "trainers" / "dpo.html").as_uri() + "#the-losses")
    deadline = time.monotonic() + 10
    while not browser.execute_script(shown):
        assert time.monotonic() < deadline
        time.sleep(0.05)


TRAINERS = ("sft", "dpo", "orpo", "kto", "grpo", "raft", "online_dpo", "distillation", "recipes")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_page_of_a_trainer_begins_with_its_use_and_ends_with_its_proofs(trainer):
    text = (ROOT / "docs" / "pages" / "trainers" / f"{trainer}.md").read_text(encoding="utf-8")
    heads = [line.removeprefix("## ") for line in text.split("\n") if line.startswith("## ")]
    assert heads[:4] == ["Use it", "Settings that matter", "Reading the curves", "What goes wrong"]
    use = text[: text.index("## Settings that matter")]
    assert "```python" in use and ("```bash" in use or trainer == "online_dpo")  # which has no command
    folded = text.find("<details")
    assert folded == -1 or "```math" not in text[:folded]


def test_a_formula_is_drawn_by_the_browser_itself(browser, site):
    opened(browser, (site / "performance.html").as_uri())
    height = "return document.querySelector(arguments[0]).getBoundingClientRect().height"
    fraction, letter = (browser.execute_script(height, f".math {part}") for part in ("mfrac", "mfrac mi"))
    assert fraction > 1.5 * letter > 0


def test_a_formula_that_cannot_be_drawn_is_an_error(hooks):
    for latex, unknown in ((r"\nosuch{x}", "nosuch"), (r"\begin{aligned} a &= b \end{aligned}", "&")):
        with pytest.raises(LookupError, match=unknown):
            hooks.site_math.mathml(latex)
    assert "<munder>" in hooks.site_math.mathml(r"\sum_{t} x_t")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("<!-- nosuch: a -->", "There is no marker 'nosuch'"),
        ("<!-- table: nosuch -->", "There is no table 'nosuch'"),
        ("<!-- table: defaults NoConfig -->", "audiorl has no 'NoConfig'"),
        ("<!-- include: NOWHERE.md -->", r"NOWHERE\.md is included and is not there"),
        ("<!-- include: README.md#nowhere -->", "README.md has 0 headings 'nowhere'"),
        ("[a link](nowhere.md)", "leads to 'nowhere.md', which is not there"),
        ("<!-- check: defaults DPOConfig -->\nno table", "No table with a column headed 'default'"),
        ("<!-- check: defaults DPOConfig -->\n| a | default |\n|---|---|\n| `beta` | `0.2` |", "is `0.1`"),
        ("<!-- check: defaults DPOConfig -->\n| a | default |\n|---|---|\n| `bet` | `0.1` |", "no field 'bet'"),
    ],
)
def test_a_source_that_is_gone_stops_the_build_with_its_page(hooks, marker, message):
    from types import SimpleNamespace

    from mkdocs.exceptions import PluginError

    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    with pytest.raises(PluginError, match=f"docs/pages/index.md: .*{message}"):
        hooks.on_page_markdown(marker, page=page)


def test_tables_and_parts_take_the_place_of_their_markers(hooks):
    from types import SimpleNamespace

    def made(text: str, page: str = "trainers/dpo.md") -> str:
        return hooks.on_page_markdown(text, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)))

    fields = made("<!-- table: defaults DPOConfig -->")
    assert "| `beta` | `0.1` | Above 0: how strongly the policy is kept near the frozen one; tau of IPO. |" in fields
    assert "`freeze_encoder`" not in fields and "`freeze_encoder`" in made("<!-- table: defaults SpeechConfig -->")
    assert "`num_generations`" in made("<!-- table: defaults GRPOConfig -->")  # of a class between the two
    for kind in (
        "rewards",
        "corpora",
        "families",
        "commands",
        "trained",
        "losses POLICY_LOSSES",
        "against trl.DPOConfig DPOConfig",
    ):
        assert made(f"<!-- table: {kind} -->").startswith("| ")
    assert "* [Quick start](quickstart.md): From a checkpoint" in made("<!-- table: pages -->", "index.md")
    source = "benchmarks/README.md#which-method-lowers-the-wer-of-speakers-that-it-never-heard"
    indented = made(f"<!-- include: {source} -->")
    assert indented.startswith("    python benchmarks/leave_one_out.py"), "code by its indent stays code"
    wer = "what-does-each-method-do-to-the-wer-of-real-unseen-speech-given-equal-time"
    part = made(f"<!-- include: benchmarks/README.md#{wer} -->")
    assert "LibriSpeech (226 clips" in part and "](../drawings/wer_after" in part and "## " not in part
    measured = made("<!-- include: benchmarks/README.md#what-does-one-grpo-step-cost/measured -->")
    assert measured.startswith("2026-11-21, commit") and "One GRPO step, 2 x 8" in measured
    assert made("see [this](../../../audiorl/batch.py)") == "see this (`audiorl/batch.py`)"
    in_code = "```text\n<!-- table: nosuch -->\n```"
    assert made(in_code) == in_code

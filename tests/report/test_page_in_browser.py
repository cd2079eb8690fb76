"""The page in a real browser: it plays, sorts, filters, shows differences, runs nothing of its texts, stays quick."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl.datasets import speech_rows
from audiorl.evaluation import Decoded
from audiorl.report import write_report
from audiorl.report.run_folder import Systems, leave_evaluation
from audiorl.text.tasks import Labels
from tests.report.browser import chromium
from tests.report.example_run import SCRIPT, write_lines, write_recipe, write_run, write_three

ROWS = "#clip-list tbody tr"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run of 60 clips, six of them with audio, of which 8 kB are embedded; its folder's name is nasty, too."""
    run = write_run(tmp_path_factory.mktemp("runs") / 'a <b> & "c"\'', count=60, clips=6)
    return write_report(run, audio_megabytes=0.008)


def opened(browser, page):
    """The page, fresh, drawn, and the logs of before forgotten."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.resolve().as_uri())
    deadline = time.monotonic() + 20
    while browser.execute_script("return document.documentElement.dataset.ready") != "true":
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.05)
    return browser


def js(browser, expression: str):
    return browser.execute_script(f"return {expression}")


def shown(browser, selector: str) -> list[str]:
    return js(browser, f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")


def choose(browser, label: str, text: str) -> None:
    browser.execute_script(
        """const list = document.querySelector(`[aria-label="${arguments[0]}"]`);
        list.selectedIndex = [...list.options].findIndex((option) => option.text === arguments[1]);
        for (const kind of ["input", "change"]) list.dispatchEvent(new Event(kind, {bubbles: true}));""",
        label,
        text,
    )


def search(browser, text: str) -> None:
    browser.execute_script(
        """const box = document.querySelector('#clip-list input[type="search"]');
        box.value = arguments[0];
        box.dispatchEvent(new Event("input"));""",
        text,
    )


def changes(browser) -> list[int]:
    """The change of each row on the page, "-3" and an arrow."""
    cells = js(browser, f"[...document.querySelectorAll('{ROWS}')].map((row) => row.lastChild.firstChild.textContent)")
    return [int(cell.replace("\u2212", "-")) for cell in cells]


def test_nothing_is_fetched_and_the_console_is_silent(browser, page):
    opened(browser, page)
    sections = shown(browser, "section > h2")
    assert [title.split(":")[0] for title in sections] == [
        *("Summary", "Learning curves", "Clips", "Where the errors are", "Pairs", "Groups", "Checkpoints")
    ]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    own = [one["request"]["url"] for one in asked if one["documentURL"] == page.resolve().as_uri()]
    assert [url for url in own if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.get_log("browser") == []


def test_markup_in_texts_is_shown_and_not_run(browser, page):
    opened(browser, page)
    assert browser.title == page.parent.name and shown(browser, "h1") == [page.parent.name]
    search(browser, "<script>document.title")
    assert len(shown(browser, ROWS)) == 1 and SCRIPT in shown(browser, ROWS)[0]
    search(browser, "</script><!--")
    assert "a &amp; b </script><!-- <script> \u2028 " in shown(browser, ROWS)[0]
    search(browser, "\\u003c")
    assert '"quoted" \\u003c back\\slash' in shown(browser, ROWS)[0]
    assert any("<script>document.title" in text for text in shown(browser, "#group-list .line"))
    assert js(browser, "document.querySelectorAll('#page script, #page img').length") == 0
    assert browser.title == page.parent.name and browser.get_log("browser") == []


def test_clips_play(browser, page):
    opened(browser, page)
    choose(browser, "Order", "Place in the data")
    data = json.loads(js(browser, "document.getElementById('data').textContent"))
    audio = [clip["audio"] for clip in sorted(data["evaluations"][0]["clips"], key=lambda clip: clip["place"])]
    embedded = next(place for place, one in enumerate(audio) if "embedded" in one)
    linked = next(place for place, one in enumerate(audio) if not one.get("link", "http").startswith("http"))
    for row, kind in ((embedded, "blob:"), (linked, "file:")):
        button = f"document.querySelectorAll('{ROWS}')[{row}].querySelector('button.sound')"
        assert js(browser, f"{button}.getAttribute('aria-label')") == f"Play clip-{row:05d}"
        browser.execute_script(f"{button}.click()")
        sound = f"document.querySelectorAll('{ROWS}')[{row}].querySelector('audio')"
        deadline = time.monotonic() + 10
        while not js(browser, f"{sound}.currentTime > 0.1 && {sound}.readyState >= 2"):
            assert time.monotonic() < deadline, js(browser, f"[{sound}.error && {sound}.error.message, {sound}.src]")
            time.sleep(0.05)
        assert js(browser, f"{sound}.currentSrc").startswith(kind)
        assert js(browser, f"{sound}.duration") == pytest.approx(1.0, abs=0.15)
        # only what lies inside the page can be drawn; the others say so and have their marks all the same
        place = f"document.querySelectorAll('{ROWS}')[{row}].querySelector('.wave')"
        assert js(browser, f"{place}.querySelector('.wave-picture').hidden") is (kind == "file:")
        assert ("Only clips inside this file are drawn" in js(browser, f"{place}.textContent")) is (kind == "file:")
        assert js(browser, f"{place}.querySelectorAll('.at').length") == len(
            js(browser, f"[...document.querySelectorAll('{ROWS}')[{row}].querySelectorAll('.error.jump')]")
        )
    # one at a time
    sounds = f"[{embedded}, {linked}].map((row) => document.querySelectorAll('{ROWS}')[row].querySelector('audio'))"
    assert js(browser, f"{sounds}.map((one) => one.paused)") == [True, False]
    assert (
        js(browser, f"document.querySelectorAll('{ROWS}')[10].querySelector('a.sound').href") == "https://example/a.wav"
    )
    assert browser.get_log("browser") == []


def test_clips_are_sorted_by_orders_and_by_column_heads(browser, page):
    opened(browser, page)
    first = changes(browser)
    assert first == sorted(first) and first[0] < 0 and len(first) == 50
    choose(browser, "Order", "Most worsened first")
    worst = changes(browser)
    assert worst == sorted(worst, reverse=True) and worst[0] > 0
    head = "document.querySelectorAll('#clip-list thead button')[0]"
    for direction in ("ascending", "descending"):
        browser.execute_script(f"{head}.click()")
        names = shown(browser, f"{ROWS} .clip b")
        assert names == sorted(names, reverse=direction == "descending")
        assert js(browser, f"{head}.parentElement.getAttribute('aria-sort')") == direction
    assert js(browser, "document.querySelectorAll('#clip-list [aria-sort]').length") == 1


def test_clips_are_filtered_and_turned_page_by_page(browser, page):
    opened(browser, page)
    count = "#clip-list .count"
    assert shown(browser, count) == ["1\u201350 of 60 clips"]
    browser.execute_script("document.querySelector('#clip-list [aria-label=\"Next page\"]').click()")
    assert shown(browser, count) == ["51\u201360 of 60 clips"] and len(shown(browser, ROWS)) == 10
    choose(browser, "Speaker", "2035")
    assert shown(browser, count) == ["1\u201320 of 20 clips (60 in all)"]
    assert all("speaker 2035" in row for row in shown(browser, ROWS))
    choose(browser, "Outcome", "more errors after")
    assert all(change > 0 for change in changes(browser))
    search(browser, "no such words")
    assert shown(browser, ROWS) == [] and shown(browser, count) == ["0 clips (60 in all)"]
    reset = "[...document.querySelectorAll('#clip-list button')].find((one) => one.textContent === 'Reset')"
    browser.execute_script(f"{reset}.click()")
    assert shown(browser, count) == ["1\u201350 of 60 clips"]
    browser.execute_script(
        "[...document.querySelectorAll('#errors .link')].find((e) => e.textContent === '1919').click()"
    )
    assert shown(browser, count) == ["1\u201320 of 20 clips (60 in all)"]


def test_differences_have_a_colour_and_a_mark_for_each_kind(browser, page):
    opened(browser, page)
    for kind, mark in (("substitution", "~"), ("insertion", "+"), ("deletion", "\u2212")):
        marks = set(shown(browser, f"{ROWS} .error.{kind} .mark"))
        assert marks == {mark}
    colours = [
        js(browser, f"getComputedStyle(document.querySelector('#clips .error.{kind}')).backgroundColor")
        for kind in ("substitution", "insertion", "deletion")
    ]
    assert len(set(colours)) == 3 and "rgba(0, 0, 0, 0)" not in colours
    pair = "document.querySelector('#pair-list .differences')"
    assert js(browser, f"{pair}.textContent").startswith("long ~paperpepper is +plant +<script>")
    assert shown(browser, "#group-list .card:first-child .reward") == ["0.75", "0.5", "0.25", "no reward"]


def test_what_was_kept_of_a_group_is_marked_and_filtered(browser, page):
    opened(browser, page)
    assert shown(browser, "#group-list .kept-mark") == ["\u2713 kept "]
    marked = shown(browser, "#group-list .card:first-child .line")
    assert [line.startswith("0.75\u2713 kept long pepper") for line in marked] == [False, True, False, False, False]
    assert "1 of 4 kept" in shown(browser, "#group-list .card:first-child .about")[0]
    for choice, count in (
        ("something kept", "1\u20131 of 1 groups (30 in all)"),
        ("All groups", "1\u201310 of 30 groups"),
    ):
        choose(browser, "Kept", choice)
        assert shown(browser, "#group-list .count") == [count]
    assert browser.get_log("browser") == []


def test_light_and_dark_differ(browser, page):
    opened(browser, page)
    colours = []
    for _ in range(2):
        colours.append(js(browser, "getComputedStyle(document.body).backgroundColor"))
        browser.execute_script("document.querySelector('.theme').click()")
    assert len(set(colours)) == 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser, page, theme):
    """WCAG 2.1, 1.4.3: a contrast of 4.5 at least, in both themes."""
    opened(browser, page)
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    contrasts = browser.execute_script(
        """const channels = (colour) => {
          const context = document.createElement("canvas").getContext("2d");
          context.fillStyle = colour;
          context.fillRect(0, 0, 1, 1);
          return [...context.getImageData(0, 0, 1, 1).data];
        };
        const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
          .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
          .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
        const behind = (element) => {
          for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (channels(colour)[3] === 255) return colour;
          }
        };
        return Object.fromEntries(arguments[0].map((selector) => {
          const element = document.querySelector(selector);
          const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
          return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        }));""",
        [
            *("h1", ".quiet", ".note", "nav a", ".link", "#clip-list .label", "#clip-list small", "thead th"),
            *(".error.substitution", ".error.insertion", ".error.deletion", ".better", ".model", "select", ".count"),
        ],
    )
    assert min(contrasts.values()) >= 4.5, contrasts
    choose(browser, "Order", "Most worsened first")
    assert js(browser, f"getComputedStyle(document.querySelector('{ROWS} .worse')).color") in (
        *("rgb(179, 74, 0)", "rgb(240, 138, 60)"),  # 5.5 on white, 7.1 on the dark sheet
    )


def test_a_clip_is_played_and_an_error_reached_by_the_keyboard_alone(browser, waved_page):
    opened(browser, waved_page)
    browser.execute_script(
        "document.querySelector('.export button').scrollIntoView(); document.querySelector('#clip-list select').focus()"
    )
    for _ in range(20):  # tab
        js(browser, "document.activeElement").send_keys("\ue004")
        if js(browser, "document.activeElement.className") == "sound":
            break
    assert js(browser, "document.activeElement.getAttribute('aria-label')").startswith("Play")
    js(browser, "document.activeElement").send_keys(" ")
    passed = []
    for _ in range(6):
        js(browser, "document.activeElement").send_keys("\ue004")
        passed.append(js(browser, "document.activeElement.getAttribute('aria-label')") or "")
        if "play from there" in passed[-1]:
            break
    assert passed[-1].startswith("before: ")
    assert js(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_curves_tell_their_values(browser, page):
    opened(browser, page)
    titles = shown(browser, "#curves > .charts figcaption")
    assert [title.removesuffix(" last") for title in titles] == [
        *("Error rate", "Loss", "Reward", "Parts of the reward", "KL", "Entropy")
    ]
    assert shown(browser, "#curves figure:first-child .keys .name") == ["wer", "eval_wer", "eval_cer"]
    browser.execute_script("document.querySelector('#curves details').open = true")
    time.sleep(0.1)
    gradient = "[...document.querySelectorAll('figure')].find((one) => one.textContent.startsWith('Gradient norm'))"
    path = js(browser, f"{gradient}.querySelector('.curve').getAttribute('d')")
    assert path.count("M") == 2 and "NaN" not in path  # a gap where a value was not a number
    assert shown(browser, "#checkpoints tbody tr")[0].startswith("checkpoint-2020")


def test_ten_thousand_clips_stay_quick(browser, tmp_path):
    run = write_run(tmp_path / "large", count=500, clips=2)
    document = json.loads((run / "evaluation.json").read_text())
    for measured in document["measurements"]:
        measured["clips"] *= 20
    (run / "evaluation.json").write_text(json.dumps(document))
    large = opened(browser, write_report(run))
    loading = js(large, "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert js(large, f"document.querySelectorAll('{ROWS}').length") == 50
    took = {"loading": loading}
    for name, action in (
        ("sorting", "document.querySelectorAll('#clip-list thead button')[0].click()"),
        ("searching", "box.value = 'pepper'; box.dispatchEvent(new Event('input'))"),
        ("confusions", "document.querySelector('#confusion-list tbody .link').click()"),
        ("all again", "document.querySelector('#clip-list .chip').click()"),
        ("turning", "document.querySelector('#clip-list [aria-label=\"Last page\"]').click()"),
    ):
        box = "const box = document.querySelector('#clip-list input[type=\"search\"]');"
        start, end = "const start = performance.now()", "return performance.now() - start"
        took[name] = large.execute_script(f"{box} {start}; {action}; document.body.offsetHeight; {end}")
    print({name: f"{milliseconds:.0f} ms" for name, milliseconds in took.items()})
    assert took.pop("loading") < 6000 and max(took.values()) < 1000, took


def test_no_address_that_may_be_code_becomes_a_link(browser, page):
    opened(browser, page)
    made = 'make("a", {href: address}).hasAttribute("href") || make("audio", {src: address}).hasAttribute("src")'
    bad = [
        "javascript:alert(1)",
        "java\nscript:alert(1)",
        "\u0001javascript:x",
        "vbscript:x",
        "file:///a",
        " https://x",
    ]
    good = ["https://x/a", "HTTP://x", "data:,", "blob:x", "a.wav", "../a:b.wav", "#x", "?x:y"]
    for addresses, links in ((bad, False), (good, True)):
        listed = json.dumps(addresses)
        assert js(browser, f"{listed}.map((address) => {made})") == [links] * len(addresses)


@pytest.fixture(scope="module")
def labels_page(tmp_path_factory):
    """A classifier's run, its checkpoints with accuracies, nine parts of a reward, Hebrew pairs without audio."""
    run = tmp_path_factory.mktemp("labels")
    true = ["seven", "nine hundred", "two"] * 10
    rows = [
        {"text": text, "where": f"row {i}", "duration": 1.0, "audio": {"path": "https://x/a.wav", "bytes": None}}
        for i, text in enumerate(true)
    ]
    said = Decoded(true, ["two", "nine hundred", "two"] * 10), Decoded(true, true)
    systems = Systems("base", "tuned", "rows", {"batch_size": 2})
    leave_evaluation(
        run, rows, *said, systems, normalise="basic", task=Labels(["seven", "nine", "nine hundred", "two"])
    )
    parts = {f"rewards/r{i}/mean": i for i in range(9)}
    logs = [{"step": step, "loss": 1 / step, "eval_accuracy": step / 10, **parts} for step in range(1, 6)]
    write_lines(run / "metrics.jsonl", logs)
    (run / "checkpoint-4").mkdir()
    write_lines(run / "checkpoint-4" / "trainer_state.json", [{"global_step": 4, "log_history": []}])
    row = {"row_id": 0, "where": "a-name-of-a-speaker-" * 9, "seconds": 1.0, "audio": None}
    write_lines(run / "report" / "pairs.jsonl", [{**row, "chosen": "שלום עולם", "rejected": "שלום עולים"}])
    return write_report(run)


def test_labels_are_right_or_wrong_as_a_whole(browser, labels_page):
    opened(browser, labels_page)
    tiles = shown(browser, "#summary .tile")
    assert tiles[0].startswith("Wrong labels beforebase33.3\u00a0%") and tiles[0].endswith("10 of 30 labels")
    assert tiles[1].endswith("0 of 30 labels")
    assert "batch_size 2" in shown(browser, "#summary dd")
    assert shown(browser, f"{ROWS}:first-child .differences") == ["~twoseven", "seven"]
    assert shown(browser, "#word-list tbody th") == ["seven"] and "By label" in shown(browser, "#errors h3")
    assert shown(browser, "#checkpoints th")[4] == "Accuracy"
    assert shown(browser, "#checkpoints tbody td")[-1] == "40.00\u00a0%"
    assert "Accuracy last" in shown(browser, "#curves > .charts figcaption")


def test_keys_move_along_a_curve_and_no_two_lines_look_alike(browser, labels_page):
    opened(browser, labels_page)
    loss = "[...document.querySelectorAll('#curves figure')].find((one) => one.textContent.startsWith('Loss'))"
    seen = []
    for key in ("\ue012", "\ue012", "\ue011", "\ue012", "\ue010"):  # left, left, home, left, end
        js(browser, f"{loss}.querySelector('svg')").send_keys(key)
        seen.append(js(browser, f"[{loss}.querySelector('.quiet').textContent, {loss}.querySelector('b').textContent]"))
    assert [step for step, _ in seen] == ["step 4", "step 3", "step 1", "step 1", "step 5"]
    assert [value for _, value in seen] == ["0.25", "0.3333", "1", "1", "0.2"]
    js(browser, "document.activeElement").send_keys("\ue004")  # tab
    assert js(browser, f"{loss}.querySelector('.quiet').textContent") == "last"
    parts = "[...document.querySelectorAll('#curves figure')].find((one) => one.textContent.startsWith('Parts'))"
    looks = f"[...{parts}.querySelectorAll('.sample path')].map((one) => one.outerHTML)"
    assert len(set(js(browser, looks))) == 9


@pytest.fixture(scope="module")
def three_page(tmp_path_factory):
    return write_report(write_three(tmp_path_factory.mktemp("three") / "three.json"))


def test_three_models_stand_side_by_side_with_how_each_was_decoded(browser, three_page):
    opened(browser, three_page)
    tiles = shown(browser, "#summary .tile")
    assert tiles[0].startswith("WER whisper-smallopenai/whisper-small") and "points against whisper-small" in tiles[1]
    assert len(tiles) == 4  # the last one has the intervals
    assert shown(browser, "#decoding thead th") == ["Decoding", "whisper-small", "tuned", "served"]
    assert shown(browser, "#decoding .differs") == ["num_beams114"]
    assert "decoded differently: num_beams" in shown(browser, "#decoding .note")[0]
    assert shown(browser, "#clip-list thead th")[3:] == ["whisper-small", "tuned", "served", "Change"]
    assert set(changes(browser)) == {0}  # the third answers as the first does
    choose(browser, "Change to", "tuned")
    assert min(changes(browser)) < 0
    choose(browser, "Order", "Most errors of tuned")
    errors = [int(text.split(" / ")[0]) for text in shown(browser, f"{ROWS} [data-head=tuned]")]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0


def test_of_several_data_sets_one_is_shown_at_a_time(browser, tmp_path):
    file = write_three(tmp_path / "sets.json")
    document = json.loads(file.read_text())
    document["measurements"][2]["dataset"] = "calls.jsonl"
    file.write_text(json.dumps(document))
    opened(browser, write_report(file))
    assert "validation.jsonl, 12 clips" in shown(browser, "#summary dd")
    assert shown(browser, "#clip-list thead th")[-1] == "Change"
    choose(browser, "Data set", "calls.jsonl")
    assert "calls.jsonl, 12 clips" in shown(browser, "#summary dd")
    assert shown(browser, "#clip-list thead th")[-1] == "Errors" and len(shown(browser, "#summary .tile")) == 1
    assert js(browser, "document.querySelector('[aria-label=\"Data set\"]').value") == "calls.jsonl"
    assert browser.get_log("browser") == []


def test_stages_of_a_recipe_are_a_curve(browser, tmp_path):
    opened(browser, write_report(write_recipe(tmp_path / "recipe")))
    assert shown(browser, "#stages .keys li") == [
        *("start40.0\u00a0%", "1: 1-sft, 1.5 min25.0\u00a0%", "2: 3-orpo, 1.5 min, higher and not kept30.0\u00a0%")
    ]
    assert js(browser, "document.querySelectorAll('#stages .hollow').length") == 1
    assert js(browser, "document.querySelector('#stages path').getAttribute('d').match(/[ML]/g).length") == 2
    assert shown(browser, "#curves figure:nth-child(2) .tick").count("3-orpo") == 1


def test_a_confusion_filters_the_clips_and_a_click_lets_it_go(browser, page):
    opened(browser, page)
    row = "document.querySelector('#confusion-list tbody tr')"
    said, heard, *counts = js(browser, f"[...{row}.children].map((cell) => cell.textContent)")
    assert [int(count) for count in counts][1] > 0
    browser.execute_script(f"{row}.querySelector('.link').click()")
    data = json.loads(js(browser, "document.getElementById('data').textContent"))["evaluations"][0]
    piece = ["" if text == "nothing" else text for text in (said, heard)]
    clips = [
        clip
        for clip in data["clips"]
        if any(p[1:] == piece for one in clip["systems"] for p in one["pieces"] if p[0] != "=")
    ]
    assert shown(browser, "#clip-list .count")[0].endswith(f"{len(clips)} clips (60 in all)") and 0 < len(clips) < 60
    chip = "document.querySelector('#clip-list .chip')"
    assert js(browser, f"{chip}.textContent") == f"{said} \u2192 {heard} \u00d7"
    browser.execute_script(f"{chip}.click()")
    assert shown(browser, "#clip-list .count") == ["1\u201350 of 60 clips"] and js(browser, f"{chip}.hidden")


def test_filtered_clips_are_saved_as_rows_that_can_be_trained_on(browser, page, tmp_path):
    opened(browser, page)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    data = json.loads(js(browser, "document.getElementById('data').textContent"))["evaluations"][0]
    choose(browser, "Speaker", "2035")
    wanted = {clip["id"]: clip for clip in data["clips"] if clip["speaker"] == "2035"}

    def saved(form: str, kind: str) -> list[dict]:
        choose(browser, "What is saved", form)
        browser.execute_script("document.querySelector('.export button').click()")
        deadline = time.monotonic() + 20
        while not (found := list(tmp_path.glob(f"*-{kind}.jsonl"))):
            assert time.monotonic() < deadline, shown(browser, ".export [role=status]")
            time.sleep(0.05)
        return [json.loads(line) for line in found[0].read_text(encoding="utf-8").split("\n") if line]

    rows = saved("rows with transcripts", "rows")
    assert shown(browser, ".export [role=status]") == ["20 rows saved"]
    assert {row["id"]: row["text"] for row in rows} == {name: clip["true"] for name, clip in wanted.items()}
    assert {row["speaker"] for row in rows} == {"2035"} and all(row["audio"] for row in rows)
    kept = [row for row in rows if Path(row["audio"]).is_file()]
    assert len(kept) == 2 and [row["text"] for row in speech_rows(kept)] == [row["text"] for row in kept]
    pairs = saved("pairs against after", "pairs")
    wrong = {name: clip["systems"][1]["said"] for name, clip in wanted.items() if clip["systems"][1]["errors"]}
    assert {row["id"]: row["rejected"] for row in pairs} == wrong
    assert all(row["chosen"] == wanted[row["id"]]["true"] for row in pairs)
    right = 20 - len(wrong)
    assert shown(browser, ".export [role=status]") == [f"{len(wrong)} pairs saved; left out: {right} without an error"]


def test_rows_of_a_segment_name_it_and_clips_without_a_file_are_counted(browser, page):
    opened(browser, page)
    clip = {"id": "x", "file": "/a.wav", "true": "a b", "speaker": None, "language": "en", "systems": []}
    clip |= {"channel": 1, "segment": [2.5, None]}
    row = js(browser, f"rowOf({json.dumps(clip)}, {{ text: 'a b' }})")
    assert row == {"id": "x", "audio": "/a.wav", "channel": 1, "start": 2.5, "text": "a b", "language": "en"}
    told = browser.execute_script(
        """const evaluation = { unit: "word", names: ["a"] };
        const made = exporter(evaluation, "t", () => [{ file: null, true: "", systems: [{ errors: 0 }] }]);
        made.querySelector("button").click();
        return made.querySelector("[role=status]").textContent;"""
    )
    assert told == "0 rows saved; left out: 1 whose audio lies in no file of its own"


@pytest.fixture(scope="module")
def waved_page(tmp_path_factory):
    """One clip of 4 s, silent but for two tones, from 1 to 1.5 s and from 2.5 to 3 s; the second word is misheard."""
    run = tmp_path_factory.mktemp("wave")
    time_axis = np.arange(64_000) / 16_000
    tone = ((time_axis >= 1) & (time_axis < 1.5)) | ((time_axis >= 2.5) & (time_axis < 3))
    soundfile.write(run / "clip.wav", np.where(tone, 0.3 * np.sin(2 * np.pi * 2000 * time_axis), 0.0), 16_000)
    row = {
        "text": "seven forty",
        "where": "row",
        "duration": 4.0,
        "audio": {"path": str(run / "clip.wav"), "bytes": None},
    }
    said = Decoded(["seven forty"], ["seven thirty"]), Decoded(["seven forty"], ["eleven forty"])
    leave_evaluation(run, [row], *said, Systems("base", "tuned", "rows", {}), normalise="basic")
    return write_report(run)


def test_a_clip_is_drawn_and_plays_from_an_error(browser, waved_page):
    opened(browser, waved_page)
    browser.execute_script(f"document.querySelector('{ROWS} .error.jump').click()")  # "thirty", of the system before
    deadline = time.monotonic() + 20
    while not js(browser, "document.querySelector('.wave-picture')?.dataset.drawn === 'true'"):
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.05)
    marks = "[...document.querySelectorAll('.lane .at')]"
    labels = js(browser, f"{marks}.map((one) => one.getAttribute('aria-label'))")
    # the second word begins with the second tone: the pause between them is no speech. MP3 may shift it a little
    assert labels[0].startswith("before: \u201cthirty\u201d for \u201cforty\u201d, about")
    starts = [float(label.split("about ")[1].split(" s")[0]) for label in labels]
    assert starts == [pytest.approx(2.5, abs=0.15), pytest.approx(1.0, abs=0.15)]
    ends = js(browser, f"{marks}.map((one) => (parseFloat(one.style.left) + parseFloat(one.style.width)) * 0.04)")
    assert ends[0] == pytest.approx(3.0, abs=0.2)
    # the keyboard gets there, too, and plays from a little before
    browser.execute_script(f"document.querySelector('audio').pause(); {marks}[0].focus()")
    js(browser, "document.activeElement").send_keys("\ue007")  # enter
    deadline = time.monotonic() + 10
    while js(browser, "document.querySelector('audio').paused"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert js(browser, "document.querySelector('audio').currentTime") == pytest.approx(starts[0] - 0.4, abs=0.8)
    filters = []
    for _ in range(2):  # black on light, white on dark
        browser.execute_script("document.querySelector('.theme').click()")
        filters.append(js(browser, "getComputedStyle(document.querySelector('.wave canvas')).filter"))
    assert sorted(filters) == ["invert(1)", "none"]
    pixels = browser.execute_script(
        """const found = document.querySelector(".wave canvas").getContext("2d").getImageData(0, 0, 900, 128).data;
        const strength = (x, y) => found[4 * (y * 900 + x) + 3];
        // 2 kHz is a quarter of the way up: row 128 - 84 / 4; in the first tone, and in the silence before
        const row = 128 - Math.round(84 / 4);
        const near = (x) => Math.max(...[-2, -1, 0, 1, 2].map((d) => strength(x, row + d)));
        return [near(281), near(100), strength(281, 50)];"""
    )
    assert pixels[0] > 200 and pixels[1] < 20 and pixels[2] < 60, pixels
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 1400])
def test_bars_stay_inside_their_cards(browser, page, three_page, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        for one in (page, three_page):
            opened(browser, one)
            outside = browser.execute_script(
                """const boxes = [...document.querySelectorAll(".bar")].map((bar) => [bar, bar.closest("td")]);
                return boxes.filter(([bar, cell]) => {
                  const inner = bar.getBoundingClientRect(), outer = cell.getBoundingClientRect();
                  return inner.left < outer.left || inner.right > outer.right + 0.5;
                }).length / boxes.length;"""
            )
            assert outside == 0
        opened(browser, page)
        beyond = (
            "[...document.querySelectorAll('.parts .scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1)"
        )
        assert js(browser, f"{beyond}.length") == 0, "two models fit without scrolling"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [360, 400, 500, 1400])
def test_nothing_stands_out_of_the_window_or_over_its_neighbour(browser, page, labels_page, three_page, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        for one in (three_page, page, labels_page):
            opened(browser, one)
            assert js(browser, "document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            cell = f"document.querySelector('{ROWS} .figure:last-child').getBoundingClientRect()"
            assert js(browser, f"{cell}.right") <= width, "the numbers of a clip are in sight"
        about = "document.querySelector('#pair-list .about').getBoundingClientRect().left"
        assert js(browser, f"document.querySelector('#pair-list .no-sound').getBoundingClientRect().right <= {about}")
        # right-to-left texts begin at the right, with a gap between what was said and what was struck out
        assert js(browser, f"getComputedStyle(document.querySelector('{ROWS} .texts')).textAlign") == "start"
        error = "document.querySelector('#pair-list .error')"
        assert js(browser, f"getComputedStyle({error}.querySelector('s')).marginRight") == "4px"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

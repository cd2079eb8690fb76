"""What a report is made of: alignments, curves, checkpoints, audio up to a size, texts that stay texts."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl.commands.report import main
from audiorl.evaluation import Decoded
from audiorl.evaluation.document import read_document
from audiorl.report import checkpoint_table, read_run, write_report
from audiorl.report.audio import PageAudio, safe_link
from audiorl.report.differences import (
    DELETION,
    EQUAL,
    INSERTION,
    SUBSTITUTION,
    Piece,
    align,
    by_confusion,
    by_part,
    by_word,
    true_units,
)
from audiorl.report.page import charts, script_safe_json, short_names
from audiorl.report.run_folder import KeptAudio, Systems, leave_evaluation, leave_groups, start_run
from audiorl.text.error_rates import count_errors
from audiorl.text.normalizers import normalizer
from audiorl.text.tasks import Labels
from tests.report.example_run import (
    SCRIPT,
    history,
    texts,
    write_clip,
    write_lines,
    write_recipe,
    write_run,
    write_three,
)


def data_of(page: Path) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_an_alignment_worked_by_hand():
    found = align(["The cat sat, here"], ["the hat sat on here now"], unit="word", normalise=normalizer("basic"))
    assert found == [
        [
            Piece(EQUAL, "the", "the"),
            Piece(SUBSTITUTION, "cat", "hat"),
            Piece(EQUAL, "sat", "sat"),
            Piece(INSERTION, "", "on"),
            Piece(EQUAL, "here", "here"),
            Piece(INSERTION, "", "now"),
        ]
    ]
    ((first, second),) = align(["ab c"], ["ab"], unit="word", normalise=str)
    assert (first.kind, second) == (EQUAL, Piece(DELETION, "c", ""))
    assert align(["", "a"], ["", ""], unit="word", normalise=str) == [[], [Piece(DELETION, "a", "")]]


@pytest.mark.parametrize("unit", ["word", "character", "mixed"])
def test_alignments_hold_as_many_errors_and_units_as_are_counted(unit):
    true, said, _ = texts(40)
    true, said = [*true, "我买了 new phone", ""], [*said, "我卖 phone", "oh"]
    errors = count_errors(true, said, unit=unit, normalise="basic")
    for place, pieces in enumerate(align(true, said, unit=unit, normalise=normalizer("basic"))):
        kinds = [piece.kind for piece in pieces]
        counted = errors[place]
        assert kinds.count(SUBSTITUTION) == counted.substitutions
        assert kinds.count(INSERTION) == counted.insertions and kinds.count(DELETION) == counted.deletions
        assert sum(len(true_units(piece, unit)) for piece in pieces) == counted.words


def test_errors_by_word_worked_by_hand():
    true = ["a cat sat", "a cat"]
    first = align(true, ["a hat sat", "the a hat"], unit="word", normalise=str)
    second = align(true, ["a cat", "a cat"], unit="word", normalise=str)
    rows, every = by_word([first, second], "word")
    assert every == 3
    assert rows[0] == {"word": "cat", "count": 2, "errors": [2, 0], "inserted": [0, 0], "heard": [[("hat", 2)], []]}
    assert rows[1]["word"] == "sat" and rows[1]["errors"] == [0, 1] and rows[1]["heard"] == [[], [("", 1)]]
    assert rows[2] == {"word": "the", "count": 0, "errors": [0, 0], "inserted": [1, 0], "heard": [[], []]}


def test_confusions_worked_by_hand():
    true = ["a cat sat", "a cat"]
    first = align(true, ["a hat sat", "the a hat"], unit="word", normalise=str)
    second = align(true, ["a cat", "a hat"], unit="word", normalise=str)
    rows, every = by_confusion([first, second])
    assert every == 3 and rows == [
        {"true": "cat", "said": "hat", "counts": [2, 1]},
        {"true": "", "said": "the", "counts": [1, 0]},
        {"true": "sat", "said": "", "counts": [0, 1]},
    ]


def test_parts_that_a_system_did_not_answer_have_no_rate():
    def system(**rates):
        return {"breakdown": {"speaker": [{"value": k, "clips": 2, "words": 9, "wer": v} for k, v in rates.items()]}}

    found = by_part([system(ana=0.5, ben=0.25), system(ana=0.1)], "speaker")
    assert [(part["value"], part["wer"]) for part in found] == [("ana", [0.5, 0.1]), ("ben", [0.25, None])]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["openai/whisper-small", "out/tuned/"], ["whisper-small", "tuned"]),
        (["a/1-sft", "b/1-sft", "b/2-dpo"], ["a/1-sft", "b/1-sft", "b/2-dpo"]),
        (["runs/x", "runs/x"], ["x", "x (2)"]),
        (["only"], ["only"]),
    ],
)
def test_short_names_tell_models_apart(names, short):
    assert short_names(names) == short


def test_all_models_of_an_evaluation_are_on_the_page_by_their_names(tmp_path):
    page = write_report(write_three(tmp_path / "three.json"))
    (found,) = data_of(page)["evaluations"]
    assert found["names"] == ["whisper-small", "tuned", "served"]
    assert [one["num_beams"] for one in found["decodings"]] == [1, 1, 4]
    assert found["comparisons"][0] is None and [bool(one) for one in found["comparisons"][1:]] == [True, True]
    assert all(len(clip["systems"]) == 3 for clip in found["clips"]) and len(found["summaries"]) == 3
    assert all(len(one["counts"]) == 3 for one in found["confusions"])


def test_rows_that_a_model_did_not_answer_are_told_and_the_others_stay_in_step(tmp_path):
    file = write_three(tmp_path / "three.json")
    document = json.loads(file.read_text())
    gone = document["measurements"][1]["clips"].pop(3)
    file.write_text(json.dumps(document))
    data = data_of(write_report(file))
    (found,) = data["evaluations"]
    assert len(found["clips"]) == 11 and gone["id"] not in [clip["id"] for clip in found["clips"]]
    said = {clip["id"]: clip["hypothesis"] for clip in document["measurements"][1]["clips"]}
    assert all(clip["systems"][1]["said"] == said[clip["id"]] for clip in found["clips"])
    assert any("1 of 12 rows were not answered by every model" in note for note in data["notes"])


def test_each_data_set_has_an_evaluation_of_its_own(tmp_path):
    file = write_three(tmp_path / "three.json")
    document = json.loads(file.read_text())
    document["measurements"][2]["dataset"] = "calls.jsonl"
    file.write_text(json.dumps(document))
    found = data_of(write_report(file))["evaluations"]
    assert [(one["dataset"], len(one["names"])) for one in found] == [("validation.jsonl", 2), ("calls.jsonl", 1)]


def test_a_recipe_has_its_stages(tmp_path):
    data = data_of(write_report(write_recipe(tmp_path / "recipe")))
    told = [(one["name"], one["before"], one["after"], one["kept"], one["step"]) for one in data["stages"]]
    assert told == [
        ("1-sft", 0.4, 0.25, True, 10),
        ("2-pairs", None, None, True, None),
        ("3-orpo", 0.25, 0.3, False, 50),
    ]
    assert data["stages"][0]["interval"] is not None and data["stages"][2]["interval"] is None
    assert data["stages"][0]["minutes"] == 1.5


def test_pairs_and_groups_of_several_languages_are_each_aligned_in_their_own_unit(tmp_path):
    row = {"row_id": 0, "where": "row", "seconds": 1.0, "audio": None}
    texts = [("long pepper", "long paper")] * 3 + [("我买手机", "我卖手机")]
    write_lines(tmp_path / "report" / "pairs.jsonl", [{**row, "chosen": a, "rejected": b} for a, b in texts])
    groups = [
        {**row, "step": 1, "transcript": a, "hypotheses": [{"text": b, "reward": 1.0, "rewards": {}}]} for a, b in texts
    ]
    leave_groups(tmp_path, groups)
    data = data_of(write_report(tmp_path))
    assert [pair["unit"] for pair in data["pairs"]] == ["word"] * 3 + ["character"]
    expected = [["=", "我"], ["S", "买", "卖"], ["=", "手机"]]
    assert data["pairs"][3]["pieces"] == expected == data["groups"][0]["hypotheses"][0]["pieces"]


def test_a_label_is_one_thing(tmp_path):
    true = ["nine hundred", "two", "nine hundred", "one"]
    clip = {"path": "https://x/a.wav", "bytes": None}
    rows = [{"chosen": text, "audio": clip, "where": "row", "duration": 1.0} for text in true]
    said = Decoded(true, ["nine", "two", "nine hundred", "One"]), Decoded(true, true)
    systems = Systems("base", "out", "held-out", {})
    leave_evaluation(
        tmp_path, rows, *said, systems, normalise="basic", task=Labels(["nine", "one", "two", "nine hundred"])
    )
    document = read_document(tmp_path / "evaluation.json")
    assert [one["labels"]["accuracy"] for one in document["measurements"]] == [one.accuracy for one in said] == [0.5, 1]
    found = data_of(write_report(tmp_path))["evaluations"][0]
    assert found["unit"] == "label" and found["summaries"][0]["wer"] == 0.5
    assert [(row["word"], row["count"], row["errors"]) for row in found["words"]] == [
        ("nine hundred", 2, [1, 0]),
        ("one", 1, [1, 0]),
    ]
    assert found["clips"][0]["systems"][0]["pieces"] == [["S", "nine hundred", "nine"]]
    assert found["clips"][0]["systems"][1]["pieces"] == [["=", "nine hundred"]]


def test_checkpoints_of_a_classifier_are_listed_with_their_accuracy(tmp_path):
    logs = [{"step": 2, "loss": 1.0}, {"step": 2, "eval_accuracy": 0.75, "eval_mean_token_accuracy": 0.5}]
    write_lines(tmp_path / "metrics.jsonl", logs)
    (tmp_path / "checkpoint-2").mkdir()
    write_lines(tmp_path / "checkpoint-2" / "trainer_state.json", [{"global_step": 2, "log_history": []}])
    head, line = checkpoint_table(read_run(tmp_path).checkpoints).splitlines()
    assert head.endswith("accuracy") and line.split() == ["checkpoint-2", "2", "1", "75.00", "%"]
    (accuracy,) = (chart for chart in charts(logs) if chart["title"] == "Accuracy")
    assert [one["name"] for one in accuracy["series"]] == ["eval_accuracy", "eval_mean_token_accuracy"]


def test_texts_cannot_leave_their_element(tmp_path):
    text = "</script><script>alert(1)</script> & \u2028 \ud800 <!--"
    safe = script_safe_json({"text": text})
    assert not set("<>&\u2028\ud800") & set(safe) and json.loads(safe) == {"text": text}
    with pytest.raises(ValueError, match="Out of range"):
        script_safe_json({"x": float("nan")})
    run = write_run(tmp_path / "a <b>", count=10, clips=1)
    write_lines(run / "report" / "pairs.jsonl", [{**read_run(run).pairs[0], "chosen": text}])
    page = write_report(run)
    source = page.read_text()
    assert source.count("<script") == 3 and "alert(1)</script>" not in source
    assert f"<title>{html.escape(run.name)}</title>" in source
    assert data_of(page)["pairs"][0]["chosen"] == text


def test_page_names_no_address_that_would_be_fetched(tmp_path):
    source = write_report(write_run(tmp_path / "run", count=10, clips=1)).read_text()
    shell = re.sub(r'<script type="[^"]*"[^>]*>.*?</script>', "", source, flags=re.DOTALL)
    found = set(re.findall(r"https?://[^\s\"'`)]*", shell))
    assert found == {"http://www.w3.org/2000/svg"}  # the name of SVG, not a place
    assert not re.search(r'(src|href)="(?!data:)', shell)


@pytest.mark.parametrize(
    ("address", "links"),
    [
        ("https://x.org/a.wav", True),
        ("HTTP://x.org/a.wav", True),
        ("data:audio/wav;base64,AAAA", True),
        ("clips/a.wav", True),
        ("../a:b.wav", True),
        ("/mnt/a.wav", True),
        ("javascript:alert(1)", False),
        ("javascript://x/%0aalert(1)", False),
        ("java\nscript:alert(1)", False),
        ("\x01javascript:alert(1)", False),
        (" https://x.org/a.wav", False),
        ("vbscript:x", False),
        ("file:///etc/passwd", False),
        ("s3://bucket/a.wav", False),
    ],
)
def test_only_addresses_that_run_nothing_are_links(address, links):
    assert safe_link(address) is links


def test_addresses_that_are_no_links_are_named_and_not_linked(tmp_path):
    audio = PageAudio(tmp_path / "page.html", 0)
    for address in ("javascript://x/%0aalert(1)", "s3://bucket/a.wav", "file:///a.wav"):
        assert audio.add(address, 1.0) == {"place": address}
    # a file of such a name is a file
    assert audio.add("javascript:alert(1)", 1.0)["link"].endswith("javascript%3Aalert%281%29")
    assert audio.add("data:audio/wav;base64,AAAA", 1.0) == {} and "data: address" in audio.describe()


def test_clips_are_embedded_up_to_the_size_and_then_linked(tmp_path):
    files = [write_clip(tmp_path / f"clip {i} #.wav", 300 + 50 * i) for i in range(4)]
    one = PageAudio(tmp_path / "out" / "page.html", 10**9)
    assert one.add(files[0], 1.0) == {"embedded": 0} == one.add(files[0], 1.0)
    room = len(one.embedded[0].content)
    audio = PageAudio(tmp_path / "out" / "page.html", 2 * room + room // 2)
    found = [audio.add(file, 1.0) for file in files]
    assert found[:2] == [{"embedded": 0}, {"embedded": 1}]
    assert found[3] == {"link": "../clip%203%20%23.wav"} and audio.linked == 2
    assert audio.add(None, 1.0) == {} and "for 1 rows the run kept no audio" in audio.describe()
    assert audio.add("https://x.org/a.wav", None) == {"link": "https://x.org/a.wav"}
    assert audio.add(str(tmp_path / "none.wav"), 1.0) == {"link": "../none.wav"}
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio.embedded[0].content)))
    assert rate == 16_000 and len(samples) == pytest.approx(16_000, abs=2400)
    loudest = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    assert loudest == pytest.approx(300, abs=3)
    broken = PageAudio(tmp_path / "page.html", 10**6)
    assert broken.add(str(tmp_path / "none.wav"), 1.0) == {} and "1 could not be read" in broken.describe()


def test_small_playable_files_go_in_as_they_are(tmp_path):
    samples = 0.1 * np.sin(np.arange(32_000) / 8)
    path = tmp_path / "clip.mp3"
    soundfile.write(path, samples, 16_000, format="MP3", subtype="MPEG_LAYER_III")
    audio = PageAudio(tmp_path / "page.html", 10**6)
    audio.add(str(path), 2.0)
    assert base64.b64decode(audio.embedded[0].content) == path.read_bytes()


def test_clips_without_a_file_are_kept_until_the_room_is_full(tmp_path):
    file = Path(write_clip(tmp_path / "clip.wav"))
    stored = {"bytes": file.read_bytes(), "path": None}
    kept = KeptAudio(tmp_path, limit=1)
    assert kept.keep("row-0", stored) is None and kept.keep("row-1", stored) is None
    assert read_run(write_run(tmp_path, count=10)).kept_audio("row-0") and not read_run(tmp_path).kept_audio("row-1")
    assert kept.keep("x", {"bytes": None, "path": str(file)}) == str(file)
    assert kept.keep("x", {"bytes": None, "path": "hf://a/b.wav"}) == "hf://a/b.wav"


def test_evaluation_of_a_run_is_a_document_of_audiorl_evaluate(tmp_path):
    true, before, after = texts(12)
    clip = {"bytes": Path(write_clip(tmp_path / "a.wav")).read_bytes(), "path": None}
    rows = [{"text": text, "audio": clip, "where": f"row {i}", "row_id": i} for i, text in enumerate(true)]
    systems = Systems("base", "out", "held-out", {"num_beams": 1})
    leave_evaluation(tmp_path, rows, Decoded(true, before), Decoded(true, after), systems, normalise="basic")
    found = read_document(tmp_path / "evaluation.json")
    errors = [count_errors(true, said, normalise="basic") for said in (before, after)]
    assert [one["summary"]["wer"] for one in found["measurements"]] == [one.wer for one in errors]
    assert found["comparisons"][0]["difference"] == pytest.approx(errors[1].wer - errors[0].wer)
    data = data_of(write_report(tmp_path))["evaluations"][0]
    changes = [clip["systems"][1]["errors"] - clip["systems"][0]["errors"] for clip in data["clips"]]
    assert [abs(change) for change in changes] == sorted(map(abs, changes), reverse=True)
    assert all("embedded" in clip["audio"] for clip in data["clips"])
    for clip in data["clips"]:
        for system in clip["systems"]:
            assert sum(piece[0] != "=" for piece in system["pieces"]) == system["errors"]
    assert data["names"] == ["before", "after"] and data["models"] == ["base", "out"]


def test_a_single_evaluation_and_an_unknown_normaliser_are_shown_and_told(tmp_path):
    run = write_run(tmp_path, count=8)
    document = json.loads((run / "evaluation.json").read_text())
    document["settings"]["normaliser"] = "english+spelling"
    document["comparisons"], document["measurements"] = [], document["measurements"][:1]
    single = tmp_path / "result.json"
    single.write_text(json.dumps(document))
    page = write_report(single)
    assert page == tmp_path / "result.html"
    data = data_of(page)
    assert data["evaluations"][0]["names"] == ["base"] and data["evaluations"][0]["comparisons"] == [None]
    assert any("'english+spelling'" in note and "'english'" in note for note in data["notes"])


def test_curves_hold_every_number_of_the_log():
    found = charts([*history(), {"step": 41, "my/metric": 3, "train_loss": 1.0}])
    names = {series["name"]: series["points"] for chart in found for series in chart["series"]}
    assert names["my/metric"] == [[41, 3]] and "train_loss" not in names and "epoch" not in names
    assert [point for point in names["grad_norm"] if point[1] is None] == [[7, None]]
    assert len(names["loss"]) == 40 and len(names["eval_wer"]) == 4
    first = [chart["title"] for chart in found if chart["first"]]
    assert first == ["Error rate", "Loss", "Reward", "Parts of the reward", "KL", "Entropy"]
    assert found[-1]["title"] == "my/metric"


def test_costs_of_a_run_are_curves_and_numbers_of_the_clock_are_not():
    costs = {"time/data": 0.25, "time/scoring": 0.75, "time/seconds_left": 90.0, "memory/peak_gib": 1.5}
    speeds = {"audio_seconds_per_second": 8.0, "tokens_per_second": 40.0, "eval_samples_per_second": 3.0}
    found = charts([{"step": 1, "loss": 1.0, **costs, **speeds, "eval_runtime": 2.0}])
    assert [(chart["title"], [one["name"] for one in chart["series"]]) for chart in found] == [
        ("Loss", ["loss"]),
        ("Where the time goes", ["time/data", "time/scoring"]),
        ("Seconds of speech in a second", ["audio_seconds_per_second"]),
        ("Peak memory, GiB", ["memory/peak_gib"]),
        ("tokens_per_second", ["tokens_per_second"]),
    ]


def test_checkpoints_are_listed_with_step_loss_and_wer(tmp_path):
    run = read_run(write_run(tmp_path))
    logged = {record["step"]: record["loss"] for record in run.history if "loss" in record}
    assert [found.step for found in run.checkpoints] == [20, None, 40]
    assert run.checkpoints[0].loss == logged[20] and run.checkpoints[2].best and not run.checkpoints[0].best
    lines = checkpoint_table(run.checkpoints).splitlines()
    assert lines[1].split() == ["checkpoint-20", "20", f"{logged[20]:.4g}", "29.68", "%"]
    assert "not whole" in lines[2] and lines[3].endswith("26.10 %  (best)")
    (tmp_path / "metrics.jsonl").unlink()
    write_lines(tmp_path / "checkpoint-20" / "trainer_state.json", [{"global_step": 20, "log_history": history(20)}])
    again = read_run(tmp_path)
    assert again.checkpoints[0].loss == logged[20] and again.checkpoints[0].wer == run.checkpoints[0].wer


def test_groups_of_steps_that_will_come_again_go(tmp_path):
    start_run(tmp_path, 0, 5)
    leave_groups(tmp_path, [{"step": step} for step in (1, 2, 3)])
    groups = tmp_path / "report" / "groups.jsonl"
    groups.write_text(groups.read_text() + '{"step": 4, "hypo')  # killed while it wrote
    start_run(tmp_path, 2, 5)
    assert [json.loads(line)["step"] for line in groups.read_text().splitlines()] == [1, 2]


def test_a_new_run_shows_no_clip_pair_or_group_of_the_one_before(tmp_path):
    run = write_run(tmp_path, count=8)
    stored = {"bytes": Path(write_clip(tmp_path / "clip.wav")).read_bytes(), "path": None}
    KeptAudio(run).keep("row-0", stored)
    (run / "report" / "notes.txt").write_text("of the user")
    start_run(run, 5, 9)
    assert read_run(run).pairs and read_run(run).facts and read_run(run).kept_audio("row-0")
    assert [group["step"] for group in read_run(run).groups] == [1, 2, 3, 4, 5]
    start_run(run, 0, 9)
    assert {path.name for path in (run / "report").rglob("*")} == {"notes.txt", "audio"}
    assert read_run(run).evaluation is None and (run / "evaluation.earlier.json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: [path.unlink() for path in run.iterdir()], r"nothing to report.*output_dir"),
        (lambda run: (run / "metrics.jsonl").write_text("{\n{}\n"), r"metrics.jsonl, line 1 is not JSON.*Correct it"),
        (lambda run: (run / "evaluation.json").write_text("{}"), r"not an evaluation of version 1"),
    ],
)
def test_damaged_folders_are_refused_with_a_remedy(tmp_path, spoil, message):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert len(read_run(tmp_path).history) == 1  # a line that a killed run cut off
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path)


def test_the_command_writes_the_page_and_lists_checkpoints(tmp_path, capsys):
    run = write_run(tmp_path / "run", count=8, clips=1)
    main([str(run), "--output", str(tmp_path / "a.html"), "--audio_megabytes", "0"])
    told = capsys.readouterr().out
    assert "checkpoint-40" in told and told.endswith(f"The report lies in {tmp_path / 'a.html'}\n")
    page = (tmp_path / "a.html").read_text()
    assert SCRIPT not in page and 'type="text/plain"' not in page
    with pytest.raises(ValueError, match="nothing to report"):
        main([str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        main([str(run), "--outptu", "a.html"])
    assert "did you mean --output" in capsys.readouterr().err

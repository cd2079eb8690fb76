"""Every kind of bad row on real files, each found before training, under its own place and number."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl.datasets import BadRowsError, SkippedRows, check_rows, drop_bad_rows, judge_row, speech_rows

LONGEST_TEXT = 40
LANGUAGES = ("en", "de")


def tokenize(text: str, row) -> list[int]:
    if row.get("language") not in (None, *LANGUAGES):
        raise ValueError(f"the checkpoint has no language {row['language']!r}. Use one of {LANGUAGES}.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{len(text)} tokens are more than the decoder's {LONGEST_TEXT}. Shorten it.")
    return list(text.encode())


def check(rows, **changes):
    settings = {"text_columns": ("chosen", "rejected"), "tokenize": tokenize, "max_seconds": 0.35, "distinct": True}
    return check_rows(rows, **{**settings, **changes})


def judge(row):
    return judge_row(row, text_columns=("chosen", "rejected"), tokenize=tokenize, max_seconds=0.35, distinct=True)


def pair(audio, **changes) -> dict:
    return {"audio": str(audio), "chosen": "the right words", "rejected": "the wrong words", **changes}


def rows_of(folder: Path, pairs: list) -> object:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return speech_rows(path)


def test_good_rows_have_no_faults(tmp_path, clips):
    assert check(rows_of(tmp_path, [pair(clip) for clip in clips[:3]])) == []


BAD = {
    "gone": ({"audio": "audio/gone.wav"}, "gone.wav' is missing"),
    "empty": ({"audio": "audio/empty.wav"}, "is empty (0 bytes)"),
    "folder": ({"audio": "audio"}, "is a directory"),
    "not audio": ({"audio": "pairs.jsonl"}, "is not audio"),
    "cut": ({"audio": "audio/cut.wav"}, "is cut off"),
    "no samples": ({"audio": "audio/none.wav"}, "has no samples"),
    "number for audio": ({"audio": 5}, "the audio entry 5 (int) is not a clip"),
    "null for audio": ({"audio": None}, "the audio entry is empty"),
    "bad base64": ({"audio": "data:audio/wav;base64,UklGRg="}, "base64"),
    "bad array": ({"audio": {"array": [0.5, 0.5], "sampling_rate": -1}}, "sampling_rate is -1"),
    "too long": ({"audio": "audio/3.wav"}, "the clip is 0.40 s long, the model hears 0.35 s"),
    "empty text": ({"chosen": ""}, "chosen is empty"),
    "blank text": ({"rejected": " \n"}, "rejected is empty"),
    "text is a number": ({"chosen": 17}, "chosen is 17 (int), not text"),
    "text is a list": ({"rejected": ["a"]}, "rejected is ['a'] (list), not text"),
    "text is null": ({"rejected": None}, "rejected is missing"),
    "same texts": ({"rejected": "the right words "}, "chosen and rejected are the same text"),
    "long transcript": ({"chosen": "word " * 20}, "chosen: 100 tokens are more than the decoder's 40"),
    "unknown language": ({"language": "xx"}, "chosen: the checkpoint has no language 'xx'"),
}


@pytest.fixture
def bad_rows(tmp_path, clips):
    (clips[0].parent / "empty.wav").touch()
    (clips[0].parent / "cut.wav").write_bytes(clips[2].read_bytes()[:5000])
    soundfile.write(clips[0].parent / "none.wav", np.zeros(0), 16000)
    bad = [pair("audio/0.wav") | changes for changes, _ in BAD.values()]
    return rows_of(tmp_path, [pair("audio/0.wav"), *bad, pair("audio/1.wav")])


def test_every_kind_of_bad_row_is_found_at_once_with_file_and_line(tmp_path, bad_rows):
    faults = check(bad_rows)
    by_row = {row_id: [fault for fault in faults if fault.row_id == row_id] for row_id in range(len(bad_rows))}
    assert by_row.pop(0) == by_row.pop(len(bad_rows) - 1) == []
    for row_id, (name, (_, problem)) in enumerate(BAD.items(), start=1):
        assert problem in by_row[row_id][0].problem, name
        assert by_row[row_id][0].where == f"{tmp_path}/pairs.jsonl:{row_id + 1}"
        assert by_row[row_id][0].remedy.endswith("."), name
        # the language is unknown for both texts
        assert len(by_row[row_id]) == (2 if name == "unknown language" else 1), name


def test_one_row_judged_as_it_comes_has_the_faults_of_the_check(bad_rows):
    assert [fault for row in bad_rows for fault in judge(row)] == check(bad_rows)


def test_a_row_tells_all_its_faults_together(tmp_path):
    faults = check(rows_of(tmp_path, [pair("gone.wav", chosen="", rejected=5), pair("gone.wav")]))
    assert [fault.row_id for fault in faults] == [0, 0, 0, 1]


def test_a_clip_of_exactly_the_longest_length_is_good(tmp_path, clips):
    rows = rows_of(tmp_path, [pair(clips[2])])
    assert check(rows, max_seconds=0.3) == []
    assert "0.30 s long, the model hears 0.299 s" in check(rows, max_seconds=0.299)[0].problem
    assert check(rows, max_seconds=None) == []


def test_same_texts_are_a_fault_only_where_they_have_to_differ(tmp_path, clips):
    rows = rows_of(tmp_path, [pair(clips[0], rejected="the right words")])
    assert len(check(rows)) == 1
    assert check(rows, distinct=False) == []


def test_a_misspelt_column_is_one_fault_that_names_the_near_one(tmp_path, clips):
    pairs = [{"audio": str(clips[0]), "chosen": "a", "rejcted": "b"} for _ in range(50)]
    faults = check(rows_of(tmp_path, pairs))
    assert len(faults) == 1
    assert faults[0].row_id < 0
    assert "'rejected' is missing" in faults[0].problem
    assert faults[0].remedy.startswith("Rename 'rejcted' to 'rejected', or pass --columns rejected=rejcted ")


def test_a_missing_column_hides_no_other_fault(tmp_path):
    faults = check(rows_of(tmp_path, [{"audio": "gone.wav", "chosen": "a", "id": 1}]))
    assert "'rejected' is missing" in faults[0].problem
    assert faults[0].remedy == "Add it; the columns are ['chosen', 'id', 'audio']."
    assert "gone.wav' is missing" in faults[1].problem
    without_audio = check(rows_of(tmp_path, [{"audoi": "gone.wav", "chosen": "a", "rejected": ""}]))
    assert without_audio[0].remedy.startswith("Rename 'audoi' to 'audio', or pass --columns audio=audoi ")
    assert [fault.row_id for fault in without_audio] == [-1, 0]


def test_a_column_misspelt_in_one_row_is_named_in_that_row(tmp_path, clips):
    pairs = [pair(clips[0]), {"audio": str(clips[0]), "chosen": "a", "rejcted": "b"}]
    (fault,) = check(rows_of(tmp_path, pairs))
    assert (fault.row_id, fault.problem) == (1, "rejected is missing")
    assert fault.remedy == "Rename 'rejcted' to 'rejected'."


def test_a_row_of_a_stream_without_a_column_is_judged_under_its_own_number(clips):
    row = {"audio": str(clips[0]), "chosen": "a", "rejcted": "b", "where": "row 7", "row_id": 7}
    (fault,) = judge(row)
    assert (fault.where, fault.row_id) == ("row 7", 7)
    assert fault.remedy.startswith("Rename 'rejcted' to 'rejected', or pass --columns rejected=rejcted ")


def test_the_tokenizer_is_called_from_one_thread_since_fast_ones_are_not_safe(tmp_path, clips):
    threads = set()
    rows = rows_of(tmp_path, [pair(clips[0]) for _ in range(600)])
    check(rows, tokenize=lambda text, row: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_an_error_of_the_tokenizer_that_is_no_fault_of_the_text_is_not_swallowed(tmp_path, clips):
    def broken(text, row):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        check(rows_of(tmp_path, [pair(clips[0])]), tokenize=broken)


def test_dropping_keeps_the_good_rows_under_their_own_numbers_and_writes_down_the_rest(tmp_path, bad_rows):
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    faults = check(bad_rows)
    kept = drop_bad_rows(bad_rows, faults, skipped)
    last = len(bad_rows) - 1
    assert kept["row_id"][:] == [0, last]
    assert kept["where"][:] == [f"{tmp_path}/pairs.jsonl:1", f"{tmp_path}/pairs.jsonl:{last + 1}"]
    assert skipped.count() == len(BAD)
    assert drop_bad_rows(bad_rows, faults, None).to_list() == kept.to_list()
    assert drop_bad_rows(bad_rows, [], skipped) is bad_rows


def test_no_rows_can_be_kept_without_a_column(tmp_path, clips):
    rows = rows_of(tmp_path, [{"audio": str(clips[0]), "chosen": "a"}])
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    with pytest.raises(BadRowsError, match="'rejected' is missing"):
        drop_bad_rows(rows, check(rows), skipped)
    assert skipped.count() == 0


def test_headers_of_five_thousand_small_files_are_checked(tmp_path):
    for i in range(100):
        soundfile.write(tmp_path / f"{i}.wav", np.full(160, 0.1), 16000)
    rows = speech_rows([pair(tmp_path / f"{i % 100}.wav") for i in range(5000)])
    assert check(rows) == []


@pytest.mark.real_speech
def test_real_clips_beyond_the_window_are_those_listed_as_longer(test_data):
    path = test_data / "data" / "librispeech-mini" / "train.jsonl"
    rows = speech_rows(path)
    faults = check(rows, text_columns=("text",), tokenize=lambda text, row: None, max_seconds=12.0)
    listed = [json.loads(line)["duration"] for line in path.read_text().splitlines()]
    assert [fault.row_id for fault in faults] == [i for i, seconds in enumerate(listed) if seconds > 12]
    assert faults


@pytest.mark.parametrize("columns", [None, {"chosen": "right", "rejected": "wrong", "audio": "path"}])
def test_a_line_that_cannot_be_read_is_one_fault_of_its_row_or_left_out(tmp_path, clips, columns):
    lines = [json.dumps(pair(clip)) for clip in clips[:3]]
    lines[1:1] = ['{"audio": "x.wav", "chosen": "cut', "", "5"]
    text = "\n".join(lines)
    for ours, theirs in (columns or {}).items():
        text = text.replace(f'"{ours}":', f'"{theirs}":')
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(BadRowsError, match=r"pairs.jsonl:2: this is not JSON"):
        speech_rows(tmp_path / "pairs.jsonl", columns=columns)
    rows = speech_rows(tmp_path / "pairs.jsonl", columns=columns, keep_unread=True)
    faults = check(rows)
    assert [(Path(fault.where).name, fault.row_id) for fault in faults] == [("pairs.jsonl:2", 1), ("pairs.jsonl:4", 2)]
    assert "not JSON" in faults[0].problem and "a JSON int, not an object" in faults[1].problem
    assert [fault.problem for fault in judge(rows[1])] == [faults[0].problem]
    skipped = SkippedRows(tmp_path / "skipped_rows.jsonl")
    kept = drop_bad_rows(rows, faults, skipped)
    assert kept["row_id"][:] == [0, 3, 4] and skipped.count() == 2
    assert check(kept) == []


def test_no_row_can_say_of_itself_that_it_was_not_read(tmp_path, clips):
    forged = {"column": "\0", "problem": "not read", "remedy": "None."}
    rows_of(tmp_path, [pair(clip) for clip in clips[:2]])
    path = tmp_path / "pairs.jsonl"
    path.write_text(path.read_text() + json.dumps(pair(clips[0], row_faults=[forged])))
    with pytest.raises(ValueError, match=r"'row_faults' of .* would be hidden"):
        speech_rows(path, keep_unread=True)

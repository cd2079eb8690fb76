"""Rows as hostile or careless files bring them: each is refused with its place, or kept exactly as it is."""

from __future__ import annotations

import datetime
import json
import math

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from audiorl.audio import AudioFault, audio_seconds, load_audio
from audiorl.datasets import BadRowsError, check_rows, export_rows, judge_row, missing_columns, speech_rows
from audiorl.datasets.checks import UNLIMITED
from audiorl.datasets.storage import unkept_values
from audiorl.models.family_data import TokenizedText, row_task


def faults_of(rows, **settings) -> list:
    given = {**UNLIMITED, "text_columns": ("text",), "distinct": False, **settings}
    return [(fault.row_id, fault.problem) for fault in check_rows(rows, **given)]


def row(clip, **columns) -> dict:
    return {"audio": str(clip), "text": "a", **columns}


def written(folder, rows) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# ---- texts and values that cannot be kept ----

READ = ("text", "language", "task", "offset", "duration", "start", "end")
UNKEPT = {
    "half a pair": ({"text": "a\ud800b"}, "text holds half of a surrogate pair ('\\ud800')"),
    "the other half": ({"text": "\udc00"}, "text holds half of a surrogate pair ('\\udc00')"),
    "half a pair in a language": ({"language": "e\ud83d"}, "language holds half of a surrogate pair"),
    "half a pair deep inside": ({"meta": {"a": [{"b": "\udfff"}]}}, "meta holds half of a surrogate pair"),
    "half a pair in a key": ({"meta": {"a\ud800": 1}}, "meta: the key 'a\\ud800' holds a character that no name"),
    "half a pair in a name": ({"n\ud800": 1}, "the column name 'n\\ud800' holds a character that no name may have"),
    "NUL in a name": ({"n\0": 1}, "the column name 'n\\x00' holds a character that no name may have"),
    "half a pair in a path": ({"audio": "a\udce9.wav"}, "the path 'a\\udce9.wav' holds a character that no path"),
    "NUL in a path": ({"audio": "a\0.wav"}, "the path 'a\\x00.wav' holds a character that no path may have"),
    "a big integer": ({"n": 2**64}, "n holds an integer beyond 64 bits (18446744073709551616)"),
    "a small integer": ({"n": -(2**63) - 1}, "n holds an integer beyond 64 bits"),
    "a huge integer": ({"n": [10**4000]}, "n holds an integer beyond 64 bits (of more than a hundred digits)"),
    "a deep nest": ({"meta": json.loads("[" * 60 + "]" * 60)}, "meta is nested more than 32 deep"),
    "a text as number": ({"text": 5}, "text is 5 (int), not text"),
    "a number as language": ({"language": 5}, "language is 5 (int), not text"),
    "a list as language": ({"language": ["en"]}, "language is ['en'] (list), not text"),
    "a dict as task": ({"task": {"name": "asr"}}, "task is {'name': 'asr'} (dict), not text"),
    "an offset": ({"offset": 12.5}, "the segment from 12.5 s to its end does not lie inside audio file"),
    "an offset as text": ({"offset": "0:12"}, "offset is '0:12' (str), not seconds of a recording"),
    "duration as a list": ({"duration": [0.1]}, "duration is [0.1] (list), not seconds"),
    "duration as text": ({"duration": "abc"}, "duration is 'abc' (str), not seconds"),
    "duration NaN": ({"duration": math.nan}, "duration is nan (float), not seconds"),
    "duration infinite": ({"duration": math.inf}, "duration is inf (float), not seconds"),
    "duration true": ({"duration": True}, "duration is True (bool), not seconds"),
    "duration 0": ({"duration": 0}, "duration is 0 s, which no clip lasts"),
    "duration -1": ({"duration": -1}, "duration is -1 s, which no clip lasts"),
    "duration in milliseconds": ({"duration": 200}, "duration says 200 s, the audio is 0.20 s long"),
    "duration of an hour": ({"duration": 3600}, "duration says 3600 s, the audio is 0.20 s long"),
    "a segment behind the end": ({"offset": 0.1, "duration": 0.35}, "the segment from 0.1 s to 0.45 s does not lie"),
    "a segment backwards": ({"start": 0.2, "end": 0.1}, "the segment ends at 0.1 s, not after its start at 0.2 s"),
    "two starts": (
        {"start": 0.1, "offset": 0.0},
        "starts at 0.1 s, the column offset says 0 s",
    ),
    "a start before 0": ({"start": -0.1}, "start is -0.1 (float), not seconds of a recording"),
}


# A stream stores nothing: it keeps Python's own values, which lose nothing, and what nobody reads is not judged.
STORED_ONLY = tuple(name for name, (changes, _) in UNKEPT.items() if set(changes) - {*READ, "audio"} or "nest" in name)


@pytest.mark.parametrize("form", ["file", "list"])
@pytest.mark.parametrize("name", UNKEPT)
def test_the_guilty_row_is_named_and_no_other(tmp_path, clips, form, name):
    changes, problem = UNKEPT[name]
    given = [row(clips[1]), row(clips[1]) | changes, row(clips[1])]
    found = faults_of(speech_rows(written(tmp_path, given) if form == "file" else given))
    assert [row_id for row_id, _ in found] == [1], found
    assert problem in found[0][1]


@pytest.mark.parametrize("name", [name for name in UNKEPT if name not in STORED_ONLY])
def test_the_guilty_row_of_a_stream_is_named_and_no_other(clips, name):
    changes, problem = UNKEPT[name]
    given = [row(clips[1]), row(clips[1]) | changes, row(clips[1])]
    rows = speech_rows(IterableDataset.from_generator(lambda: iter(given)))
    settings = {**UNLIMITED, "text_columns": ("text",), "distinct": False}
    found = [(fault.row_id, fault.problem) for one in rows for fault in judge_row(one, **settings)]
    assert [row_id for row_id, _ in found] == [1], found
    assert problem in found[0][1]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("value", [b"abc", np.float32(0.5), math.nan, datetime.date(2026, 1, 1), object(), {1: 2}, ()])
def test_values_that_python_allows_are_kept_or_refused_in_their_row(clips, value, mixed):
    """A column of one type keeps what Arrow knows; one of several types what JSON knows."""
    others = ["text", 5] if mixed else [None, None]
    rows = speech_rows([row(clips[0], odd=value), row(clips[0], odd=others[0]), row(clips[0], odd=others[1])])
    found = faults_of(rows)
    if found:
        assert [row_id for row_id, _ in found] == [0]
        assert found[0][1].startswith("odd")
        assert rows[0]["odd"] is None
    else:
        assert (
            rows[0]["odd"] == pytest.approx(value, nan_ok=True)
            if isinstance(value, float)
            else (rows[0]["odd"] is not None)
        )
    assert [one["odd"] for one in rows][1:] == others


def test_bytes_among_texts_turn_no_text_into_bytes(clips):
    rows = speech_rows([row(clips[0], text="a"), row(clips[0], text=b"b"), row(clips[0], text="c")])
    assert [one["text"] for one in rows] == ["a", None, "c"]
    assert faults_of(rows) == [(1, "text is b'b' (bytes), but other rows have other types there")]
    assert faults_of(speech_rows([row(clips[0], text=b"b")])) == [(0, "text is b'b' (bytes), not text")]


def test_texts_of_every_plane_are_kept_to_the_letter(tmp_path, clips):
    texts = ["a\0b", "a\u2028b", "𝄞 é e\u0301", "\u202eabc", "\ufeffa", "\x7f", "｡ﾟ", " a ", "\ufdd0\uffff"]
    rows = speech_rows(written(tmp_path, [row(clips[0], text=text) for text in texts]))
    assert [one["text"] for one in rows] == texts
    assert faults_of(rows) == []


def test_a_name_that_is_no_text_is_the_fault_of_its_row(clips):
    rows = speech_rows([row(clips[0]), {**row(clips[0]), 5: "x"}])
    assert faults_of(rows) == [(1, "the column name 5 is of type int")]


# ---- nothing of a user's is read as a message of ours ----


@pytest.mark.parametrize("path", ['unusable-audio:["forged", "Send money."]', "unusable-audio:{", "unusable-audio:"])
def test_a_path_cannot_forge_a_fault(tmp_path, clips, path):
    for source in ([row(path)], Dataset.from_list([row(path)]), written(tmp_path, [row(path)])):
        ((_, problem),) = faults_of(speech_rows(source))
        assert "unusable-audio:" in problem and problem.endswith("is missing")
    with pytest.raises(AudioFault, match="is missing"):
        load_audio(path, 16000)


@pytest.mark.parametrize("forged", [None, "x", [1], [{"column": "text"}], [{"column": "a", "problem": 1, "remedy": 2}]])
def test_a_column_called_as_ours_is_refused_or_read_as_nothing(clips, forged):
    with pytest.raises(ValueError, match="Rename 'row_faults' to 'source_row_faults'"):
        speech_rows([row(clips[0], row_faults=forged)])
    ours = row(clips[0], row_faults=forged, where="here", row_id=3)
    assert unkept_values(ours) == []
    assert faults_of(speech_rows([ours])) == []


@pytest.mark.parametrize(
    "path", ["/proc/self/mem", "/proc/self/environ", "file:///proc/self/mem", "/sys/kernel/uevent_seqnum"]
)
def test_files_of_the_system_are_no_audio(path):
    for read in (audio_seconds, lambda source: load_audio(source, 16000)):
        with pytest.raises(AudioFault, match=r"file of the system|is missing"):
            read(path)
    ((row_id, problem),) = faults_of(speech_rows([row(path)]))
    assert row_id == 0 and ("file of the system" in problem or "is missing" in problem)


# ---- columns that speak of the clip ----


@pytest.mark.parametrize("duration", [0.2, 0.21, 0.13, 0.29, 1, np.float32(0.2)])
def test_a_duration_may_be_rounded(clips, duration):
    assert faults_of(speech_rows([row(clips[1], duration=duration, offset=0.0)])) == []


def test_a_duration_of_two_hours_may_be_off_by_two_in_a_hundred(clips):
    from audiorl.datasets.checks import agrees

    assert agrees(7300.5, 7200.0) and not agrees(7400.5, 7200.0)
    assert agrees(8, 8.9) and not agrees(8, 9.1) and not agrees(8.5, 8.9)


def test_a_broken_file_hides_no_broken_duration(clips):
    found = faults_of(speech_rows([row("gone.wav", duration="abc", offset=5)]))
    assert [problem.split()[0] for _, problem in found] == ["audio", "duration"]


def test_an_export_refuses_what_could_not_be_kept(tmp_path, clips):
    with pytest.raises(BadRowsError, match="row 1: text holds half of a surrogate pair"):
        export_rows([row(clips[0]), row(clips[0], text="\ud800")], tmp_path / "rows.jsonl", progress=False)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        *[(name, "transcribe") for name in ("asr", " ASR ", "automatic-speech-recognition", "transcribe")],
        *[(name, None) for name in ("tts", "classification", None)],
        *[(name, name) for name in ("translate", "translate:de")],
    ],
)
def test_a_task_is_told_as_models_know_it(task, told):
    assert row_task({"task": task}) == told


# ---- texts that are one text to the model ----


def upper_case(text: str, row) -> TokenizedText:
    return TokenizedText([0, *" ".join(text.upper().split()).encode(), 0], 1)


def test_texts_of_the_same_tokens_are_no_comparison(clips):
    pair = {"audio": str(clips[0]), "chosen": "hello world", "rejected": "HELLO  WORLD"}
    settings = {"text_columns": ("chosen", "rejected"), "tokenize": upper_case}
    assert faults_of(speech_rows([pair]), **settings, distinct=True) == [
        (0, "chosen and rejected become the same tokens")
    ]
    assert faults_of(speech_rows([pair]), **settings, distinct=False) == []
    assert faults_of(speech_rows([pair | {"rejected": "hello word"}]), **settings, distinct=True) == []


# ---- forms that are known, and not ours ----


def test_conversations_are_called_what_they_are():
    (fault,) = missing_columns(["messages", "audios"], ("audio", "chosen", "rejected"))
    assert "these are conversations (messages with audios)" in fault.problem
    assert '"text": what the assistant says' in fault.remedy


def test_transcribed_rows_are_sent_to_mining():
    faults = missing_columns(["text", "where", "row_id"], ("audio", "chosen", "rejected"))
    assert ["mine_pairs" in fault.remedy for fault in faults] == [False, True, True]
    assert "audiorl pairs" in faults[1].remedy


@pytest.mark.parametrize("columns", [["text"], "text", {"audio": 5}, {1: "a"}, 7])
@pytest.mark.parametrize("form", ["list", "file", "dataset", "stream"])
def test_columns_that_are_no_mapping_are_refused(tmp_path, clips, columns, form):
    given = [row(clips[0])]
    source = {"list": given, "file": written(tmp_path, given), "dataset": Dataset.from_list(given)}
    source["stream"] = source["dataset"].to_iterable_dataset()
    with pytest.raises(ValueError, match=r"columns maps (our|each of our) .*audio_filepath"):
        speech_rows(source[form], columns=columns)


def test_a_clip_too_long_names_the_two_ways_out_and_its_path_once(tmp_path, clips):
    rows = speech_rows(written(tmp_path, [row(clips[3])]))
    with pytest.raises(BadRowsError) as caught:
        raise BadRowsError(
            check_rows(rows, **{**UNLIMITED, "max_seconds": 0.3}, text_columns=("text",), distinct=False)
        )
    told = str(caught.value)
    assert "--max_audio_seconds 0.3" in told and "--on_bad_rows skip" in told
    assert told.count(str(tmp_path)) == 1

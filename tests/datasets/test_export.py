"""Rows written as JSON lines and read back are the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from datasets import Dataset

from audiorl.audio import load_audio
from audiorl.datasets import EXPORTED_COLUMNS, BadRowsError, check_rows, export_rows, load_corpus, speech_rows
from audiorl.datasets.checks import any_text
from tests.datasets.corpus_copies import RATE, flac, write_copy


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_corpus_is_exported_and_read_back(tmp_path, streaming):
    given = [{"human_labels": ["Hôtel", "Dog"], "video_id": "a"}, {"human_labels": ["Cat"], "video_id": "b"}]
    write_copy(tmp_path / "copy", "audioset", "balanced/test-0", given)
    rows = load_corpus("audioset", "test", path=tmp_path / "copy", streaming=streaming)
    path = tmp_path / "out" / "labels.jsonl"
    count = export_rows(rows, path, task="classification", metadata={"dataset": "audioset"}, progress=False)
    assert count == 2
    assert lines_of(path)[0] == {
        "audio_path": "labels_audio/000000.flac",
        "text": "Hôtel",
        "duration": 0.05,
        "task": "classification",
        "metadata": {"label": "Hôtel", "all_labels": ["Hôtel", "Dog"], "id": "a", "dataset": "audioset"},
    }
    back = speech_rows(path, columns=EXPORTED_COLUMNS)
    assert [row["text"] for row in back] == ["Hôtel", "Cat"]
    assert [row["metadata"]["all_labels"] for row in back] == [["Hôtel", "Dog"], ["Cat"]]
    assert [row["exported_task"] for row in back] == ["classification"] * 2 and "task" not in back.column_names
    for number, row in enumerate(back):
        assert load_audio(row["audio"], RATE).tolist() == load_audio(flac(number), RATE).tolist()


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_row_asks_for_comes_back_beside_what_the_file_is_for(tmp_path, clips, streaming):
    asked = {"task": "translate", "language": "de", "answers": ["yes", "no"], "other_transcripts": ["b"]}
    export_rows([{"audio": str(clips[0]), "text": "a", **asked}], tmp_path / "rows.jsonl", progress=False)
    assert lines_of(tmp_path / "rows.jsonl")[0]["task"] == "asr"
    given = Dataset.from_json(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    for source in (tmp_path / "rows.jsonl", given.to_iterable_dataset() if streaming else given):
        (row,) = speech_rows(source)
        assert {name: row[name] for name in asked} == asked and row["exported_task"] == "asr"


def test_audio_in_files_stays_where_it_is(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"audio": str(clips[1].relative_to(tmp_path)), "text": "a", "language": "de", "speaker": None}]
    export_rows(rows, "rows.jsonl", progress=False)
    line = lines_of(tmp_path / "rows.jsonl")[0]
    assert line["audio_path"] == str(clips[1])
    assert line["duration"] == pytest.approx(0.2)
    assert (line["task"], line["metadata"]) == ("asr", {"language": "de"})
    assert not (tmp_path / "rows_audio").exists()


def test_a_duration_that_rows_state_is_kept(tmp_path, clips):
    export_rows([{"audio": str(clips[0]), "text": "a", "duration": 0.12}], tmp_path / "rows.jsonl", progress=False)
    assert lines_of(tmp_path / "rows.jsonl")[0]["duration"] == 0.12
    with pytest.raises(BadRowsError, match=r"row 0: duration says 7.5 s, the audio is 0.10 s long"):
        export_rows([{"audio": str(clips[0]), "text": "a", "duration": 7.5}], tmp_path / "no.jsonl", progress=False)
    assert not (tmp_path / "no.jsonl").exists()


@pytest.mark.parametrize("task", ["asr", "classification", "tts", "anything"])
@pytest.mark.parametrize("source", ["file", "list", "dataset", "stream"])
def test_an_export_is_read_as_the_rows_it_was_made_of(tmp_path, clips, task, source):
    given = [
        {"audio": str(clip), "text": f"text {i}", "language": "de", "speaker": "s", "extra": i, "hotwords": ["a"]}
        for i, clip in enumerate(clips)
    ]
    export_rows(given, tmp_path / "rows.jsonl", task=task, metadata={"dataset": "own"}, progress=False)
    lines = lines_of(tmp_path / "rows.jsonl")
    table = Dataset.from_list(lines)
    back = speech_rows(
        {"file": tmp_path / "rows.jsonl", "list": lines, "dataset": table, "stream": table.to_iterable_dataset()}[
            source
        ]
    )
    assert [row["row_id"] for row in back] == [0, 1, 2, 3]
    for row, was, clip in zip(back, given, clips, strict=True):
        assert {name: row[name] for name in ("text", "language", "speaker", "hotwords")} == {
            name: was[name] for name in ("text", "language", "speaker", "hotwords")
        }
        assert row["audio"]["path"] == str(clip)
        assert row["exported_task"] == task and "task" not in row and "audio_path" not in row
        assert row["metadata"]["extra"] == was["extra"]
    if source != "stream":
        assert check_rows(back, text_columns=("text",), tokenize=any_text, max_seconds=1, distinct=False) == []


def test_arrays_become_files_of_the_same_samples(tmp_path):
    samples = load_audio(flac(1), RATE)
    rows = [{"audio": {"array": samples, "sampling_rate": RATE}, "text": "a"}]
    export_rows(rows, tmp_path / "rows.jsonl", progress=False)
    written, rate = soundfile.read(tmp_path / "rows_audio" / "000000.wav", dtype="float32")
    assert rate == RATE and written.tolist() == samples.tolist()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"audio": "gone.wav", "text": "a"}, "row 1: audio file 'gone.wav' is missing"),
        ({"audio": b"no audio at all", "text": "a"}, "row 1: .*not audio"),
        ({"audio": b"no audio at all", "text": "a", "duration": 1.0}, "row 1: .*not audio"),
        ({"text": None}, "row 1: text is missing"),
    ],
)
def test_a_row_that_cannot_be_written_stops_and_leaves_no_file(tmp_path, clips, row, problem):
    good = {"audio": str(clips[0]), "text": "a"}
    with pytest.raises(BadRowsError, match=problem):
        export_rows([good, {**good, **row}], tmp_path / "rows.jsonl", progress=False)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"texts": "a"}, "the column 'text' is missing"),
        ({"text": "a", "raw": b"\x00"}, r"a value among \['raw'\] cannot be written as JSON"),
    ],
)
def test_columns_that_do_not_fit_are_told(tmp_path, clips, row, problem):
    with pytest.raises(ValueError, match=problem):
        export_rows([{"audio": str(clips[0]), **row}], tmp_path / "rows.jsonl", progress=False)


def test_a_file_that_is_there_is_not_overwritten(tmp_path, clips):
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export_rows([{"audio": str(clips[0]), "text": "a"}], path, progress=False)
    assert path.read_text() == "mine"


@pytest.mark.real_speech
def test_real_clips_go_through_a_corpus_copy_and_an_export_unchanged(tmp_path, test_data):
    mini = speech_rows(test_data / "data" / "librispeech-mini" / "validation.jsonl").select(range(3))
    given = [
        {
            "text": row["text"],
            "id": row["id"],
            "audio": {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": "a.mp3"},
        }
        for row in mini
    ]
    write_copy(tmp_path / "copy", "librispeech", "all/test.clean/0000", given)
    rows = load_corpus("librispeech", "test", path=tmp_path / "copy")
    export_rows(rows, tmp_path / "rows.jsonl", progress=False)
    back = speech_rows(tmp_path / "rows.jsonl", columns=EXPORTED_COLUMNS)
    assert [line["audio_path"][-4:] for line in lines_of(tmp_path / "rows.jsonl")] == [".mp3"] * 3
    for before, after in zip(mini, back, strict=True):
        assert after["text"] == before["text"] and after["metadata"]["id"] == before["id"]
        assert after["duration"] == pytest.approx(before["duration"], abs=0.1)
        assert load_audio(after["audio"], RATE).tolist() == load_audio(before["audio"], RATE).tolist()

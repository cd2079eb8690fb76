"""A folder of audio files, with and without texts."""

from __future__ import annotations

import json

import pytest
import soundfile

from audiorl.datasets import BadRowsError, check_rows, speech_rows
from tests.tiny_models import tiny_clips


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    for name, clip in zip(("b.wav", "a/c.flac"), tiny_clips(2), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clip, 16_000)
    return folder


def test_metadata_gives_each_clip_its_texts(clips):
    (clips / "metadata.csv").write_text('file_name,text\nb.wav,the lazy dog\na/c.flac,"over, all"\n')
    rows = speech_rows(clips)
    assert rows["text"] == ["the lazy dog", "over, all"]
    assert [row["audio"]["path"] for row in rows] == [f"{clips}/b.wav", f"{clips}/a/c.flac"]
    assert rows["where"][0] == f"{clips}/metadata.csv:2"
    (clips / "metadata.csv").unlink()
    lines = [{"file_name": "b.wav", "sentence": "the lazy dog"}, {"file_name": "a/c.flac", "sentence": "all"}]
    (clips / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert speech_rows(str(clips), columns={"text": "sentence"})["text"] == ["the lazy dog", "all"]


def test_a_table_in_another_encoding_is_told_with_its_line(clips):
    (clips / "metadata.csv").write_bytes("file_name,text\nb.wav,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata.csv:2 is not UTF-8 \(byte 0xe9\). Write the file anew"):
        speech_rows(clips)


def test_clips_alone_are_rows_without_texts_and_the_message_says_where_texts_go(clips):
    rows = speech_rows(clips)
    assert [row["audio"]["path"] for row in rows] == [f"{clips}/a/c.flac", f"{clips}/b.wav"]
    faults = check_rows(rows, text_columns=("text",), tokenize=lambda text, row: None, max_seconds=30.0, distinct=False)
    with pytest.raises(BadRowsError, match=r"Write metadata\.csv into it, with the columns file_name and text"):
        raise BadRowsError(faults)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("path,text\nb.wav,one\n", r"does not say which clip.*\['path', 'text'\].*column file_name"),
        ("file_name,text\n", "has no rows"),
        ("file_name,text\nb.wav,one, two\n", r"metadata\.csv:2 cannot be read.*Quote values"),
        ("file_name,text\nb.wav\n", r"metadata\.csv:2 cannot be read"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_with_its_place(clips, metadata, told):
    (clips / "metadata.csv").write_text(metadata)
    with pytest.raises(ValueError, match=told):
        speech_rows(clips)


def test_two_kinds_of_metadata_are_refused(clips):
    (clips / "metadata.csv").write_text("file_name,text\nb.wav,one\n")
    (clips / "metadata.jsonl").write_text('{"file_name": "b.wav"}')
    with pytest.raises(ValueError, match="Keep one of them"):
        speech_rows(clips)


def test_a_folder_with_files_of_rows_is_no_folder_of_clips(clips):
    (clips / "train.jsonl").write_text('{"audio": "b.wav", "text": "one"}')
    assert speech_rows(str(clips), split="train")["text"] == ["one"]

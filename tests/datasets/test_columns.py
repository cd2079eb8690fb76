"""Columns under other names, in every form rows come in; a name that is not there is told with the nearest."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, IterableDataset

from audiorl.datasets import BadRowsError, speech_rows

ROWS = [{"audio_path": "a.wav", "sentence": "one", "n": 1}, {"audio_path": "b.wav", "sentence": "two", "n": 2}]
COLUMNS = {"audio": "audio_path", "text": "sentence"}


def sources(folder) -> dict:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {
        "file": folder / "rows.jsonl",
        "list": ROWS,
        "data set": Dataset.from_list(ROWS),
        "stream": Dataset.from_list(ROWS).to_iterable_dataset(),
        "split": {"train": Dataset.from_list(ROWS)},
    }


@pytest.mark.parametrize("kind", ["file", "list", "data set", "stream", "split"])
def test_columns_are_renamed_and_the_others_stay(tmp_path, kind):
    rows = speech_rows(sources(tmp_path)[kind], columns=COLUMNS)
    folder = f"{tmp_path}/" if kind == "file" else ""
    assert [row["audio"]["path"] for row in rows] == [f"{folder}a.wav", f"{folder}b.wav"]
    assert [(row["text"], row["n"]) for row in rows] == [("one", 1), ("two", 2)]
    assert "audio_path" not in rows.column_names


@pytest.mark.parametrize("kind", ["file", "list", "data set", "stream"])
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": "sentense"}, "maps 'text' to 'sentense', which .* does not have; did you mean 'sentence'"),
        ({"text": "zzz"}, r"does not have\. Its columns are \['audio_path', 'sentence', 'n'\]"),
        ({"n": "sentence"}, "has a 'n' of its own.*'source_n': 'n'"),
        ({"text": "sentence", "label": "sentence"}, "maps 'sentence' more than once"),
    ],
)
def test_a_column_mapped_to_nothing_is_refused(tmp_path, kind, columns, problem):
    with pytest.raises(ValueError, match=problem):
        speech_rows(sources(tmp_path)[kind], columns=columns)


def test_columns_may_swap_their_names():
    rows = speech_rows([{"audio": "a.wav", "text": "raw", "norm": "normal"}], columns={"text": "norm", "raw": "text"})
    assert (rows[0]["text"], rows[0]["raw"]) == ("normal", "raw")


def test_a_column_that_some_rows_lack_is_none_there():
    rows = speech_rows([{"audio": "a.wav", "said": "one"}, {"audio": "b.wav"}], columns={"text": "said"})
    assert [row["text"] for row in rows] == ["one", None]


def test_a_stream_without_columns_says_what_to_do():
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match="does not say which columns it has"):
        speech_rows(stream, columns=COLUMNS)


def test_lines_that_do_not_parse_are_told_before_columns_are_looked_for(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"said": "one"}\n{"said": \n')
    with pytest.raises(BadRowsError, match=r"rows\.jsonl:2: this is not JSON"):
        speech_rows(tmp_path / "rows.jsonl", columns={"text": "said"})

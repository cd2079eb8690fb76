"""Clips outside the wanted length: found by column or header, left out and counted, never a fault."""

from __future__ import annotations

import json
import math
from pathlib import Path

import datasets
import pytest

import audiorl.datasets.checks as seconds_module
from audiorl.audio import load
from audiorl.datasets import SkippedRows, check_rows, speech_rows
from audiorl.datasets.checks import (
    check_bounds,
    clip_seconds,
    drop_outside,
    outside_seconds,
    stream_within_seconds,
)


@pytest.fixture
def opened(monkeypatch) -> list:
    """The audio entries whose headers are read."""
    seen = []
    read = seconds_module.row_audio_seconds
    monkeypatch.setattr(seconds_module, "row_audio_seconds", lambda entry: seen.append(entry) or read(entry))
    return seen


def test_headers_decide_and_both_bounds_belong_to_the_wanted_lengths(clips):
    """Clips of 0.1, 0.2, 0.3, 0.4 s."""
    rows = speech_rows([{"audio": str(clip), "text": "a"} for clip in clips])
    outside = outside_seconds(rows, 0.2, 0.3)
    assert outside == ([0], [3])
    kept = drop_outside(rows, outside)
    assert kept["row_id"][:] == [1, 2]
    assert kept["where"][:] == ["row 1", "row 2"]
    assert outside.describe(4, 0.2, 0.3) == "2 of 4 clips left out: 1 shorter than 0.2 s, 1 longer than 0.3 s"
    assert outside_seconds(rows, None, 0.1).longer == [1, 2, 3]
    assert outside_seconds(rows, 0.4, None).shorter == [0, 1, 2]
    assert drop_outside(rows, outside_seconds(rows, 0.1, 0.4)) is rows


def test_a_duration_column_spares_opening_the_files(clips, opened):
    rows = speech_rows([{"audio": str(clip), "duration": (i + 1) / 10} for i, clip in enumerate(clips)])
    assert outside_seconds(rows, 0.1, 0.4) == ([], [])
    assert opened == []
    assert outside_seconds(rows, 0.2, 0.3) == ([0], [3])
    assert len(opened) == 2  # no clip is left out on the word of a column alone


@pytest.mark.parametrize("duration", [0, -3.0, math.nan, math.inf, "long", True, [0.1], 3600, 0.5])
def test_a_duration_that_is_no_length_or_not_the_clips_leaves_no_clip_out(clips, opened, duration):
    """Clips of 0.1 and 0.2 s; the check that follows refuses the first with its place."""
    rows = speech_rows([{"audio": str(clips[0]), "duration": duration}, {"audio": str(clips[1])}])
    assert outside_seconds(rows, 0.15, 0.4) == ([], [])
    assert outside_seconds(rows, 0.3, 0.4) == ([1], [])
    faults = check_rows(rows, text_columns=(), tokenize=len, max_seconds=None, distinct=False)
    assert [fault.row_id for fault in faults] == [0]
    assert "duration" in faults[0].problem


def test_rows_whose_length_nobody_knows_stay_for_the_check_to_report(tmp_path, clips):
    (tmp_path / "broken.wav").write_text("no audio")
    entries = [str(tmp_path / "gone.wav"), str(tmp_path / "broken.wav"), None, 5, str(clips[0])]
    rows = speech_rows([{"audio": entry, "text": "a"} for entry in entries])
    assert outside_seconds(rows, 1.0, None).shorter == [4]
    assert outside_seconds(speech_rows([{"text": "a"}]), 1.0, None) == ([], [])
    assert clip_seconds({"text": "a"}) is None


def test_a_stream_is_judged_as_it_comes_and_its_file_counts(tmp_path, clips):
    table = datasets.Dataset.from_list([{"audio": str(clip), "text": "a"} for clip in clips])
    left_out = SkippedRows(tmp_path / "left_out.jsonl")
    stream = stream_within_seconds(speech_rows(table.to_iterable_dataset()), 0.2, 0.3, left_out)
    assert not (tmp_path / "left_out.jsonl").exists()
    for _ in range(2):  # a second epoch leaves the same clips out and counts them once
        assert [row["row_id"] for row in stream] == [1, 2]
    assert left_out.count() == 2
    lines = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text().splitlines()]
    assert [line["problem"] for line in lines] == [
        "the clip is 0.10 s long, shorter than 0.2 s",
        "the clip is 0.40 s long, longer than 0.3 s",
    ]
    assert speech_rows(stream) is stream or [row["row_id"] for row in speech_rows(stream)] == [1, 2]


@pytest.mark.parametrize(
    "bounds", [(-1, None), (None, 0), (None, -2.0), (3, 2), (math.nan, None), ("1", None), (True, 2)]
)
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(ValueError, match=r"0 <= min <= max.*Leave a bound out"):
        check_bounds(*bounds)


@pytest.mark.parametrize("bounds", [(None, None), (0, None), (0.5, 30), (2, 2)])
def test_bounds_that_are_bounds_pass(bounds):
    check_bounds(*bounds)


def test_bounds_and_check_open_each_file_once_and_notice_a_change(tmp_path, clips, monkeypatch):
    opened = []
    plain = load._open_path
    monkeypatch.setattr(load, "_open_path", lambda path: opened.append(Path(path).name) or plain(path))
    monkeypatch.setattr(load, "_SETTLED_NS", 0)
    rows = speech_rows([{"audio": str(clip), "text": "a"} for clip in clips])
    for _ in range(2):
        assert outside_seconds(rows, 0.2, 0.3) == ([0], [3])
        assert check_rows(rows, text_columns=(), tokenize=len, max_seconds=0.35, distinct=False)[0].row_id == 3
    assert sorted(opened) == [clip.name for clip in clips]
    clips[3].write_bytes(clips[2].read_bytes())
    assert outside_seconds(rows, 0.2, 0.3) == ([0], [])
    clips[3].unlink()
    assert "is missing" in check_rows(rows, text_columns=(), tokenize=len, max_seconds=1, distinct=False)[0].problem
    monkeypatch.setattr(load, "_SETTLED_NS", 10**18)
    before = len(opened)
    for _ in range(2):
        outside_seconds(rows, 0.2, 0.3)
    assert len(opened) == before + 8, "files that changed a moment ago are read each time"

"""Rows in two parts: whole speakers, whole clips, and the share as nearly as they allow."""

from __future__ import annotations

import datasets
import pytest

from audiorl.datasets.corpora import hold_out


def rows(speakers: list[str | None] | None, clips: list[str] | None = None) -> datasets.Dataset:
    count = len(speakers or clips or ())
    columns = {"audio": clips or [f"{i}.wav" for i in range(count)], "text": [str(i) for i in range(count)]}
    return datasets.Dataset.from_dict(columns | ({"speaker": speakers} if speakers else {}))


def test_speakers_stay_whole_and_the_share_is_met():
    parts = hold_out(rows([f"s{i % 20}" for i in range(100)]), 0.1, seed=3)
    assert not set(parts.train["speaker"]) & set(parts.held_out["speaker"])
    assert len(parts.held_out) == 10 and len(parts.train) == 90
    assert str(parts) == "Held out to measure on: 10 of 100 rows, no speaker in both."


def test_the_same_seed_gives_the_same_parts_and_another_others():
    speakers = rows([f"s{i}" for i in range(50)])
    first, again, other = (hold_out(speakers, 0.2, seed) for seed in (0, 0, 1))
    assert first.held_out["text"] == again.held_out["text"] != other.held_out["text"]
    assert sorted([*first.train["text"], *first.held_out["text"]]) == sorted(speakers["text"])


def test_rows_without_speakers_share_no_clip():
    parts = hold_out(rows(None, [f"{i % 10}.wav" for i in range(30)]), 0.1)
    assert not set(parts.train["audio"]) & set(parts.held_out["audio"]) and len(parts.held_out) == 3
    assert "rows name no speakers to keep apart" in str(parts)


def test_rows_that_miss_a_speaker_stand_alone():
    parts = hold_out(rows(["a"] * 40 + [None] * 10), 0.1)
    assert set(parts.held_out["speaker"]) == {None} and len(parts.held_out) == 5


def test_one_speaker_alone_is_split_by_clips():
    parts = hold_out(rows(["a"] * 10), 0.2)
    assert len(parts.held_out) == 2 and parts.by == "clip"


def test_at_least_one_group_is_on_each_side():
    parts = hold_out(rows(["a"] * 9 + ["b"]), 0.01)
    assert parts.held_out["speaker"] == ["b"]
    parts = hold_out(rows(["a"] * 5 + ["b"] * 5), 0.1)
    assert len(parts.train) == len(parts.held_out) == 5


@pytest.mark.parametrize(
    ("found", "share", "told"),
    [
        (rows(["a", "b"]), 1.0, "above 0 and below 1; got 1.0"),
        (rows(["a", "b"]).to_iterable_dataset(), 0.1, "which a stream cannot offer"),
        (rows(None, ["a.wav", "a.wav"]), 0.1, "some of several clips, and these are 1"),
    ],
)
def test_what_cannot_be_split_is_told(found, share, told):
    with pytest.raises(ValueError, match=told):
        hold_out(found, share)

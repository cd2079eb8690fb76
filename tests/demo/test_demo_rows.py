"""Rows of synthetic speech."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tqdm.auto import tqdm

from audiorl.demo import WINDOW_SECONDS, DemoSpeech, demo_rows
from audiorl.demo.rows import BABBLE_VOICES, SPLITS, split_of


def speakers(voices: tuple[str, ...]) -> set[str]:
    """The espeak-ng variants among voice names such as en-us+m1."""
    return {name.split("+")[1] for name in voices}


def test_no_two_splits_share_a_speaker_and_all_share_the_accents() -> None:
    parts = [speakers(split.voices) for split in SPLITS.values()]
    for first in range(3):
        for second in range(first):
            assert not parts[first] & parts[second]
    assert len({frozenset(name.split("+")[0] for name in split.voices) for split in SPLITS.values()}) == 1


def test_nobody_of_a_split_babbles_in_the_background() -> None:
    assert not any(speakers(BABBLE_VOICES) & speakers(split.voices) for split in SPLITS.values())


@pytest.mark.parametrize("split", ["train", "base", "tune", "held_out"])
def test_rows_are_complete_and_their_sentences_and_speakers_are_the_splits_own(split: str) -> None:
    rows = demo_rows(split, 8, seed=0)
    for row in rows:
        samples = row["audio"]["array"]
        assert set(row) == {"audio", "text", "speaker", "id"}
        assert row["audio"]["sampling_rate"] == 16_000
        assert samples.dtype == np.float32 and np.isfinite(samples).all() and samples.any()
        assert len(samples) <= WINDOW_SECONDS * 16_000
        assert split_of(row["text"]) == split
        assert row["speaker"] in SPLITS["base" if split == "train" else split].voices
    assert len({row["id"] for row in rows}) == 8


def test_rows_are_seeded_and_more_rows_begin_with_the_fewer() -> None:
    few, more, other = (
        demo_rows("tune", 3, seed=4),
        demo_rows("tune", 5, seed=4),
        demo_rows("tune", 3, seed=5),
    )
    for first, second in zip(few, more, strict=False):
        assert first["text"] == second["text"] and first["speaker"] == second["speaker"]
        np.testing.assert_array_equal(first["audio"]["array"], second["audio"]["array"])
    assert [row["text"] for row in few] != [row["text"] for row in other]


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no split 'dev'"):
        demo_rows("dev", 1, seed=0)


def test_the_bar_is_full_where_no_more_rows_are_wanted(monkeypatch):
    written = io.StringIO()
    shown = lambda **settings: tqdm(**{**settings, "disable": False, "file": written, "ncols": 80})  # noqa: E731
    monkeypatch.setattr("audiorl.demo.rows.tqdm", shown)
    rows = DemoSpeech().rows("test")
    assert [next(rows)["text"], next(rows)["text"]]
    rows.close()
    assert "100%" in written.getvalue() and "2/2 [" in written.getvalue().split("\r")[-1]

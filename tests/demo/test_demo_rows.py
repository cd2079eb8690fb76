"""Rows of synthetic speech."""

from __future__ import annotations

import numpy as np
import pytest

from audiorl.demo import WINDOW_SECONDS, demo_rows
from audiorl.demo.sentences import split_of
from audiorl.demo.voices import BABBLE_VOICES, SPLITS


def accents_and_variants(voices: tuple[str, ...]) -> tuple[set[str], set[str]]:
    return {name.split("+")[0] for name in voices}, {name.split("+")[1] for name in voices}


def test_no_two_splits_share_an_accent_or_a_variant() -> None:
    parts = [accents_and_variants(split.voices) for split in SPLITS.values()]
    for first in range(3):
        for second in range(first):
            assert not parts[first][0] & parts[second][0]
            assert not parts[first][1] & parts[second][1]


def test_nobody_of_a_split_babbles_in_the_background() -> None:
    babblers = accents_and_variants(BABBLE_VOICES)[1]
    assert not any(babblers & accents_and_variants(split.voices)[1] for split in SPLITS.values())


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

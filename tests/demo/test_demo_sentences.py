"""The grammar and its splits."""

from __future__ import annotations

import numpy as np
import pytest

from audiorl.demo.rows import SPLIT_SHARES, VOCABULARY, random_sentence, split_of, split_sentence


def test_sentences_are_seeded() -> None:
    def draw(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [random_sentence(rng) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_sentences_have_three_to_eight_lower_case_words_of_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    words = [random_sentence(rng).split() for _ in range(5_000)]
    assert {len(sentence) for sentence in words} <= set(range(3, 9))
    assert {word for sentence in words for word in sentence} == set(VOCABULARY)
    assert 120 <= len(VOCABULARY) <= 250
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)


def test_every_sentence_is_in_one_split_and_shares_hold() -> None:
    rng = np.random.default_rng(0)
    sentences = {random_sentence(rng) for _ in range(20_000)}
    splits = [split_of(sentence) for sentence in sentences]
    assert sum(SPLIT_SHARES.values()) == 100
    for split, share in SPLIT_SHARES.items():
        assert splits.count(split) / len(splits) == pytest.approx(share / 100, abs=0.02)


@pytest.mark.parametrize("split", sorted(SPLIT_SHARES))
def test_a_sentence_drawn_for_a_split_belongs_to_it(split: str) -> None:
    rng = np.random.default_rng(0)
    assert {split_of(split_sentence(split, rng)) for _ in range(100)} == {split}


def test_unknown_split_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'test'.*held_out"):
        split_sentence("test", np.random.default_rng(0))

"""Synthetic negatives: different from the transcript, the same each time, and of the kind they are said to be."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiorl.pairs import CORRUPTIONS, synthetic_negatives
from audiorl.pairs.corruptions import HOMOPHONES, NEIGHBOURS, NUMBER_WORDS, Source
from audiorl.rewards.hallucination import STOCK_PHRASES
from audiorl.text.normalizers import normalizer

WORDS = st.sampled_from(
    [
        "their",
        "dog",
        "won",
        "12",
        "two",
        "Berlin",
        "don't",
        "it's",
        "a",
        "Straße",
        "Это",
        "три",
        "नमस्ते",
        "你好世界三",
        "،",
        "...",
        "[x]",
        "3.5",
    ]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join))
LANGUAGES = st.sampled_from([None, "en", "English", "de", "zh", "ja", "ru", "hi", "xx", "<|fr|>"])


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS,
    language=LANGUAGES,
    seed=st.integers(0, 9),
    count=st.integers(1, 9),
    normalise=st.sampled_from(["basic", "lower", "none"]),
)
def test_negatives_differ_from_the_transcript_and_from_each_other_and_come_again(
    text, language, seed, count, normalise
):
    given = {"count": count, "seed": seed, "language": language, "keywords": ["Berlin", "dog"], "normalise": normalise}
    made = synthetic_negatives(text, **given)
    plain = normalizer(normalise)
    seen = [plain(text), *(plain(negative.text) for negative in made)]
    assert len(set(seen)) == len(seen) <= count + 1
    assert all(said.strip() for said in seen[1:])
    assert synthetic_negatives(text, **given) == made


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, language=LANGUAGES, seed=st.integers(0, 9), kind=st.sampled_from(sorted(CORRUPTIONS)))
def test_every_kind_is_of_its_kind_alone(text, language, seed, kind):
    for negative in synthetic_negatives(text, count=3, seed=seed, language=language, keywords=["won"], kinds=[kind]):
        assert negative.kind == kind
        if kind in ("repeated_tail", "ending"):
            assert negative.text.startswith(" ".join(text.split())[:1])
        if kind == "deletion":
            assert len(negative.text) < len(text)
        if kind == "neighbour":
            assert sum(a != b for a, b in zip(text, negative.text, strict=True)) == 1


def only(kind: str, text: str, language: str | None = "en", keywords=(), count: int = 40) -> set[str]:
    return {n.text for n in synthetic_negatives(text, count=count, language=language, keywords=keywords, kinds=[kind])}


def test_homophones_keep_capitals_and_punctuation_and_are_english():
    assert only("homophone", "Their dog won.") == {"There dog won.", "They're dog won.", "Their dog one."}
    assert only("homophone", "Their dog won.", None) == only("homophone", "Their dog won.", "de") == set()
    assert only("homophone", "They\u2019re here") == {"There here", "Their here", "They\u2019re hear"}


def test_neighbours_change_one_letter_of_a_word_of_three_or_more():
    assert only("neighbour", "it dog") == {"it tog", "it dug", "it dag", "it dok"}
    assert only("neighbour", "это", "ru") == {"эдо", "эта"}
    assert only("neighbour", "你好世界", "zh") == set()


def test_deletions_leave_something_and_count_characters_in_scripts_without_spaces():
    assert only("deletion", "a b c") == {"b c", "a c", "a b", "c", "a"}
    assert only("deletion", "你好", "zh") == {"你", "好"}
    assert only("deletion", "word") == set()


def test_tails_are_the_last_words_again():
    expected = {"a b" + f" {tail}" * times for tail in ("b", "a b") for times in (1, 2, 3, 4)}
    assert only("repeated_tail", "a b") == expected


def test_endings_are_stock_phrases_of_the_language():
    assert only("ending", "hello") == {f"hello {phrase}" for phrase in STOCK_PHRASES["en"]}
    assert only("ending", "你好", "Chinese") == {f"你好{phrase}" for phrase in STOCK_PHRASES["zh"]}
    assert only("ending", "hello", None) == only("ending", "hello", "xx") == set()


def test_what_is_put_in_is_in_the_case_of_a_transcript_of_one_case():
    assert only("homophone", "THEIR DOG") == {"THERE DOG", "THEY'RE DOG"}
    assert only("ending", "HELLO") == {f"HELLO {phrase.upper()}" for phrase in STOCK_PHRASES["en"]}
    assert only("ending", "hallo", "de") == {f"hallo {phrase.lower()}" for phrase in STOCK_PHRASES["de"]}
    assert only("keyword", "in berlin", keywords=["Berlin", "Bonn"]) == {"in bonn"}


def test_numbers_change_a_digit_or_a_number_word_of_the_same_kind():
    assert only("number", "at 7", None) == {f"at {digit}" for digit in "012345689"}
    assert only("number", "hundred dogs") == {"thousand dogs", "million dogs", "billion dogs"}
    assert only("number", "hundred dogs", None) == set()
    assert only("number", "百", "zh") == {"千", "万"}
    assert {"at 7 three", "at 5 two"} <= only("number", "at 7 two", count=400)


def test_keywords_are_exchanged_for_each_other_or_misspelt():
    assert only("keyword", "in Berlin", keywords=["Berlin", "Bonn"]) == {"in Bonn"}
    assert "in Perlin" in only("keyword", "in Berlin", keywords=["berlin"])
    assert only("keyword", "in Berliner", keywords=["Berlin"]) == set()  # no part of a word
    assert only("keyword", "in Berlin", keywords=[" "]) == only("keyword", "in Berlin") == set()


def test_a_chinese_transcript_has_the_kinds_that_apply():
    kinds = {negative.kind for negative in synthetic_negatives("你好世界", count=40, language="zh")}
    assert kinds == {"deletion", "repeated_tail", "ending"}


def test_the_kinds_take_turns():
    kinds = [negative.kind for negative in synthetic_negatives("Their 3 dogs", count=2, kinds=["number", "deletion"])]
    assert sorted(kinds) == ["deletion", "number"]


def test_tables_hold_no_word_as_its_own_other():
    for table in (HOMOPHONES, NEIGHBOURS):
        for word, others in table.items():
            assert others and word not in others and word == word.lower()
            assert all(word in table[other] for other in others)
    for groups in NUMBER_WORDS.values():
        words = [word for group in groups for word in group.split()]
        assert len(words) == len(set(words))


def test_a_pure_function_of_text_and_randomness():
    source = Source("Their two dogs won 12 times in Berlin", "en", ("Berlin",), True)
    for kind in CORRUPTIONS.values():
        assert kind(source, Random(3)) == kind(source, Random(3)) != source.text


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="count >= 1"):
        synthetic_negatives("a b", count=0)
    with pytest.raises(ValueError, match="typo"):
        synthetic_negatives("a b", count=1, kinds=["typo"])

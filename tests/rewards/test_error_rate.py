"""Oracles: values worked by hand, and `count_errors`, which is tested against jiwer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiorl.evaluation import count_errors
from audiorl.rewards import ExactMatch, NegativeCER, NegativeEdits, NegativeWER, OneMinusWER
from audiorl.text.error_rates import completion_text, split_units, unit_of_row
from tests.rewards.examples import score_one

NAMES = ("one_minus_wer", "negative_wer", "negative_cer", "negative_edits", "exact_match")


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", (1, 0, 0, 0, 1)),
        # 1 of 3 words, 1 of 11 characters
        ("the cat sat", "the bat sat", (2 / 3, -1 / 3, -1 / 11, -1, 0)),
        ("the cat sat", "", (0, -1, -1, -3, 0)),
        # 2 insertions on 2 words, 8 characters on 7
        ("the cat", "the cat the cat", (0, -1, -8 / 7, -2, 0)),
        # 5 insertions on 2 words, 10 characters on 3: the floor
        ("a b", "a b c d e f g", (0, -2, -2, -5, 0)),
        ("", "", (1, 0, 0, 0, 1)),
        # silence counts as one unit
        ("", "thanks", (0, -1, -2, -1, 0)),
        ("", "thank you all", (0, -2, -2, -3, 0)),
        # nothing is left of either after normalising
        ("...", "!", (1, 0, 0, 0, 1)),
        ("The Cat, sat.", "the cat sat", (1, 0, 0, 0, 1)),
        # 6 characters, one missing
        ("今天天气很好", "今天天很好", (5 / 6, -1 / 6, -1 / 6, -1, 0)),
        # mixed: 我 买 了 new phone, one missing, one wrong; 12 characters, one missing, one too many
        ("我买了 new phone", "我买 new phones", (3 / 5, -2 / 5, -2 / 12, -2, 0)),
        # what is appended without a space to a spaced transcript counts each character
        ("the cat", "the cat好好好", (0, -3 / 2, -3 / 7, -3, 0)),
    ],
)
def test_error_rate_rewards_worked_by_hand(transcript, hypothesis, expected):
    found = tuple(score_one(name, hypothesis, text=transcript) for name in NAMES)
    assert found == pytest.approx(expected, abs=1e-12)


sentences = st.lists(st.sampled_from("the cat sat on a mat 猫 坐 在 ก".split()), max_size=10).map(" ".join)


@given(sentences, sentences, st.sampled_from(["word", "character", "mixed"]))
def test_error_rates_are_those_of_count_errors(transcript, hypothesis, unit):
    errors = count_errors([transcript], [hypothesis], unit=unit, normalise="basic")[0]
    row = {"text": transcript}
    assert score_one(OneMinusWER(unit=unit), hypothesis, **row) == pytest.approx(max(0, 1 - errors.rate))
    assert score_one(NegativeWER(unit=unit, floor=-1000), hypothesis, **row) == pytest.approx(-errors.rate)
    assert score_one(NegativeEdits(unit=unit), hypothesis, **row) == -errors.errors
    assert score_one(ExactMatch(unit=unit), hypothesis, **row) == (errors.errors == 0)


@pytest.mark.parametrize(
    ("transcript", "unit"),
    [
        ("the cat", "mixed"),
        ("今天天气", "character"),
        ("きょうは 東京", "character"),
        ("สวัสดี", "character"),
        ("2024年", "character"),
        ("我买了 new phone", "mixed"),
        ("하늘이 맑다", "mixed"),
        ("", "mixed"),
        ("2024", "mixed"),
        ("٢٠٢٤", "mixed"),
    ],
)
def test_auto_unit_of_a_row_follows_its_transcript(transcript, unit):
    assert unit_of_row("auto", transcript) == unit
    assert unit_of_row("word", transcript) == "word"


@pytest.mark.parametrize(
    ("text", "words", "characters", "mixed"),
    [
        ("at sea", ["at", "sea"], list("at sea"), ["at", "sea"]),
        ("你好 ok吗", ["你好", "ok吗"], list("你好ok吗"), ["你", "好", "ok", "吗"]),
        ("", [], [], []),
    ],
)
def test_units_of_a_text(text, words, characters, mixed):
    assert [split_units(text, unit) for unit in ("word", "character", "mixed")] == [words, characters, mixed]


def test_a_mixed_error_rate_can_be_measured_too():
    # 我 买 了 new phone against 我 买 new phones
    errors = count_errors(["我买了 new phone"], ["我买 new phones"], unit="mixed")
    assert (errors[0].errors, errors[0].words, errors.unit) == (2, 5, "mixed")


def test_the_normaliser_is_the_users_choice():
    row = {"text": "Don't stop!"}
    assert score_one(OneMinusWER(normalise="none"), "don't stop", **row) == 0
    assert score_one(OneMinusWER(normalise=str.lower), "don't stop!", **row) == 1
    english = OneMinusWER(normalise="english")
    assert score_one(english, "do not stop um", **row) == 1


def test_a_row_without_a_transcript_is_not_judged():
    for name in NAMES:
        assert score_one(name, "anything", text=None) is None


def test_no_reward_is_minus_zero():
    """It would show as "-0.0" in logs."""
    for reward in (NegativeWER(), NegativeCER(), NegativeEdits()):
        assert math.copysign(1, score_one(reward, "a", text="a")) == 1


def test_conversational_completions_are_read():
    message = [{"role": "assistant", "content": "the cat"}]
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": "the cat"}]}]
    for completion in ("the cat", message, blocks):
        assert OneMinusWER()(completions=[completion], text=["the cat"]) == [1.0]
    for wrong in (3, [3], [{"role": "assistant"}]):
        with pytest.raises(ValueError, match="string or a list of messages"):
            completion_text(wrong)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OneMinusWER(unit="words"), "got unit='words'"),
        (lambda: OneMinusWER(normalise="basc"), "Did you mean 'basic'"),
        (lambda: NegativeWER(floor=0), "floor has to be below 0"),
        (lambda: NegativeWER(floor=-math.inf), "floor has to be below 0"),
        (lambda: NegativeCER(floor=math.nan), "negative_cer is 0 at best"),
    ],
)
def test_settings_are_checked_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()

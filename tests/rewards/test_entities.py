"""Oracles: values worked by hand, and a loop over all windows with an edit distance of its own."""

import math
import sys

import pytest

from audiorl.rewards import (
    ContextKeywords,
    EntityScore,
    ExpCER,
    KeywordRecall,
    LengthHallucination,
    RewardError,
    RewardSet,
)
from audiorl.text.error_rates import text_pairs
from audiorl.text.keywords import entity_errors, keyword_index
from audiorl.text.normalizers import normalizer
from audiorl.text.phonemes import phonemes_of
from tests.oracles import edit_distance
from tests.rewards.examples import score_one

CALL = "Call Doctor Nguyen at noon."
WANTED = ["Nguyen", "New York", "noon"]


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "edits", "characters"),
    [
        ("a cat", "a cat", 0, 5),
        ("a cat", "a cut", 1, 5),
        ("a cat", "", 5, 5),
        ("", "", 0, 1),
        ("", "abc", 3, 1),
        ("你好", "你号", 1, 2),
    ],
)
def test_exp_cer_worked_by_hand(transcript, hypothesis, edits, characters):
    assert score_one("exp_cer", hypothesis, text=transcript) == pytest.approx(math.exp(-2 * edits / characters))
    assert score_one(ExpCER(rate=1), hypothesis, text=transcript) == pytest.approx(math.exp(-edits / characters))


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("a b c d", "w x y z", 1),
        ("a b c d", "a b c", 3 / 4),
        ("a b c d", "", 0),
        ("a b c d", "a b c d " * 2, 0),
        ("a b c d", "a b c d e f g h i j", -1 / 2),
        ("a b c d", "a " * 40, -1),
        ("", "", 1),
        ("", "a", 0),
        ("", "a b", -1),
        ("今天天气", "今天", 1 / 2),
    ],
)
def test_length_hallucination_worked_by_hand(transcript, hypothesis, expected):
    assert score_one(LengthHallucination(), hypothesis, text=transcript) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("hypothesis", "hits", "missed", "made_up"),
    [
        (CALL, 2, 0, 0),
        ("call doctor win at noon", 1, 1, 0),
        ("", 0, 2, 0),
        ("call doctor nguyen at noon nguyen new york", 2, 0, 2),
        ("new york", 0, 2, 1),
    ],
)
def test_context_keywords_worked_by_hand(hypothesis, hits, missed, made_up):
    row = {"text": CALL, "keywords": WANTED}
    assert score_one("context_keywords", hypothesis, **row) == 0.5 * (hits - missed - made_up)
    assert score_one(ContextKeywords(each=2), hypothesis, **row) == 2 * (hits - missed - made_up)


def test_parroting_the_list_costs_more_than_saying_nothing():
    """A model that says every word it was told: three of the five were not spoken."""
    row = {"text": CALL, "hotwords": [*WANTED, "Okafor", "Mbeki"]}
    reward = ContextKeywords(column="hotwords")
    parroted = score_one(reward, CALL + " New York Okafor Mbeki", **row)
    assert parroted == -0.5 and score_one(reward, CALL, **row) == 1
    assert score_one(reward, "call doctor win at noon", **row) == 0


# "nguyen" has 6 letters, "noon" 4, "new york" 8 with its space
@pytest.mark.parametrize(
    ("transcript", "hypothesis", "keywords", "expected"),
    [
        (CALL, CALL, WANTED, 1),
        # "nguyan": 1 edit of 6
        (CALL, "call doctor nguyan at noon", WANTED, 1 - 1 / 10),
        # written as two words: the window of two, 1 edit
        (CALL, "call doctor ngu yen at noon", WANTED, 1 - 1 / 10),
        # "noon" has the first and the last letter: 4 edits of 6
        (CALL, "win at noon", ["Nguyen"], 1 - 4 / 6),
        (CALL, "", WANTED, 0),
        ("go to new york", "go to newyork", ["New York"], 1 - 1 / 8),
        # a keyword too often costs its letters, also where it was right
        (CALL, CALL + " noon", WANTED, 1 - 4 / 10),
        (CALL, CALL + " new york", WANTED, 1 - 8 / 10),
        (CALL, CALL + " new york new york", WANTED, 0),
        # none spoken
        (CALL, CALL, ["New York"], 1),
        (CALL, "new york", ["New York"], 0),
        ("", "", WANTED, 1),
        # characters
        ("请给张伟打电话", "请给张威打电话", ["张伟"], 1 / 2),
    ],
)
def test_entities_worked_by_hand(transcript, hypothesis, keywords, expected):
    assert score_one("entities", hypothesis, text=transcript, keywords=keywords) == pytest.approx(expected)


def test_nearly_right_is_worth_something_where_recall_gives_nothing():
    row = {"text": CALL, "keywords": ["Nguyen"]}
    near, far = "call doctor nguyem at noon", "call doctor smith at noon"
    assert score_one(KeywordRecall(), near, **row) == score_one(KeywordRecall(), far, **row) == 0
    assert score_one("entities", near, **row) > score_one("entities", far, **row)


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "keywords"),
    [
        ("give him paracetamol 40 mg and rest", "give him parasita mol 14 mg rest", ["paracetamol", "40 mg", "rest"]),
        ("call doctor nguyen", "nguyen", ["doctor nguyen"]),
        ("ring anne marie now", "ring annemarie", ["Anne Marie", "now"]),
        ("我买了 new phone", "我卖了 new fone", ["new phone", "买了"]),
    ],
)
def test_entity_errors_equal_a_loop_over_all_windows(transcript, hypothesis, keywords):
    plain = normalizer("basic")
    (pair,) = text_pairs([hypothesis], [transcript], plain, "auto")
    found = entity_errors(pair, keyword_index(keywords, plain, pair.unit))
    errors = characters = hits = 0
    for keyword in (k.lower() for k in keywords):
        units = keyword.split() if keyword.isascii() else list(keyword)
        rates = [1.0]
        for width in (len(units) - 1, len(units), len(units) + 1):
            for start in range(len(pair.hypothesis)):
                window = pair.hypothesis[start : start + width]
                text = (" " if keyword.isascii() else "").join(window)
                rates.append(edit_distance(list(keyword), list(text)) / len(keyword))
        errors += min(rates) * len(keyword)
        characters += len(keyword)
        hits += min(rates) <= 0.15
    assert found.errors == pytest.approx(errors) and found.characters == characters
    assert found.hits == hits and found.spoken == len(keywords)


def test_entities_that_sound_alike_earn_more_than_those_that_are_spelt_alike():
    row = {"text": "ask Mister Wright to write", "keywords": ["Wright"], "language": "en"}
    alike, other = "ask mister right to come", "ask mister weight to come"
    sounding = EntityScore(phonetic=True)
    assert score_one(sounding, alike, **row) == 1 > score_one(sounding, other, **row)
    assert score_one("entities", alike, **row) < 1
    # by the row's language, English where it names none
    assert phonemes_of(["Jahr"], "German") != phonemes_of(["Jahr"])
    assert phonemes_of(["right", "?"]) == {"right": phonemes_of(["write"])["write"], "?": ""}


def test_rows_of_several_languages_are_phonemized_each_in_its_own():
    sounding = EntityScore(phonetic=True)
    rows = {"text": ["der Rat", "the rat"], "keywords": [["Rat"], ["rat"]], "language": ["de", None]}
    said = ["der Rad", "the rad"]
    together = sounding(completions=said, **rows)
    alone = [score_one(sounding, said[i], **{name: rows[name][i] for name in rows}) for i in (0, 1)]
    assert together == alone
    assert together[0] == 1 > together[1]  # a German d at the end is a t


def test_phonemes_that_cannot_be_made_stop_the_run_before_and_during_it(monkeypatch):
    rewards = RewardSet(["sounding_entities"])
    row = {"text": ["a b"], "keywords": [["a"]], "language": ["xx"]}
    with pytest.raises(RewardError, match=r"espeak-ng has no voice 'xx'.*row 3"):
        rewards(["a"], [[1]], row, ["row 3"])
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(RewardError, match=r"sounding_entities: phonemes come from espeak-ng.*audiorl\[demo\]"):
        RewardSet(["sounding_entities"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ExpCER(rate=0), "rate is above 0 and finite; got 0"),
        (lambda: ExpCER(rate=math.inf), "rate is above 0"),
        (lambda: ContextKeywords(each=-1), "above 0 and finite; got each=-1"),
    ],
)
def test_settings_are_checked_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()

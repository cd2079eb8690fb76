"""Pairs from failures alone, and negatives of speech that switches languages."""

from __future__ import annotations

import json
from random import Random

import pytest

from audiorl.pairs import MiningConfig, mine_pairs, synthetic_negatives
from audiorl.pairs.corruptions import CORRUPTIONS, Source
from audiorl.pairs.miner import NO_FAILURE, FailureFinder, Miner
from audiorl.text import normalizer
from tests.pairs.mining_rows import TEXTS, rows
from tests.tiny_models import tiny_whisper

ALL = ["loop", "hallucination", "language", "keyword"]
ROW = {"language": "en", "keywords": ["Nguyen", "Okafor"]}
TRUE = "please call doctor Nguyen about the folder before noon"


def failures(said, transcript=TRUE, row=ROW, only=ALL, **settings):
    finder = FailureFinder(MiningConfig(only=list(only), **settings), normalizer("basic"))
    (found,) = finder(row, transcript, [said])
    return found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (TRUE, []),
        ("please call doctor Nguyen about a folder before", []),  # wrong words are no failure
        ("please call doctor win about the folder before noon", ["keyword"]),
        ("please call doctor Nguyen " * 6, ["loop", "hallucination"]),
        (TRUE + " and then we all went home", ["hallucination"]),
        (TRUE + " too", []),  # one word more
        (TRUE + " thanks for watching", ["hallucination"]),
        ("the weather tomorrow will be sunny with light winds", ["hallucination", "keyword"]),
        ("请给医生打电话", ["hallucination", "language", "keyword"]),
        ("", ["keyword"]),
    ],
)
def test_what_a_hypothesis_fails_in(said, found):
    assert failures(said) == found
    assert failures(said, only=["loop"]) == [name for name in found if name == "loop"]


def test_silence_and_rows_without_keywords():
    assert failures("thank you", transcript="", row={}) == ["hallucination"]
    assert failures("", transcript="", row={}) == []
    assert failures("please call doctor win", row={"keywords": None}, only=["keyword"]) == []


def test_keywords_of_all_rows_come_from_a_file(tmp_path):
    (tmp_path / "terms.txt").write_text("doctor\n")
    settings = {"reward_keywords": str(tmp_path / "terms.txt"), "reward_funcs": ["keywords"]}
    assert failures("please call", row={}, only=["keyword"], **settings) == ["keyword"]


@pytest.fixture(scope="module")
def model():
    return tiny_whisper()


class Scripted:
    """Hypotheses that a model would have sampled."""

    def __init__(self, miner, said):
        self.miner, self.said = miner, said

    def install(self, monkeypatch):
        from audiorl.pairs import miner as module

        def hypotheses(family, model, batch, states, config):
            texts = [self.said[row] for row in batch.row_ids.tolist()]
            return [[module.Hypothesis(text, [1], -1.0, "sample@1") for text in own] for own in texts]

        monkeypatch.setattr(module, "model_hypotheses", hypotheses)


SAID = {
    0: ["the lazy dog", "a lazy dog", "the lazy dog the lazy dog the lazy dog the lazy dog"],
    1: ["all year", "all ear"],
    2: ["she had your dark suit", "she had your dark suit and a hat and some shoes too"],
}


def test_only_clips_that_fail_are_paired_and_only_with_what_failed(model, monkeypatch):
    Scripted(None, SAID).install(monkeypatch)
    found = mine_pairs(*model, rows(3), only=["loop", "hallucination"], strategy="transcript_vs_each", progress=False)
    pairs = [(row["chosen"], row["rejected"], row["rejected_failures"]) for row in found.rows]
    assert pairs == [
        (TEXTS[0], SAID[0][2], ["loop", "hallucination"]),
        (TEXTS[2], SAID[2][1], ["hallucination"]),
    ]
    assert found.clips == 2 and [row["text"] for row in found.hypotheses] == [TEXTS[0], TEXTS[2]]
    # the best hypothesis is chosen only where it does not fail itself
    best = mine_pairs(*model, rows(3), only=["loop"], strategy="best_vs_worst", progress=False)
    assert [(row["chosen"], row["rejected"]) for row in best.rows] == [(SAID[0][0], SAID[0][2])]
    plain = mine_pairs(*model, rows(3), strategy="transcript_vs_each", progress=False)
    assert len(plain.rows) == 4 and "rejected_failures" not in plain.rows[0]


def test_clips_that_do_not_fail_are_counted(model, monkeypatch):
    from audiorl.models import speech_family

    Scripted(None, SAID).install(monkeypatch)
    network, processor = model
    miner = Miner(network.eval(), speech_family(network, processor), MiningConfig(only=["loop"]))
    from audiorl.datasets import speech_rows

    mined = miner(list(speech_rows(rows(3))))
    assert mined.left_out[NO_FAILURE] == 2 and len(mined.clips) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ["loops"]}, "only has no 'loops'. It takes loop, hallucination"),
        ({"only": []}, "has to name failures"),
        ({"only": ["loop"], "source": "synthetic"}, "the source is 'synthetic'"),
        ({"translations": "table.json"}, "Set source='synthetic'"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        MiningConfig(**settings)


def test_keywords_that_no_row_has_are_refused(model):
    with pytest.raises(ValueError, match=r"only=keyword looks for keywords of the rows, which lack \['keywords'\]"):
        mine_pairs(*model, rows(1), only=["keyword"], progress=False)


# ---- code-switching ----

TABLE = {"new phone": "新手机", "meeting": "会议", "mañana": "tomorrow"}


def corrupted(kind, text, language="zh", translate=None, seed=0):
    return CORRUPTIONS[kind](Source(text, language, (), False, translate), Random(seed))


@pytest.mark.parametrize(
    ("text", "language", "omitted", "translated"),
    [
        ("我昨天买了 new phone 给妈妈", "zh", "我昨天买了 给妈妈", "我昨天买了 新手机 给妈妈"),
        ("今天有meeting吗", "zh", "今天有吗", "今天有会议吗"),
        # one script: the table alone knows
        ("see you mañana then", "en", "see you then", "see you tomorrow then"),
        ("see you Mañana", "en", "see you", "see you tomorrow"),
        ("今天有事吗", "zh", None, None),
        ("new phone", "zh", None, "新手机"),  # nothing would be left
    ],
)
def test_switches_are_omitted_or_translated(text, language, omitted, translated):
    assert corrupted("switch_omitted", text, language, TABLE) == omitted
    assert corrupted("switch_translated", text, language, TABLE) == translated


def test_a_function_translates_what_is_in_another_script():
    asked = []

    def model(phrase):
        asked.append(phrase)
        return {"new phone": "新手机"}.get(phrase)

    assert corrupted("switch_translated", "买了 new phone 了", translate=model) == "买了 新手机 了"
    assert corrupted("switch_translated", "买了 old car 了", translate=model) is None
    assert asked == ["new phone", "old car"]
    assert corrupted("switch_translated", "买了 new phone 了") is None
    # of a language that is not named the most frequent script is its own
    assert corrupted("switch_omitted", "我昨天去买了 new", language=None) == "我昨天去买了"


def test_texts_of_one_language_are_corrupted_as_before_and_mixed_ones_in_both_ways():
    text = "我昨天买了 new phone 给妈妈"
    made = dict(synthetic_negatives(text, count=20, language="zh", translate=TABLE))
    assert made["我昨天买了 新手机 给妈妈"] == "switch_translated"
    assert "我昨天买了 给妈妈" in made  # a deletion may have come first
    plain = synthetic_negatives("she had your dark suit", count=6, seed=3, language="en")
    assert not [made for made in plain if made.kind.startswith("switch")]


def test_the_table_comes_from_a_file(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE), encoding="utf-8")
    texts = {"text": ["买了 new phone 了"], "language": ["zh"]}
    settings = {"source": "synthetic", "corruptions": ["switch_translated"], "translations": str(path)}
    found = mine_pairs(None, None, rows(1, **texts), progress=False, **settings)
    (pair,) = found.rows
    assert (pair["rejected"], pair["rejected_origin"]) == ("买了 新手机 了", "switch_translated")
    for content, message in (("[", "cannot be read"), ('{"a": 1}', "one JSON object of texts")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            mine_pairs(None, None, rows(1, **texts), progress=False, **settings)

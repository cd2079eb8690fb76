"""What every shipped reward keeps: range, name, pickling, and an honest hypothesis above adversarial ones."""

import pickle
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiorl.rewards import REWARDS, FunASR, Hallucination, KeywordScore, LabelMatch, RewardSet
from audiorl.text import count_keywords
from tests.rewards.examples import (
    ENGLISH,
    OF_GROUPS,
    RANGES,
    SCENES,
    UNTOLD,
    WHOLE_SENTENCE,
    score,
    score_one,
    with_labels,
)

WORDS = "the cat sat na na na Nguyen thanks for watching 今 天 气 สวัสดี привет मौसम ♪ [music] (um) ... www.a.b é".split()
OF_OTHER_COLUMNS = ("label_match", "fuzzy_label_match", "label_set_match", "answer_match", "answer_f1")
OF_KEYWORDS = (
    *("keywords", "keyword_precision", "keyword_recall", "one_minus_keyword_wer"),
    *("context_keywords", "entities", "sounding_entities"),
)
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
rows = st.fixed_dictionaries(
    {
        "text": texts,
        "keywords": st.one_of(st.none(), st.lists(texts, max_size=4)),
        "language": st.one_of(st.none(), st.sampled_from(["en", "zh", "ja", "hi", "xx", "EN-us"])),
        "label": texts,
        "all_labels": st.lists(texts, max_size=3),
        "answers": st.one_of(texts, st.lists(texts, max_size=3)),
        "other_transcripts": st.one_of(texts, st.lists(texts, max_size=3)),
    }
)


def test_every_reward_has_a_range_and_its_registered_name():
    assert set(RANGES) == set(REWARDS)
    assert all(reward.__name__ == name for name, reward in REWARDS.items())
    assert len(RewardSet(list(REWARDS)).names) == len(REWARDS)


@settings(max_examples=300, deadline=None)
@given(rows, st.lists(texts, min_size=1, max_size=3))
def test_any_text_has_a_value_in_the_range(row, hypotheses):
    for name, (lowest, highest) in RANGES.items():
        if not _sounds(name, row):
            continue
        for value in score(name, [*hypotheses, row["text"]], row):
            lacking = {"agreement": "other_transcripts", **dict.fromkeys(OF_KEYWORDS, "keywords")}.get(name)
            if lacking == "other_transcripts" and row[lacking] == "":
                assert isinstance(value, float)
            elif lacking is not None and not row[lacking]:
                assert value is None
            else:
                assert isinstance(value, float) and lowest <= value <= highest, name


def _sounds(name, row):
    """There is no voice of the language "xx", which stops a run with phonemes: test_entities.py."""
    return name != "sounding_entities" or row["language"] != "xx" or not row["keywords"]


def _spoken(row):
    reward = KeywordScore()
    ((pair, index),) = reward.judged_rows([""], [row["text"]], {"keywords": [row["keywords"]]})
    return count_keywords(pair, index).true


@settings(max_examples=100, deadline=None)
@given(rows)
def test_the_transcript_itself_gets_the_best_value(row):
    for name in RANGES:
        if name not in ("overlong", "language", *OF_OTHER_COLUMNS, *UNTOLD) and _sounds(name, row):
            best = RANGES[name][1]
            if name == "funasr":
                best = 2 if row["keywords"] else 1
            if name == "context_keywords" and row["keywords"]:  # half a point for each one spoken
                best = REWARDS[name].each * _spoken(row)
            value = score_one(name, row["text"], **row)
            assert value == best or (value is None and not row["keywords"]), name


@settings(max_examples=50, deadline=None)
@given(rows, st.lists(texts, min_size=2, max_size=4), st.randoms())
def test_values_do_not_depend_on_the_other_hypotheses(row, hypotheses, random):
    order = list(range(len(hypotheses)))
    random.shuffle(order)
    for name in REWARDS:
        if name in OF_GROUPS or not _sounds(name, row):
            continue
        together = score(name, hypotheses, row)
        assert [score_one(name, hypothesis, **row) for hypothesis in hypotheses] == together
        assert score(name, [hypotheses[k] for k in order], row) == [together[k] for k in order]


@pytest.mark.parametrize(
    "reward",
    [
        *REWARDS.values(),
        FunASR(normalise="english", keywords=["a"], name="mine"),
        Hallucination(detect=("patterns",), patterns=("x+",)),
        LabelMatch(labels=["a"], aliases={"b": ["c"]}, min_similarity=0.5),
    ],
    ids=lambda reward: reward.__name__,
)
def test_rewards_survive_pickling(reward):
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == reward.__name__
    row = {**ENGLISH.row, "label": "b", "all_labels": ["b"], "answers": "c", "other_transcripts": "b"}
    assert score(again, [ENGLISH.honest, "c"], row) == score(reward, [ENGLISH.honest, "c"], row)


# ---- adversarial hypotheses ----

# Rewards that may stand alone.
STANDING_ALONE = [
    "one_minus_wer",
    "negative_wer",
    "negative_cer",
    "exp_cer",
    "negative_edits",
    "keywords",
    "one_minus_keyword_wer",
    "context_keywords",
    "entities",
    "sounding_entities",
    "hallucination",
    "length_ratio",
    "length_hallucination",
    "answer_f1",
    "funasr",
    "agreement",
]
# What a reward does not see, so that it wants another beside it; its docstring says so.
BLIND_TO = {
    "keyword_recall": {"stuffed", "twice"},
    "keyword_precision": {"empty", "loop", "invention"},
    "language": {"stuffed", "empty", "twice", "loop", "invention"},
    "stock_phrases": {"stuffed", "empty", "twice", "loop", "invention"},
    "overlong": {"stuffed", "empty", "twice", "invention"},
    "confidence": {"stuffed", "empty", "twice", "loop", "invention"},
}


def test_every_reward_meets_the_adversaries():
    # those of groups meet theirs in test_consensus.py
    assert {*STANDING_ALONE, *WHOLE_SENTENCE, *BLIND_TO, *OF_GROUPS} == set(REWARDS)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", [*STANDING_ALONE, *WHOLE_SENTENCE])
def test_adversarial_hypotheses_rank_below_an_honest_one(name, scene):
    row, honest, attacks = SCENES[scene]
    if name in WHOLE_SENTENCE:
        honest = row["text"]
    row = with_labels(row)
    best = score_one(name, honest, **row)
    for attack, hypothesis in attacks.items():
        assert score_one(name, hypothesis, **row) < best, attack


@pytest.mark.parametrize("name", BLIND_TO)
def test_blind_spots_are_those_that_are_known_and_an_error_rate_beside_it_closes_them(name):
    row, honest, attacks = ENGLISH
    alone = {attack: score_one(name, text, **row) for attack, text in attacks.items()}
    assert {attack for attack, value in alone.items() if value >= score_one(name, honest, **row)} == BLIND_TO[name]
    columns = {column: [value] * (1 + len(attacks)) for column, value in row.items()}
    hypotheses = [honest, *attacks.values()]
    total = RewardSet(["one_minus_wer", name])(
        hypotheses,
        [[1]] * len(hypotheses),
        columns,
        ["row 0"] * len(hypotheses),
        completion_logps=[-1.0] * len(hypotheses),
    ).total
    if name == "keyword_precision":  # where nothing is said nothing is wrong: it needs recall as well
        both = ["one_minus_wer", name, "keyword_recall"]
        total = RewardSet(both)(hypotheses, [[1]] * len(hypotheses), columns, ["row 0"] * len(hypotheses)).total
    assert max(total[1:]) < total[0]


def test_the_composite_sees_what_its_parts_do_not():
    """The keywords alone satisfy the keywords' reward, a text of the right length the ratio."""
    row, honest, _ = ENGLISH
    best = score_one("funasr", honest, **row)
    assert score_one(KeywordScore(), "nguyen friday", **row) == 1
    same_length = "my uncle bought some very cheap yellow paint for their house again"
    assert score_one("length_ratio", same_length, **row) == 1
    for attack in (
        "nguyen friday",
        same_length,
        "thanks for watching",
        "请在星期五中午之前",
        row["text"] + " [music]" * 8,
    ):
        assert score_one("funasr", attack, **row) < best


# ---- speed and import ----


def test_the_composite_scores_512_hypotheses_in_a_fraction_of_a_second():
    """benchmarks/rewards.py measures it; three times its limit here, because other tests share the machine."""
    rng = np.random.default_rng(0)
    words = rng.choice([f"word{i}" for i in range(300)], size=(64, 20))
    transcripts = [" ".join(words[i // 8]) for i in range(512)]
    hypotheses = [" ".join(np.where(rng.random(20) < 0.8, words[i // 8], words[i % 64])) for i in range(512)]
    row = {"text": transcripts, "keywords": [list(words[i // 8][:3]) for i in range(512)], "language": ["en"] * 512}
    seconds = []
    for _ in range(3):
        start = time.process_time()
        REWARDS["funasr"](completions=hypotheses, **row)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15


def test_importing_rewards_loads_no_transformers():
    code = "import sys, audiorl.rewards; print([n for n in ('transformers', 'trl', 'datasets') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- TRL ----


def test_shipped_rewards_run_in_trls_own_loop():
    """The method of TRL's trainer that calls rewards, on a trainer that has nothing else."""
    from accelerate import Accelerator
    from trl import GRPOTrainer

    row, honest, attacks = ENGLISH
    row = {
        **row,
        "label": "calm",
        "all_labels": ["calm"],
        "answers": ["calm"],
        "prompt": "",
        "other_transcripts": "calm",
    }
    hypotheses = [honest, *attacks.values()]
    # TRL does not say which hypotheses belong to one clip, nor how likely they are
    names = [name for name in REWARDS if name not in (*OF_GROUPS, "confidence")]
    trainer = SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        reward_funcs=[REWARDS[name] for name in names],
        reward_processing_classes=[None] * len(names),
        reward_func_names=names,
        state=SimpleNamespace(global_step=0),
        _log_completion_extra=None,
        _log_metric=None,
        environments=None,
        args=SimpleNamespace(report_to=[]),
        current_gradient_accumulation_steps=1,
    )
    ids = [[1] * len(text) for text in hypotheses]
    theirs = GRPOTrainer._calculate_rewards(trainer, [row] * len(ids), [""] * len(ids), hypotheses, ids)
    for place, name in enumerate(names):
        assert theirs[:, place].tolist() == pytest.approx(score(name, hypotheses, row), abs=1e-6), name

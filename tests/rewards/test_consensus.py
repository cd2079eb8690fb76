"""Oracles: minimum Bayes risk by a double loop, values worked by hand; what a group that only repeats itself earns."""

import math
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiorl.losses import ADVANTAGES
from audiorl.rewards import Agreement, Confidence, Consensus, RewardError, RewardSet
from audiorl.trainers.raft_cycle import select_hypotheses
from tests.oracles import edit_distance


def group_of(*sizes):
    return [(row, k) for row, size in enumerate(sizes) for k in range(size)]


def consensus(*texts, **settings):
    return Consensus(**settings)(completions=list(texts), group=group_of(len(texts)))


def oracle(texts, min_length=0.5):
    """Goel and Byrne 2000: the mean over the other samples, each taken for the truth; ours are the exceptions."""
    words = [text.split() for text in texts]
    if all(said == words[0] for said in words):
        return [0.0] * len(words)
    found = []
    for k, said in enumerate(words):
        total = 0.0
        for j, true in enumerate(words):
            if j != k:
                total += max(0.0, 1 - edit_distance(true, said) / max(len(true), 1))
        short = not said or len(said) < min_length * median(map(len, words))
        found.append(0.0 if short else total / (len(words) - 1))
    return found


words = st.lists(st.sampled_from("ab cd ef".split()), max_size=5).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=2, max_size=6), st.sampled_from([0.0, 0.5, 1.0]))
def test_consensus_is_minimum_bayes_risk(texts, min_length):
    found = consensus(*texts, min_length=min_length)
    assert found == pytest.approx(oracle(texts, min_length))
    assert all(0 <= value <= 1 for value in found)


def test_consensus_worked_by_hand():
    # two say one thing; of the third's four words one is another
    assert consensus("a b c d", "a b c d", "a b c x") == pytest.approx([(1 + 3 / 4) / 2, (1 + 3 / 4) / 2, 3 / 4])
    # by characters: "abd" for "abc"
    assert consensus("abc", "abd", "abc", unit="character") == pytest.approx([5 / 6, 2 / 3, 5 / 6])
    # case and punctuation do not count; Chinese is compared by characters
    assert consensus("Hello!", "hello", "x") == [0.5, 0.5, 0]
    assert consensus("你好吗", "你好啊", "你好吗") == pytest.approx([5 / 6, 2 / 3, 5 / 6])


@pytest.mark.parametrize("said", ["", "thanks for watching", "...", "thanks thanks thanks"])
@pytest.mark.parametrize("count", [2, 8])
def test_identical_wrong_or_empty_hypotheses_earn_nothing(said, count):
    """Not of GRPO, whose advantages are 0, and not of RAFT, whose threshold they do not reach."""
    for name in ("consensus", "consensus_cer"):
        table = RewardSet([name])([said] * count, [[1]] * count, {}, ["row 0"] * count, group=group_of(count))
        assert table.total == [0.0] * count
        rewards = torch.tensor([table.total], dtype=torch.float64)
        for advantages in ADVANTAGES.values():
            assert not advantages(rewards, torch.ones(1, count, dtype=torch.bool)).any()
        kept = select_hypotheses(rewards, torch.ones(1, count, dtype=torch.bool), reward_threshold=0.1)
        assert not kept.any()


HONEST = ["please call doctor win at noon", "please call doctor nguyen at noon", "please hall doctor nguyen at noon"]


@pytest.mark.parametrize(
    "attack",
    ["", "please", "noon noon noon noon noon noon", "the weather is nice today", "please call doctor " * 10],
)
def test_an_honest_hypothesis_earns_more_than_one_that_did_not_listen(attack):
    rewards = consensus(*HONEST, attack)
    assert rewards[1] == max(rewards) and rewards[3] == min(rewards) < min(rewards[:3])


def test_short_outputs_earn_nothing_even_where_they_are_the_majority_of_words():
    assert consensus("a", "a b c d", "a b c e", "a b c f")[0] == 0
    assert consensus("a", "a b c d", "a b c e", "a b c f", min_length=0)[0] > 0
    # a majority that says nothing: nobody earns by it
    assert consensus("", "", "", "a b") == [0, 0, 0, 0]


def test_one_hypothesis_alone_is_not_judged():
    assert consensus("a b") == [None]
    table = RewardSet(["consensus"])(["a", "b"], [[1], [1]], {}, ["r0", "r1"], group=group_of(1, 1))
    assert table.parts["consensus"] == [None, None] and all(map(math.isnan, table.total))


def test_groups_are_told_apart_wherever_they_stand():
    texts = ["a b", "x y", "a c", "x y"]
    mixed = Consensus()(completions=texts, group=[(0, 0), (1, 0), (0, 1), (1, 1)])
    assert mixed == [0.5, 0, 0.5, 0]


def test_a_reward_that_asks_for_its_group_gets_it_and_others_do_not():
    seen = {}

    def asks(completions, group, **columns):
        seen["asks"], seen["columns"] = group, set(columns)
        return [float(k) for _, k in group]

    def does_not(completions, **columns):
        seen["not"] = set(columns)
        return [0.0] * len(completions)

    rewards = RewardSet([asks, does_not])
    assert rewards.asked == {"group": ["asks"]}
    rewards.check_columns(["audio"])
    table = rewards(["a", "b", "c"], [[1]] * 3, {"speaker": ["s"] * 3}, ["r"] * 3, group=group_of(2, 1))
    assert table.parts["asks"] == [0, 1, 0] and seen["asks"] == [(0, 0), (0, 1), (1, 0)]
    assert "group" not in seen["columns"] | seen["not"] and "completion_logps" not in seen["not"]


def test_a_column_may_be_called_group_where_no_reward_asks_for_it():
    columns = {"text": ["a"], "group": ["north"]}
    RewardSet(["one_minus_wer"]).check_columns(list(columns))
    RewardSet(["one_minus_wer"])(["a"], [[1]], columns, ["row 0"])
    with pytest.raises(RewardError, match=r"columns called \['group'\].*Rename"):
        RewardSet(["consensus"]).check_columns(list(columns))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, r"\['consensus'\] compare the hypotheses of a clip.*Call the rewards with group="),
        ([(0, 0), (0, 1), (1, 1)], r"of row 2 there are only those numbered \[1\]. Reward whole groups"),
        ([(0, 0), (0, 0), (1, 0)], "numbered from 0"),
    ],
)
def test_a_cut_group_is_refused(group, message):
    with pytest.raises(RewardError, match=message):
        RewardSet(["consensus"])(["a", "b", "c"], [[1]] * 3, {}, [f"row {i}" for i in range(3)], group=group)
    with pytest.raises(RewardError, match="not told which belong to one"):
        Consensus()(completions=["a"])


def test_confidence_is_the_log_probability_of_a_token():
    rewards = RewardSet([Confidence()])
    table = rewards(["a b", "a"], [[1, 2, 3], [1]], {}, ["r"] * 2, completion_logps=[-6.0, -1.5])
    assert table.total == [-2.0, -1.5]
    # nobody knows it of what was decoded and not sampled
    assert RewardSet(["confidence", "overlong"])(["a"], [[1]], {}, ["r"]).parts["confidence"] == [None]
    # an empty hypothesis is its end token; one without any token divides by 1
    assert Confidence()(completion_ids=[[], [2]], completion_logps=[-0.5, -0.5]) == [-0.5, -0.5]


def test_agreement_worked_by_hand():
    row = {"other_transcripts": [["a b c d", "a b c x", None]]}
    assert Agreement()(completions=["a b c d"], **row) == pytest.approx([(1 + 3 / 4) / 2])
    assert Agreement()(completions=[""], **row) == [0]
    assert Agreement()(completions=["a"], other_transcripts=["a"]) == [1]
    assert Agreement(column="whisper")(completions=["a x", "a x"], whisper=["a b", None]) == [0.5, None]
    for nothing in ([], [None], None):
        assert Agreement()(completions=["a"], other_transcripts=[nothing]) == [None]
    assert Agreement()(completions=["", "um"], other_transcripts=[[""], [""]]) == [1, 0]
    for attack in ("", "please", "the weather is nice today", "please call doctor " * 10, HONEST[1] * 2):
        scored = Agreement()(completions=[HONEST[0], attack], other_transcripts=[HONEST[1:]] * 2)
        assert scored[0] > scored[1], attack


def test_agreement_needs_its_column():
    with pytest.raises(RewardError, match="agreement reads the column 'other_transcripts', which is missing"):
        RewardSet(["agreement"]).check_columns(["audio", "text"])
    with pytest.raises(RewardError, match="'other_transcripts', which the rows do not have"):
        Agreement()(completions=["a"])
    with pytest.raises(RewardError, match=r"holds a text or a list of texts; a row has \[3\]"):
        Agreement()(completions=["a"], other_transcripts=[[3]])


def test_settings_are_checked_when_built():
    with pytest.raises(ValueError, match=r"a share of the group's median length, 0 to 1 .*; got 2"):
        Consensus(min_length=2)
    with pytest.raises(ValueError, match="unit"):
        Consensus(unit="syllable")
    with pytest.raises(ValueError, match="No normalizer"):
        Agreement(normalise="loud")

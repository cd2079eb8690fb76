"""What a person sees who prints a result in a REPL: a few lines of words and numbers, no arrays and no addresses."""

from __future__ import annotations

import pytest

from audiorl import RewardSet, load_reward
from audiorl.evaluation import Comparison, Decoded, Endpoint, LocalModel, compare
from audiorl.pairs import MinedPairs, MiningFolder
from audiorl.report import Checkpoint
from audiorl.rewards import REWARDS
from audiorl.text import KeywordCounts, align_texts, count_errors, normalizer
from tests.tiny_models import tiny_whisper

TRUE = ["the cat sat on the mat"] * 500
SAID = ["the cat sat on a mat"] * 500


COUNTED = "16.7 % errors: 500 substituted, 0 deleted, 0 inserted of 3000 words"


def results() -> dict[str, object]:
    errors = count_errors(TRUE, SAID, normalise="english")
    model, processor = tiny_whisper()
    return {
        "Errors": errors,
        "ErrorCounts": errors.total,
        "Decoded": Decoded(TRUE, SAID),
        "Comparison": compare(Decoded(TRUE, SAID), Decoded(TRUE, TRUE)),
        "one clip": Comparison(errors.part([0]), errors.part([1]), None),
        "PairedResult": compare(Decoded(TRUE, SAID), Decoded(TRUE, TRUE)).paired,
        "Normalizer": normalizer("english"),
        "KeywordCounts": KeywordCounts(3, 4, 5),
        "Alignment": align_texts(TRUE[0], SAID[0]),
        "Checkpoint": Checkpoint("checkpoint-20", 20, 0.5, None, {"held_out": 0.25}, True, {}),
        "MinedPairs": MinedPairs([{"chosen_reward": 1.0, "rejected_reward": 0.5}] * 500, 500, 0.3),
        "RewardSet": RewardSet(["one_minus_wer", "keywords"]),
        "LocalModel": LocalModel("tiny", model, processor),
        "Endpoint": Endpoint("http://127.0.0.1:8000", "whisper", api_key="secret-key"),
        "MiningFolder": MiningFolder("pairs", {}),
    }


@pytest.fixture(scope="module")
def known() -> dict[str, object]:
    return results()


def test_results_are_readable_when_printed_and_in_a_repl(known):
    for name, result in known.items():
        for shown in (str(result), repr(result)):
            assert len(shown) < 900 and max(map(len, shown.splitlines())) <= 140, (name, shown)
            for unreadable in ("array(", "tensor(", "object at 0x", "function ", "secret"):
                assert unreadable not in shown, (name, shown)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "Errors",
            "16.7 % errors: 500 substituted, 0 deleted, 0 inserted of 3000 words, in 500 clips; normalizer english",
        ),
        ("ErrorCounts", COUNTED),
        ("KeywordCounts", "3 of 4 keywords heard (75.0%); 5 said, 60.0% of them true"),
        ("Checkpoint", "checkpoint-20: loss 0.5, WER 25.0% (held_out), the best one"),
        ("PairedResult", "-16.7 points (95 % interval -16.7 to -16.7), p = 0.0002"),
    ],
)
def test_results_in_words(known, name, shown):
    assert str(known[name]) == shown


def test_a_comparison_says_its_verdict(known):
    better = known["Comparison"]
    assert better.verdict == "better" and str(better).endswith("Verdict     better (paired bootstrap p = 0.0002)")
    worse = compare(Decoded(TRUE, TRUE), Decoded(TRUE, SAID))
    assert worse.verdict == "worse" and "Verdict     worse (" in str(worse)
    same = compare(Decoded(TRUE, SAID), Decoded(TRUE, SAID))
    assert same.verdict == "cannot tell" and "Verdict     cannot tell: the interval includes 0 (" in str(same)
    assert "cannot tell: one clip" in str(known["one clip"])


def test_labels_are_compared_by_accuracy_with_the_better_sign():
    better = compare(Decoded(["a"] * 40, ["b"] * 40), Decoded(["a"] * 40, ["a"] * 40), unit="word")
    labels = Comparison(*(errors_of(one) for one in (better.before, better.after)), better.tested)
    lines = str(labels).splitlines()
    assert lines[0].startswith("Accuracy before  0.0 %") and lines[2].startswith("Difference       +100.0 points")
    assert lines[3] == "Verdict          better (paired bootstrap p = 0.0002)"


def errors_of(counted):
    from dataclasses import replace

    return replace(counted, unit="label")


def test_shipped_rewards_show_their_settings():
    for name in REWARDS:
        assert name in repr(load_reward(name)) or "(" in repr(load_reward(name))
        assert "object at 0x" not in repr(load_reward(name)), name

"""Oracles: values worked by hand, and TRL's soft overlong punishment."""

import pytest
from trl.rewards import get_soft_overlong_punishment

from audiorl.rewards import LabelMatch, LabelSetMatch, RewardError, RewardSet, SoftOverlong
from tests.rewards.examples import score_one


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        ("a b c d", "a b c d", 1),
        ("a b c d", "w x y z", 1),
        ("a b c d", "a b c", 3 / 4),
        ("a b c d", "a b c d e f g h", 1 / 2),
        ("a b", "", 0),
        ("", "a b", 0),
        ("", "", 1),
        ("今天天气", "今天", 1 / 2),
    ],
)
def test_length_ratio_worked_by_hand(transcript, hypothesis, expected):
    assert score_one("length_ratio", hypothesis, text=transcript) == expected


@pytest.mark.parametrize(("max_tokens", "margin"), [(100, 20), (100, 0), (10, 10)])
def test_overlong_equals_trls_punishment(max_tokens, margin):
    ids = [[1] * n for n in range(0, 2 * max_tokens)]
    ours = SoftOverlong(max_tokens=max_tokens, margin=margin)(completion_ids=ids, completions=[""] * len(ids))
    assert ours == pytest.approx(get_soft_overlong_punishment(max_tokens, margin)(completion_ids=ids))
    assert ours[max_tokens + 1] == -1 and ours[0] == 0


def test_overlong_worked_by_hand():
    reward = SoftOverlong(max_tokens=100, margin=20)
    assert reward(completion_ids=[[1] * n for n in (80, 85, 100, 101)]) == [0, -0.25, -1, -1]
    RewardSet([reward]).check_columns([])


@pytest.mark.parametrize("settings", [{"max_tokens": 0, "margin": 0}, {"margin": -1}, {"max_tokens": 10, "margin": 11}])
def test_overlong_settings_are_checked_when_built(settings):
    with pytest.raises(ValueError, match="0 <= margin <= max_tokens"):
        SoftOverlong(**settings)


EMOTIONS = LabelMatch(
    labels=["angry", "sad", "unhappy"], aliases={"happy": ["joyful", "glad"]}, min_similarity=0.7, name="emotion"
)


@pytest.mark.parametrize(
    ("label", "hypothesis", "exact", "fuzzy"),
    [
        ("happy", "Happy.", 1, 1),
        ("happy", "joyful", 1, 1),
        ("Happy", "glad", 1, 1),
        ("happy", "sad", 0, 0),
        # 1 edit of 5 characters
        ("happy", "hoppy", 0, 4 / 5),
        # 1 of 6, nearest to the alias
        ("happy", "joyfal", 0, 5 / 6),
        # another label, near as it is: 2 edits of 7
        ("happy", "unhappy", 0, 0),
        # nearer to "unhappy" (1 of 7) than to "happy"
        ("happy", "unhoppy", 0, 0),
        ("unhappy", "unhoppy", 0, 6 / 7),
        ("happy", "happy happy", 0, 0),
        ("happy", "happy, sad", 0, 0),
        ("happy", "", 0, 0),
        ("", "", 1, 1),
        ("", "happy", 0, 0),
        (None, "happy", None, None),
        # a label beside those listed
        ("calm", "calm", 1, 1),
    ],
)
def test_labels_worked_by_hand(label, hypothesis, exact, fuzzy):
    strict = LabelMatch(aliases={"happy": ["joyful", "glad"]})
    assert score_one(strict, hypothesis, label=label) == exact
    assert score_one(EMOTIONS, hypothesis, label=label) == (None if fuzzy is None else pytest.approx(fuzzy))


def test_a_near_miss_belongs_to_the_nearest_label():
    reward = LabelMatch(labels=["happy", "harpy"], min_similarity=0.5)
    # 2 edits from happy, 1 from harpy; "haxpy" is 1 from both
    assert score_one(reward, "harpi", label="happy") == 0
    assert score_one(reward, "harpi", label="harpy") == 4 / 5
    assert score_one(reward, "haxpy", label="happy") == score_one(reward, "haxpy", label="harpy") == 0


def test_the_label_column_is_a_setting():
    reward = LabelMatch(column="emotion")
    assert score_one(reward, "sad", emotion="sad") == 1
    with pytest.raises(RewardError, match="label_match reads the column 'emotion', which is missing"):
        RewardSet([reward]).check_columns(["label"])


def test_label_settings_and_rows_are_checked():
    with pytest.raises(ValueError, match="above 0 to 1"):
        LabelMatch(min_similarity=0)
    with pytest.raises(ValueError, match="'glad' for two labels, 'happy' and 'sad'"):
        LabelMatch(aliases={"happy": ["glad"], "sad": ["Glad!"]})
    with pytest.raises(ValueError, match=r"the column 'label' has 3, a int\. Write the label's name"):
        score_one(LabelMatch(), "sad", label=3)


@pytest.mark.parametrize(
    ("labels", "hypothesis", "precision", "f1", "f2"),
    [
        (["Dog", "Rain"], "dog", 1, 2 / 3, 5 / 9),
        (["dog", "rain"], "cat", 0, 0, 0),
        # 2 of 3 said are true, 2 of 2 true are said
        (["dog", "rain"], "rain; cat; dog", 2 / 3, 4 / 5, 10 / 11),
        (["dog", "rain"], "rain; dog", 1, 1, 1),
        # once is enough
        (["dog", "rain"], "rain; rain", 1, 2 / 3, 5 / 9),
        (["Whack, thwack"], "whack, thwack", 1, 1, 1),
        (["dog"], "", 0, 0, 0),
        ([], "", 1, 1, 1),
        ([], "dog", 0, 0, 0),
        (None, "dog", None, None, None),
    ],
)
def test_sets_of_labels_worked_by_hand(labels, hypothesis, precision, f1, f2):
    for beta, expected in ((0, precision), (1, f1), (2, f2)):
        found = score_one(LabelSetMatch(beta=beta, separator="; "), hypothesis, all_labels=labels)
        assert found == (None if expected is None else pytest.approx(expected))


def test_without_a_separator_an_answer_is_one_label():
    assert score_one(LabelSetMatch(), "dog, rain", all_labels=["dog", "rain"]) == 0
    assert score_one(LabelSetMatch(), "rain", all_labels=["dog", "rain"]) == 1
    assert score_one(LabelSetMatch(column="tags"), "rain", tags=("rain",)) == 1


def test_settings_and_rows_of_label_sets_are_checked():
    with pytest.raises(ValueError, match=r"beta, 0 or more; got -1"):
        LabelSetMatch(beta=-1)
    with pytest.raises(ValueError, match="empty separator"):
        LabelSetMatch(separator="")
    for labels in ("dog", 3, ["dog", 3]):
        with pytest.raises(ValueError, match=r"'all_labels' has .*Give a list of names"):
            score_one(LabelSetMatch(), "dog", all_labels=labels)
    with pytest.raises(RewardError, match="label_set_match reads the column 'all_labels', which is missing"):
        RewardSet(["label_set_match"]).check_columns(["label"])

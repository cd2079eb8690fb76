"""Oracle: values worked by hand, and the reward for labels where the two ask the same."""

import pytest

from audiorl.rewards import AnswerMatch, LabelMatch, RewardError, RewardSet
from tests.rewards.examples import score_one


@pytest.mark.parametrize(
    ("answers", "said", "exact", "partial"),
    [
        ("two", "Two.", 1, 1),
        (["two", "2"], "2", 1, 1),
        (["two", "2"], "three", 0, 0),
        # the letter of a multiple choice, which is an article too
        (["A"], "a.", 1, 1),
        (["A"], "", 0, 0),
        (["A"], "B", 0, 0),
        # 2 of 3 said are right, 2 of 2 right are said
        ("red fox", "a red fox", 0, 4 / 5),
        ("red fox", "fox", 0, 2 / 3),
        ("red fox", "fox red", 0, 1),
        # the nearest answer counts: 1 of 1 and 1 of 2, not 1 of 1 and 1 of 4
        (["one of the foxes", "the fox"], "fox", 0, 2 / 3),
        # once is once, and hedging costs
        ("yes", "yes yes", 0, 2 / 3),
        ("yes", "yes no", 0, 2 / 3),
        ("very very loud", "very loud loud", 0, 2 / 3),
        # characters in scripts without spaces
        ("狐狸", "红狐狸", 0, 4 / 5),
        # a question without an answer
        ([], "", 1, 1),
        ([], "dog", 0, 0),
        ("", "...", 1, 1),
        (["", "nothing"], "nothing", 1, 1),
        (None, "dog", None, None),
    ],
)
def test_answers_worked_by_hand(answers, said, exact, partial):
    assert score_one("answer_match", said, answers=answers) == exact
    found = score_one("answer_f1", said, answers=answers)
    assert found == (None if partial is None else pytest.approx(partial))


def test_one_answer_without_a_list_is_a_label():
    """Two rewards for one thing agree on it."""
    for said in ("Happy!", "sad", "", "happy sad"):
        assert score_one(AnswerMatch(column="label"), said, label="happy") == score_one(
            LabelMatch(), said, label="happy"
        )


def test_the_normaliser_and_the_column_are_settings():
    assert score_one(AnswerMatch(normalise="none"), "Dog", answers=["dog"]) == 0
    assert score_one(AnswerMatch(column="text"), "Dog", text="dog") == 1
    with pytest.raises(RewardError, match="answer_match reads the column 'answers', which is missing"):
        RewardSet(["answer_match"]).check_columns(["text"])


@pytest.mark.parametrize("answers", [3, [3], {"text": ["dog"]}, [["dog"]]])
def test_what_is_no_text_is_told_with_the_reward_and_the_column(answers):
    with pytest.raises(ValueError, match=r"answer_match: accepted answers are a text or a list.*'answers' has .*Write"):
        score_one("answer_match", "dog", answers=answers)

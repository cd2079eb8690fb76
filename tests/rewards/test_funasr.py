"""Oracle: the parts' values worked by hand and added."""

import pytest

from audiorl.rewards import FunASR, Hallucination, KeywordScore, OneMinusWER, RewardSet
from tests.rewards.examples import SCENES, score, score_one

CALL = "Please call Doctor Nguyen before noon on Friday."
ROW = {"text": CALL, "keywords": ["Nguyen", "Friday"], "language": "en"}


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("please call doctor nguyen before noon on friday", 1 + 1 + 0),
        # one of eight words wrong, one of two keywords missing
        ("please call doctor win before noon on friday", 7 / 8 + 2 / 3 + 0),
        # one inserted
        ("please call uh doctor nguyen before noon on friday", 7 / 8 + 1 - 1 / 8),
        # two keywords too many: precision 2/4, F1 2/3
        ("please call doctor nguyen before noon on friday nguyen friday", 6 / 8 + 2 / 3 - 2 / 8),
        ("", 0 + 0 - 1),
        ("请打电话给阮医生", -1),
        ("please call doctor nguyen before noon on friday thanks for watching", -1),
    ],
)
def test_composite_worked_by_hand(hypothesis, expected):
    assert score_one("funasr", hypothesis, **ROW) == pytest.approx(expected)


def test_rows_without_keywords_have_no_second_part():
    right = "please call doctor nguyen before noon on friday"
    assert score_one("funasr", right, text=CALL) == 1
    assert score_one("funasr", right, text=CALL, keywords=None, language=None) == 1
    assert score_one("funasr", right, text=CALL, keywords=[]) == 1
    assert score_one(FunASR(keywords=["Nguyen"]), right, text=CALL) == 2
    assert score_one("funasr", right, text=None) is None


def test_silence():
    assert score_one("funasr", "", text="") == 1
    # WER is clipped, and two of five words of the silence penalty
    assert score_one("funasr", "thank you", text="") == pytest.approx(0 - 2 / 5)


@pytest.mark.parametrize("normalise", ["basic", "lower", "none"])
@pytest.mark.parametrize("scene", SCENES)
def test_composite_is_the_sum_of_the_shipped_parts(scene, normalise):
    row, honest, attacks = SCENES[scene]
    hypotheses = [row["text"], honest, honest + " [music]", *attacks.values()]
    shared = {"normalise": normalise}
    parts = [score(cls(**shared), hypotheses, row) for cls in (OneMinusWER, KeywordScore, Hallucination)]
    overridden = [-1 in both for both in zip(*(score(n, hypotheses, row) for n in ("language", "stock_phrases")))]  # noqa: B905
    expected = [-1 if over else sum(values) for over, *values in zip(overridden, *parts, strict=True)]
    assert score(FunASR(**shared), hypotheses, row) == pytest.approx(expected)


def test_composite_equals_a_set_of_its_parts_where_the_override_caps():
    row, honest, attacks = SCENES["english"]
    hypotheses = [honest, *attacks.values(), "请打电话给阮医生", "thanks for watching"]
    parts = ["one_minus_wer", "keywords", "hallucination", "language", "stock_phrases"]
    columns = {name: [value] * len(hypotheses) for name, value in row.items()}
    table = RewardSet(parts)(hypotheses, [[1]] * len(hypotheses), columns, ["row 0"] * len(hypotheses))
    # the sum has R3 beside the override; both are at their lowest there
    assert table.total[:-2] == pytest.approx(score("funasr", hypotheses, row)[:-2])
    assert max(table.total[-2:]) <= -1


def test_composite_takes_only_what_its_parts_take(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        FunASR(keywords=tmp_path / "none.txt")
    with pytest.raises(ValueError, match="Did you mean 'basic'"):
        FunASR(normalise="basc")

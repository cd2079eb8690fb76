"""Oracle: counts worked by hand."""

import pytest

from audiorl.rewards import (
    FunASR,
    KeywordPrecision,
    KeywordRecall,
    KeywordScore,
    OneMinusKeywordWER,
    RewardError,
    RewardSet,
)
from tests.rewards.examples import score_one

CALL = "Call Doctor Nguyen at noon."
WANTED = ["Nguyen", "New York", "noon"]


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "keywords", "precision", "recall", "f1"),
    [
        (CALL, "call doctor nguyen at noon", WANTED, 1, 1, 1),
        # one of two spoken
        (CALL, "call doctor win at noon", WANTED, 1, 1 / 2, 2 / 3),
        # two right of five said: nguyen three times, noon, new york
        (CALL, "call doctor nguyen at noon nguyen nguyen new york", WANTED, 2 / 5, 1, 4 / 7),
        (CALL, "", WANTED, 1, 0, 0),
        # nothing spoken: right to say none, wrong to say one
        (CALL, "call doctor nguyen at noon", ["New York"], 1, 1, 1),
        (CALL, "call new york", ["New York"], 0, 1, 0),
        ("", "", ["noon"], 1, 1, 1),
        ("", "noon", ["noon"], 0, 1, 0),
        # whole words, and both words of two
        ("start now", "start art", ["art"], 0, 1, 0),
        ("new jersey and york", "new jersey and york", ["New York"], 1, 1, 1),
        # characters where there are no spaces
        ("请打电话给张伟", "请打电话给张威", ["张伟"], 1, 0, 0),
        ("请打电话给张伟", "请打电话给张伟", ["张伟"], 1, 1, 1),
        # one within the other: both count
        ("new york", "new york", ["new york", "york"], 1, 1, 1),
        ("new york", "york", ["new york", "york"], 1, 1 / 2, 2 / 3),
        # the same keyword twice in the list counts once; one of punctuation cannot occur
        (CALL, "call doctor win at noon", ["Nguyen", "nguyen!", "?"], 1, 0, 0),
    ],
)
def test_keyword_scores_worked_by_hand(transcript, hypothesis, keywords, precision, recall, f1):
    row = {"text": transcript, "keywords": keywords}
    found = [score_one(name, hypothesis, **row) for name in ("keyword_precision", "keyword_recall", "keywords")]
    assert found == pytest.approx([precision, recall, f1])


def test_beta_weighs_recall():
    # precision 2/5, recall 1: 5 * 0.4 / (4 * 0.4 + 1)
    stuffed = "call doctor nguyen at noon nguyen nguyen new york"
    assert score_one(KeywordScore(keywords=WANTED, beta=2), stuffed, text=CALL) == pytest.approx(10 / 13)
    assert score_one(KeywordScore(keywords=WANTED, beta=0.5), stuffed, text=CALL) == pytest.approx(1.25 * 0.4 / 1.1)


@pytest.mark.parametrize(
    ("hypothesis", "keywords", "expected"),
    [
        # weights 1 1 3 1 1
        ("call doctor nguyen at noon", ["Nguyen"], 1),
        ("call doctor win at noon", ["Nguyen"], 1 - 3 / 7),
        ("call nguyen nguyen at noon", ["Nguyen"], 1 - 3 / 7),
        ("call doctor nguyen noon", ["Nguyen"], 1 - 1 / 7),
        ("call doctor nguyen at noon nguyen", ["Nguyen"], 1 - 3 / 7),
        ("call doctor nguyen at noon uh", ["Nguyen"], 1 - 1 / 7),
        ("nguyen", ["Nguyen"], 1 - 4 / 7),
        ("", ["Nguyen"], 0),
        # weights 1 3 3 1 1
        ("call doctor win at noon", ["Doctor Nguyen"], 1 - 3 / 9),
    ],
)
def test_weighted_error_rate_worked_by_hand(hypothesis, keywords, expected):
    found = score_one(OneMinusKeywordWER(keywords=keywords, weight=3), hypothesis, text=CALL)
    assert found == pytest.approx(expected)


def test_weight_one_is_the_plain_error_rate():
    for hypothesis in ("", "call doctor win noon", "call call call call call call call call call call call"):
        plain = score_one("one_minus_wer", hypothesis, text=CALL)
        assert score_one(OneMinusKeywordWER(keywords=WANTED, weight=1), hypothesis, text=CALL) == pytest.approx(plain)


def test_weighted_error_rate_of_silence():
    reward = OneMinusKeywordWER(keywords=["noon"])
    assert [score_one(reward, said, text="") for said in ("", "uh", "noon")] == [1, 0, 0]


def test_a_row_without_keywords_is_not_judged_whatever_the_hypothesis():
    for keywords in (None, []):
        for said in ("", "call"):
            assert score_one("keywords", said, text=CALL, keywords=keywords) is None
    assert score_one("keywords", "call", text=None, keywords=WANTED) is None


def test_keywords_come_from_rows_a_list_or_a_file(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("\ufeffNguyen\n\n  New York \nnoon\n", encoding="utf-8")
    row = {"text": CALL, "keywords": WANTED}
    from_row = score_one(KeywordRecall(), "call doctor win at noon", **row)
    for given in (WANTED, str(path), path):
        reward = KeywordRecall(keywords=given)
        assert reward.keywords == tuple(WANTED)
        assert score_one(reward, "call doctor win at noon", text=CALL) == from_row == 1 / 2


def test_needed_columns_depend_on_where_keywords_come_from():
    RewardSet([KeywordScore(keywords=WANTED)]).check_columns(["text"])
    with pytest.raises(RewardError, match="keywords reads the column 'keywords', which is missing"):
        RewardSet(["keywords"]).check_columns(["text"])


@pytest.mark.parametrize("given", [["Nguyen", " New York "], "Nguyen,New York", "Nguyen、, New York,"])
def test_hot_words_are_keywords_where_they_are_asked_for(given):
    said = "call doctor win at new york"
    row = {"text": CALL, "keywords": ["noon"], "hotwords": given}
    found = [score_one(cls(column="hotwords"), said, **row) for cls in (KeywordPrecision, KeywordRecall)]
    assert found == [0, 0]
    wanted = {**row, "keywords": ["Nguyen", "New York"]}
    for cls in (KeywordScore, OneMinusKeywordWER, FunASR):
        assert score_one(cls(column="hotwords"), said, **row) == score_one(cls(), said, **wanted)
        assert score_one(cls(column="hotwords"), CALL, **row) != score_one(cls(), said, **row)


@pytest.mark.parametrize("nothing", [None, [], "", " , "])
def test_another_column_is_never_taken_by_itself(nothing):
    assert score_one("keywords", CALL, text=CALL, keywords=None, hotwords=WANTED) is None
    assert score_one(KeywordScore(column="hotwords"), CALL, text=CALL, keywords=WANTED, hotwords=nothing) is None
    with pytest.raises(RewardError, match=r"has no keywords.*no column 'terms'"):
        score_one(KeywordScore(column="terms"), CALL, text=CALL, keywords=WANTED, hotwords=WANTED)


def test_a_column_of_any_name_holds_lists():
    reward = KeywordRecall(column="terms")
    assert score_one(reward, "doctor nguyen", text=CALL, terms=WANTED) == 1 / 2
    with pytest.raises(RewardError, match="keyword_recall reads the column 'terms', which is missing"):
        RewardSet([reward]).check_columns(["text", "keywords"])
    with pytest.raises(RewardError, match="Keywords are a list of texts"):
        score_one(reward, "doctor nguyen", text=CALL, terms="Nguyen, noon")


def test_rows_whose_hot_words_are_none_stop_the_run():
    rewards = RewardSet([KeywordScore(column="hotwords")])
    with pytest.raises(RewardError, match=r"'keywords' raised ValueError: hotwords has 3 \(int\).*rows.jsonl line 2"):
        rewards(["a"], [[1]], {"text": ["a"], "hotwords": [[3]]}, ["rows.jsonl line 2"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda folder: KeywordScore(keywords=folder / "none.txt"), "cannot be read from .*none.txt"),
        (lambda folder: KeywordScore(keywords=folder / "empty.txt"), "the file .*empty.txt has"),
        (lambda folder: KeywordScore(keywords=folder / "latin1.txt"), "cannot be read from .*UTF-8"),
        (lambda folder: KeywordPrecision(keywords=[]), "list of texts with at least one"),
        (lambda folder: KeywordPrecision(keywords=["a", 3]), "list of texts"),
        (lambda folder: KeywordScore(keywords=["a"], column="hotwords"), "one place.*column='hotwords'.*Leave one"),
        (lambda folder: KeywordScore(beta=0), "beta is above 0"),
        (lambda folder: KeywordScore(beta=float("inf")), "beta is above 0"),
        (lambda folder: OneMinusKeywordWER(weight=0.5), "at least once"),
    ],
)
def test_settings_are_checked_when_built(build, message, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin1.txt").write_bytes("Müller".encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


@pytest.mark.parametrize("keywords", ["Nguyen", 3, [3]])
def test_rows_whose_keywords_are_no_list_of_texts_stop_the_run(keywords):
    with pytest.raises(RewardError, match=r"'keywords' raised RewardError: Keywords are a list.*rows.jsonl line 2"):
        RewardSet("keywords")(["a"], [[1]], {"text": ["a"], "keywords": [keywords]}, ["rows.jsonl line 2"])


def test_called_without_the_column_it_says_so():
    with pytest.raises(RewardError, match="rows have no column 'keywords'"):
        score_one("keywords", "a", text="a")

"""Oracle: changes worked by hand; the test itself is `paired_bootstrap`, which has its own."""

import pytest

from audiorl.evaluation import count_errors, paired_bootstrap
from audiorl.evaluation.measurement import changes
from tests.evaluation.clips import measured

TRANSCRIPTS = ["a b c", "d e", "f", "g h i j", "k"]
BEFORE = ["x y z", "d e", "f", "g h", "k"]  # 3, 0, 0, 2, 0 errors
AFTER = ["a b z", "d x", "f", "g h i j", "k l m n"]  # 1, 1, 0, 0, 3


def both(settings=None, **columns):
    return [
        measured(*zip(TRANSCRIPTS, hypotheses, strict=True), settings=settings, **columns)
        for hypotheses in (BEFORE, AFTER)
    ]


def test_clips_that_got_better_and_worse_the_largest_change_first():
    found = changes(*both())
    assert found.difference == 5 / 11 - 5 / 11
    assert found.relative_gain == 0.0
    assert [(c.clip, c.id, c.errors_before, c.errors_after) for c in found.better] == [(0, "c0", 3, 1), (3, "c3", 2, 0)]
    assert [(c.clip, c.id, c.errors_before, c.errors_after) for c in found.worse] == [(4, "c4", 0, 3), (1, "c1", 0, 1)]
    assert found.same == 1


def test_the_difference_is_tested_on_the_counts():
    before, after = both({"resamples": 300, "seed": 5, "group_column": "speaker"}, group=list("xxyyz"))
    errors = [count_errors(TRANSCRIPTS, texts, normalise="basic") for texts in (BEFORE, AFTER)]
    assert changes(before, after).paired == paired_bootstrap(*errors, resamples=300, seed=5, groups=list("xxyyz"))


def test_fewer_errors_are_a_negative_difference_and_a_positive_gain():
    before, _ = both()
    perfect = measured(*zip(TRANSCRIPTS, TRANSCRIPTS, strict=True))
    found = changes(before, perfect)
    assert (found.difference, found.relative_gain, len(found.better), len(found.worse)) == (-5 / 11, 1.0, 2, 0)
    assert changes(perfect, before).relative_gain == 0.0


def test_one_clip_has_no_p_value_and_other_clips_no_comparison():
    one, other = measured(("a", "b")), measured(("a", "a"))
    told = changes(one, other).to_dict()
    assert (told["interval"], told["p_value"], told["difference"]) == (None, None, -1.0)
    with pytest.raises(ValueError, match="same utterances"):
        changes(one, measured(("c", "a")))


def test_a_comparison_without_a_test_says_so_where_one_is_asked_for():
    found = changes(measured(("a", "b")), measured(("a", "a")))
    assert found.tested is None and found.difference == -1.0
    with pytest.raises(ValueError, match="at least two clips or speakers"):
        _ = found.paired
    assert repr(found) == "Comparison(before=1.0000, after=0.0000, unit='word', clips=1)"

"""Hard cases: other systems agree within 5 %, the model differs by 10 %; sentences of twenty words, one word is 5 %."""

from __future__ import annotations

import pytest

from audiorl.pairs import is_hard_case

TWENTY = "a b c d e f g h i j k l m n o p q r s t"


def with_errors(count: int, by: str = "x") -> str:
    """The last `count` words exchanged."""
    words = TWENTY.split()
    return " ".join(words[: 20 - count] + [by] * count)


@pytest.mark.parametrize(
    ("own", "others", "hard"),
    [
        (with_errors(2), [TWENTY, TWENTY, TWENTY], True),
        (with_errors(1), [TWENTY, TWENTY, TWENTY], False),  # 5 % is no significant difference
        (TWENTY, [TWENTY, TWENTY], False),
        (with_errors(4), [TWENTY, with_errors(1)], True),  # they agree within 5 %; 4 and 4 errors
        (with_errors(4), [TWENTY, with_errors(2)], False),  # they differ by 10 %
        (with_errors(2), [TWENTY, with_errors(1)], False),  # 2 errors against the one, 1 against the other
        ("", [TWENTY, TWENTY], True),
        ("some words", ["", ""], True),  # invented into silence
        (with_errors(9), [TWENTY], True),  # one system alone
        (with_errors(9), [TWENTY, None], False),  # a system without a transcript agrees with no one
        (with_errors(9), [], False),
    ],
)
def test_cases(own, others, hard):
    assert is_hard_case(own, others) is hard


def test_thresholds_are_the_callers():
    others = [TWENTY, with_errors(2)]
    assert is_hard_case(with_errors(9), others, max_disagreement=0.10)
    assert not is_hard_case(with_errors(9), others, max_disagreement=0.10, min_disagreement=0.5)


def test_the_order_of_the_systems_does_not_matter():
    short, long = "a b c d e f g h i j", "a b c d e f g h i j k"  # 1 insertion of 10 words, 1 deletion of 11
    for others in ([short, long], [long, short]):
        assert not is_hard_case("nothing of it", others, max_disagreement=0.095)
        assert is_hard_case("nothing of it", others, max_disagreement=0.1)


def test_case_and_punctuation_are_no_disagreement():
    assert not is_hard_case("Hello, World!", ["hello world"])
    assert is_hard_case("Hello, World!", ["hello world"], normalise="none")

"""Oracle: marked units counted by hand."""

import pytest

from audiorl.rewards import Hallucination
from audiorl.rewards.hallucination import DETECTORS
from tests.rewards.examples import score_one

COUNT = "one two three four five six seven eight"


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "expected"),
    [
        (COUNT, COUNT, 0),
        (COUNT, "One, two, tree; four five six seven ate!", 0),
        (COUNT, "one two three four", 0),
        # one inserted
        (COUNT, "one two three uh four five six seven eight", -1 / 8),
        # three said twice, at the end and in the middle
        (COUNT, COUNT + " six seven eight", -3 / 8),
        (COUNT, "one two three one two three four five six seven eight", -3 / 8),
        # the same after a mistake, so that the alignment may take either turn for the true one
        (COUNT, "won two three two three four five six seven eight", -2 / 8),
        (COUNT, COUNT + " " + COUNT, -1),
        (COUNT, "won" + COUNT[3:] + " " + COUNT, -1),
        (COUNT, "one two three " * 30, -1),
        # a loop of the right length: one two three is right, five units come in their place
        (COUNT, "one two three one two three one two", -5 / 8),
        # unheard words of the right number; misheard ones resemble what was said
        (COUNT, "my uncle bought some yellow paint last spring", -1),
        ("the quick brown fox", "the kwik brow fax", 0),
        # two wrong words are a mistake, not an invention
        (COUNT, "one two three four yellow paint seven eight", 0),
        # a true repetition is granted, and no more than that
        ("no no no no stop", "no no no no stop", 0),
        ("no no no no stop", "no no no no no no stop", -2 / 5),
        # right but for the last word, with which an n-gram comes back
        ("ann bob cat xen ann bob dan", "ann bob cat yen ann bob cat", -2 / 7),
        # nothing said where something was spoken
        (COUNT, "", -1),
        (COUNT, " ... ", -1),
        # silence: one fifth for each word
        ("", "", 0),
        ("", "...", 0),
        ("", "thank you", -2 / 5),
        ("", "thank you all so very much indeed", -1),
        # patterns: so many units of raw text
        ("hello there my friend", "hello there my friend [music]", -1 / 4),
        ("hello there my friend", "hello there (loud street noise) my friend", -3 / 4),
        ("hello there my friend", "hello there my friend aaaaaaaaaaaa", -1 / 4),
        ("hello there my friend", "hello there my friend www.example.com", -1 / 4),
        ("[music] hello there", "[music] hello there", 0),
        ("[music] hello there", "[music] hello there [music]", -1 / 2),
        ("", "♪♪♪", -1 / 5),
        ("hello there", "[music]", -1),
        # characters
        ("今天天气很好", "今天天气很好很好很好", -4 / 6),
        ("今天天气很好", "今天天汽很好", 0),
    ],
)
def test_penalty_worked_by_hand(transcript, hypothesis, expected):
    assert score_one("hallucination", hypothesis, text=transcript) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("detector", "hypothesis", "expected"),
    [
        ("repetition", COUNT + " six seven eight", -3 / 8),
        ("repetition", "one two uh three four five six seven eight", 0),
        ("insertions", "one two uh three four five six seven eight", -1 / 8),
        ("insertions", "my uncle bought some yellow paint last spring", 0),
        ("invention", "my uncle bought some yellow paint last spring", -1),
        ("invention", "one two uh three four five six seven eight", 0),
        ("patterns", COUNT + " [music]", -1 / 8),
        ("patterns", COUNT + " music", 0),
    ],
)
def test_each_detector_alone(detector, hypothesis, expected):
    reward = Hallucination(detect=(detector,), normalise="none", name=detector)
    assert score_one(reward, hypothesis, text=COUNT) == pytest.approx(expected)
    assert reward.__name__ == detector


def test_every_detector_is_of_use():
    """Without it some hypothesis costs less."""
    cases = {
        "repetition": ("ann bob cat xen ann bob dan eve", "ann bob cat xen ann bob cat eve"),
        "insertions": (COUNT, COUNT + " uh"),
        "invention": (COUNT, "my uncle bought some yellow paint last spring"),
        "patterns": (COUNT, COUNT + " [music]"),
    }
    assert list(cases) == [*DETECTORS, "patterns"]
    for left_out, (transcript, hypothesis) in cases.items():
        rest = Hallucination(detect=tuple(name for name in cases if name != left_out))
        with_all = score_one("hallucination", hypothesis, text=transcript)
        assert score_one(rest, hypothesis, text=transcript) > with_all, left_out


def test_own_patterns_and_silence_units():
    reward = Hallucination(patterns=[r"\bum+\b"], silence_units=2)
    assert score_one(reward, "one umm two", text="one two") == -1 / 2
    assert score_one(reward, "uh", text="") == -1 / 2
    assert score_one(reward, "one two [music]", text="one two") == 0  # dropped by the normaliser


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detect": ("loops",)}, "detects repetition, insertions, invention, patterns"),
        ({"detect": ()}, "Name at least one"),
        ({"patterns": ("(",)}, "not a regular expression"),
        ({"silence_units": 0}, "silence_units"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        Hallucination(**settings)

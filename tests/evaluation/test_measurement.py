"""Oracle: numbers worked by hand; sums over parts equal the whole."""

import numpy as np
import pytest

from audiorl.evaluation import EvaluationResult, EvaluationSettings, Measurement, bootstrap_interval, count_errors
from audiorl.evaluation.measurement import breakdown, duration_group, duration_name, measure
from audiorl.evaluation.transcription import TranscribedRow, clip_of, row_problem
from tests.evaluation.clips import make_clips, measured

PAIRS = [
    ("the cat sat", "The cat, sat"),
    ("one two", ""),
    ("a x", "a b c"),
    ("", "thanks for watching"),
    ("", ""),
    ("we go home", "we go home we go home we go home"),
]


def test_a_summary_worked_by_hand():
    # 3 hits | 2 D | 1 hit 1 S 1 I | 3 I | nothing | 3 hits 6 I
    found = measured(*PAIRS, seconds=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (found.substitutions, found.deletions, found.insertions, found.hits) == (1, 2, 10, 7)
    assert (found.words, found.unit, found.clips, found.seconds) == (10, "word", 6, 21.0)
    assert found.wer == 13 / 10
    # characters, spaces counted: 0 of 11 | 7 D of 7 | 1 S 2 I of 3 | 19 I of 0 | 0 | 22 I of 10
    assert found.cer == (7 + 3 + 19 + 22) / 31
    assert (found.empty, found.empty_share) == (2, 2 / 6)
    assert (found.looping, found.looping_share) == (1, 1 / 6)
    assert (found.silence.clips, found.silence.with_output, found.silence.words) == (2, 1, 3)
    assert found.keywords is None
    # 21 s of audio in 2 s
    assert (found.decoding_seconds, found.rtfx, found.rtfx_includes) == (2.0, 10.5, "everything")


def test_the_interval_is_the_bootstrap_of_the_counts():
    settings = {"resamples": 200, "seed": 3, "group_column": "speaker"}
    groups = ["x", "x", "y", "y", "z", "z"]
    errors = count_errors(*zip(*PAIRS, strict=True), normalise="basic")
    found = measured(*PAIRS, group=groups, settings=settings)
    assert found.interval == bootstrap_interval(errors, resamples=200, seed=3, groups=groups)
    assert measured(*PAIRS, group=["x"] * 6, settings=settings).interval is None
    assert measured(PAIRS[0]).interval is None


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "loops"),
    [
        ("so we went on", "so we went on so we went on so we went on", True),
        ("so we went on so we went on", "so we went on so we went on", False),  # it was said twice
        ("no", "no no no no no", True),
        ("nine", "aaaaaaaaaaaaaaaaaaaa", True),
        ("nine", "", False),
        ("", "", False),
        ("", "you you you you you", True),
        ("one two three", "four five six", False),
        ("今天天气好", "今天天气好今天天气好今天天气好", True),
    ],
)
def test_a_loop_says_again_what_was_said_once(transcript, hypothesis, loops):
    assert measured((transcript, hypothesis)).is_looping.tolist() == [loops]


KEYWORDS = [("call anna and bob", "call anna and rob"), ("bob called anna", "bob bob called hannah"), ("no", "carl")]


def test_keyword_counts_worked_by_hand():
    # spoken anna, bob | bob, anna | -; said anna | bob, bob | carl; right anna | bob | -
    found = measured(*KEYWORDS, settings={"keywords": ["Anna", "Bob", "Carl"]}).keywords
    assert (found.hits, found.true, found.said) == (2, 4, 4)
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    # anna, bob for rob: 1 edit of 3 | bob, anna for hannah: 2 of 4; 14 letters spoken, two of four names right
    assert (found.entity_cer, found.entity_hit_rate) == (pytest.approx(3 / 14), 0.5)


def test_each_row_may_have_keywords_of_its_own():
    found = measured(*KEYWORDS, keywords=[["Anna"], None, ["Carl"]])
    assert [counts and tuple(counts) for counts in found.keyword_counts] == [(1, 1, 1), None, (0, 0, 1)]
    assert (found.keywords.precision, found.keywords.recall) == (0.5, 1.0)
    # those of the run come before those of the rows
    shared = measured(*KEYWORDS, keywords=[["Anna"], None, []], settings={"keywords": ["bob"]})
    assert [tuple(counts) for counts in shared.keyword_counts] == [(0, 1, 0), (1, 1, 2), (0, 0, 0)]


def test_parts_by_speaker_and_duration_add_up():
    found = measured(*PAIRS, seconds=[1.0, 2.0, 4.999, 5.0, 19.0, 20.0], speaker=["b", "a", "b", None, "a", "b"])
    parts = breakdown(found)
    assert [name for name, _ in parts["speaker"]] == ["a", "b", "unknown"]
    assert [name for name, _ in parts["duration"]] == ["under 2 s", "2-5 s", "5-10 s", "10-20 s", "20 s and over"]
    assert [part.clips for _, part in parts["duration"]] == [1, 2, 1, 1, 1]
    assert parts["language"] == []
    for name in ("speaker", "duration"):
        for count in (
            "clips",
            "seconds",
            "substitutions",
            "deletions",
            "insertions",
            "hits",
            "words",
            "empty",
            "looping",
        ):
            assert sum(getattr(part, count) for _, part in parts[name]) == pytest.approx(getattr(found, count))
    # a said "" for "one two" and for silence
    a = dict(parts["speaker"])["a"]
    assert (a.deletions, a.words, a.wer, a.empty, a.rtfx) == (2, 2, 1.0, 2, None)


def test_each_language_is_counted_in_the_unit_of_its_script():
    pairs = [("good morning", "good evening"), ("今天天气", "今天天汽"), ("thank you", "thank you")]
    found = measured(*pairs, language=["en", "zh", "en"])
    parts = dict(breakdown(found)["language"])
    assert {name: (part.unit, part.wer) for name, part in parts.items()} == {
        "en": ("word", 1 / 4),
        "zh": ("character", 1 / 4),
    }
    fixed = measured(*pairs, language=["en", "zh", "en"], settings={"unit": "mixed"})
    assert {part.unit for _, part in breakdown(fixed)["language"]} == {"mixed"}


def test_a_group_of_durations_holds_its_lower_edge():
    edges = [2, 5]
    assert [duration_group(seconds, edges) for seconds in (0.1, 1.99, 2.0, 4.99, 5.0, 60.0)] == [0, 0, 1, 1, 2, 2]
    assert [duration_name(group, edges) for group in range(3)] == ["under 2 s", "2-5 s", "5 s and over"]


def test_the_order_of_the_clips_changes_no_sum():
    order = np.random.default_rng(0).permutation(len(PAIRS))
    one, other = measured(*PAIRS), measured(*[PAIRS[place] for place in order])
    for name in ("wer", "cer", "empty", "looping", "silence", "substitutions", "deletions", "insertions"):
        assert getattr(one, name) == getattr(other, name)


def test_what_is_kept_of_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = EvaluationSettings(group_column="speaker")
    row = {"id": 7, "where": "a.jsonl:3", "text": "a", "speaker": 19, "audio": {"path": "x/a.wav", "bytes": None}}
    clip = clip_of(TranscribedRow(row, "b", 1.5), 4, settings)
    assert (clip.id, clip.where, clip.audio) == ("7", "a.jsonl:3", str(tmp_path / "x" / "a.wav"))
    assert (clip.transcript, clip.hypothesis, clip.seconds) == ("a", "b", 1.5)
    assert (clip.speaker, clip.language, clip.group) == ("19", None, 19)
    inside = {"text": "a", "speaker": "s", "audio": {"path": "a.wav", "bytes": b"RIFF"}}
    assert clip_of(TranscribedRow(inside, "b", 1.5), 4, settings).audio is None
    assert clip_of(TranscribedRow(inside, "b", 1.5), 4, settings).id == "row 4"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a", "speaker": "s"}, None),
        ({"text": "", "speaker": "s", "keywords": []}, None),
        ({"speaker": "s"}, "needs column 'text'"),
        ({"text": "a", "speakers": "s"}, "needs column 'speaker'"),
        ({"text": 3, "speaker": "s"}, "has int in column 'text'"),
        ({"text": "a", "speaker": "s", "keywords": "Anna"}, "this row has 'Anna'"),
        ({"text": "a", "speaker": "s", "keywords": [1]}, r"this row has \[1\]"),
    ],
)
def test_a_row_that_cannot_be_measured_says_why(row, problem):
    found = row_problem(row, EvaluationSettings(group_column="speaker"))
    if problem is None:
        assert found is None
    else:
        assert found is not None and found[1]
        with pytest.raises(AssertionError, match=problem):
            raise AssertionError(found[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "label"}, "'transcription' or 'labels'"),
        ({"unit": "words"}, "unit='words'"),
        ({"normalise": "basics"}, "'basic'"),
        ({"resamples": 0}, "at least one resample"),
        ({"duration_edges": []}, "duration_edges"),
        ({"duration_edges": [5, 2]}, "each larger"),
        ({"duration_edges": [0, 2]}, "above 0"),
        ({"aliases": {"a": ["b"]}}, "belong to labels"),
        ({"labels": ["a"]}, "belong to labels"),
    ],
)
def test_settings_are_checked_when_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**wrong)


def test_no_clips_are_no_measurement():
    with pytest.raises(ValueError, match="no rows"):
        measure(make_clips(), EvaluationSettings())


def test_the_names_that_one_type_took_over_stay():
    found = measured(*PAIRS)
    assert EvaluationResult is Measurement and found.measured is found is found.summary()
    assert found.seconds_of_audio == found.seconds and found.wall_seconds == found.decoding_seconds == 2.0
    assert repr(found) == f"Measurement(wer={found.wer:.4f}, unit='word', clips=6)"

"""Oracle: confusions worked by hand, and the reward for labels, which follows the same rule."""

import itertools

import pytest

from audiorl.evaluation import EvaluationSettings
from audiorl.evaluation.document import report
from audiorl.evaluation.measurement import changes
from audiorl.evaluation.transcription import TranscribedRow, clip_of, row_problem
from audiorl.rewards import LabelMatch
from tests.evaluation.clips import measured

ALIASES = {"happy": ["joy", "glad"], "angry": ["mad"]}
PAIRS = [
    ("happy", "Joy."),  # right, by alias
    ("happy", "mad"),  # angry
    ("mad", "angry"),  # the row itself has an alias
    ("sad", "Sad"),
    ("sad", "sod"),  # one edit of three
    ("sad", ""),
]


def settings(**others):
    return {"task": "labels", "aliases": ALIASES, **others}


def test_accuracy_and_confusion_worked_by_hand():
    found = measured(*PAIRS, settings=settings())
    told = found.answers.to_dict()
    assert told["accuracy"] == 3 / 6
    assert told["per_label"] == [
        {"label": "angry", "clips": 1, "right": 1, "accuracy": 1.0},
        {"label": "happy", "clips": 2, "right": 1, "accuracy": 0.5},
        {"label": "sad", "clips": 3, "right": 1, "accuracy": 1 / 3},
    ]
    assert told["confusion"] == [
        {"label": "angry", "predicted": "angry", "clips": 1},
        {"label": "happy", "predicted": "angry", "clips": 1},
        {"label": "happy", "predicted": "happy", "clips": 1},
        {"label": "sad", "predicted": None, "clips": 2},
        {"label": "sad", "predicted": "sad", "clips": 1},
    ]
    assert (found.unit, found.wer, found.cer, found.silence) == ("label", 0.5, None, None)
    assert (found.substitutions, found.hits, found.words, found.empty) == (3, 3, 6, 1)
    assert found.interval[0] < 0.5 < found.interval[1]


def test_a_misspelt_label_counts_where_that_is_wanted():
    near = measured(*PAIRS, settings=settings(label_similarity=0.6))
    assert near.answers.predicted == ["happy", "angry", "angry", "sad", "sad", None]
    assert near.answers.to_dict()["accuracy"] == 4 / 6


def test_labels_keep_the_spelling_of_the_data():
    found = measured(("Very-Happy", "very happy"), ("Calm", "calm."), settings={"task": "labels"})
    assert found.answers.predicted == ["Very-Happy", "Calm"]


def test_a_label_that_only_the_model_knows_is_what_it_predicted():
    found = measured(("sad", "Calm"), ("mad", "glad"), settings=settings(labels=["calm", "joy"]))
    assert found.answers.predicted == ["calm", "happy"]


def test_parts_of_answers_add_up():
    found = measured(*PAIRS, settings=settings(), speaker=list("ababab"))
    parts = [found.part([0, 2, 4]), found.part([1, 3, 5])]
    assert sum(part.hits for part in parts) == found.hits
    assert [part.answers.to_dict()["accuracy"] for part in parts] == [2 / 3, 1 / 3]


def test_two_models_are_compared_by_label():
    before = measured(*PAIRS, settings=settings())
    after = measured(*[(label, label) for label, _ in PAIRS], settings=settings())
    found = changes(before, after)
    assert found.difference == -0.5
    assert [change.id for change in found.better] == ["c1", "c4", "c5"]


@pytest.mark.parametrize("similarity", [1.0, 0.8, 0.5])
def test_the_label_of_a_completion_is_the_one_that_the_reward_accepts(similarity):
    labels = ["happy", "harpy", "sad", "unhappy"]
    match = LabelMatch(labels=labels, aliases={"sad": ["blue", "down"]}, min_similarity=similarity)
    said = ["happy", "Harpy!", "hoppy", "harppy", "blue", "blew", "unhoppy", "haxpy", "clown", "", "happy sad"]
    for completion, label in itertools.product(said, labels):
        (reward,) = match([completion], label=[label])
        assert (match.label_of(completion) == label) == (reward > 0), (completion, label)


def test_one_spelling_for_two_labels_is_refused():
    with pytest.raises(ValueError, match="for two labels"):
        measured(("a", "b"), settings={"task": "labels", "aliases": {"a": ["x"], "b": ["x"]}})


def test_any_accepted_answer_of_the_row_is_right():
    found = measured(
        ("two", "2"),  # this row's
        ("three", "2"),  # another row's: no known label
        ("two", "Two!"),
        ("", "..."),  # a question without an answer
        settings={"task": "labels"},
        accepted=[["two", "2"], ["three", "3"], ["two"], [""]],
    )
    assert found.answers.predicted == ["two", None, "two", ""]
    assert found.answers.to_dict()["accuracy"] == 3 / 4


def test_rows_hold_a_label_or_a_list_of_right_answers():
    asked = EvaluationSettings(task="labels", text_column="answers")
    for written, transcript, accepted in (
        ("two", "two", ("two",)),
        (["two", "2"], "two", ["two", "2"]),
        ([], "", ("",)),
    ):
        row = {"audio": None, "answers": written}
        assert row_problem(row, asked) is None
        clip = clip_of(TranscribedRow(row, "2", 1.0), 0, asked)
        assert (clip.transcript, clip.accepted) == (transcript, accepted)
    for written in (2, [2], {"text": ["two"]}):
        what, _ = row_problem({"audio": None, "answers": written}, asked)
        assert "A label is a text, or a list of answers" in what
    what, _ = row_problem({"audio": None, "text": ["two"]}, EvaluationSettings())
    assert "A transcript is a text; this row has list" in what


def test_of_many_answers_the_table_shows_the_worst():
    pairs = [(f"word{i}", f"word{i}" if i != 57 else "no") for i in range(60)]
    found = measured(*pairs, settings={"task": "labels"})
    shown = report(EvaluationSettings(task="labels"), [found])
    (head,) = (line for line in shown.splitlines() if "the worst 8 of 60" in line)
    below = shown.splitlines()[shown.splitlines().index(head) + 1 :]
    assert below[0].split() == ["word57", "0.0", "0", "1"] and "word7" not in shown

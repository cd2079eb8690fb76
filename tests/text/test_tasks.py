"""Oracle: counts worked by hand; what a trainer logs and a card shows comes from one task."""

import pytest
import torch

from audiorl.text.error_rates import count_errors
from audiorl.text.tasks import TRANSCRIPTION, WRONG_LABELS, Labels, whole_answers

SAID = ["the cat sat", "a dog"], ["the cat", "a dog ran"]


def test_transcripts_are_measured_in_words_and_characters():
    assert TRANSCRIPTION.metrics(*SAID, "none") == {"wer": 2 / 5, "cer": (4 + 4) / (11 + 5)}
    counts = TRANSCRIPTION.count_all(*SAID, "none")
    assert list(counts) == ["WER", "CER"] and [errors.unit for errors in counts.values()] == ["word", "character"]


def test_a_script_without_spaces_has_one_rate():
    said = ["\u4eca\u65e5\u306f"], ["\u4eca\u65e5\u3082"]
    assert list(TRANSCRIPTION.count_all(*said, "none")) == ["CER"]
    assert TRANSCRIPTION.metrics(*said, "none") == {"wer": 1 / 3, "cer": 1 / 3}
    assert count_errors(*said, unit="auto").wer == 1 / 3


def test_labels_are_right_or_wrong_letter_for_letter():
    task = Labels(["sad", "Sad", "calm"])
    said = ["sad", "sad", "calm", "Sad"], ["sad", "Sad", "sad", "Sad"]
    assert task.metrics(*said, "basic") == {"accuracy": 1 / 2}
    ((name, errors),) = task.count_all(*said, "basic").items()
    assert (name, errors.unit, errors.normaliser) == (WRONG_LABELS, "label", "none")
    assert errors.errors.tolist() == [0, 1, 1, 0] and errors.words.tolist() == [1, 1, 1, 1]


def test_no_label_at_all_is_a_wrong_answer():
    assert whole_answers(["sad"], [None], "none").wer == 1


@pytest.mark.parametrize(("task", "rate"), [(TRANSCRIPTION, 0.25), (Labels(["a", "b"]), 0.75)])
def test_the_parts_of_the_metric_give_it(task, rate):
    total, count = task.parts(torch.tensor(1.0), torch.tensor(4.0))
    assert total / count == rate and task.greater_is_better == (rate > 0.5)


def test_only_labels_are_named_in_advance():
    assert TRANSCRIPTION.writes_text and not Labels(["a", "b"]).writes_text
    assert TRANSCRIPTION.evaluation("basic") == {"normalise": "basic"}
    assert Labels(["a", "b"]).evaluation("basic")["normalise"] == "none"

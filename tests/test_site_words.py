"""What pages say of the code is what the code says of itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from audiorl.models import FAMILIES, SpeechFamily, register_family
from audiorl.rewards import REWARDS

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import site_words


@pytest.fixture(autouse=True)
def shipped_families_alone(monkeypatch):
    """Other tests register toys."""
    for name, family in list(FAMILIES.items()):
        if not isinstance(family, str):
            monkeypatch.delitem(FAMILIES, name)


def test_every_registered_family_speaks_for_itself():
    pytest.importorskip("transformers.models.fun_asr_nano")
    said = site_words.in_words()
    assert set(re.findall(r"`([^`]+)`", "".join(re.findall("^Answers for .*$", said, re.MULTILINE)))) == set(FAMILIES)
    whisper = said.partition("#### WhisperFamily")[2].partition("####")[0]
    assert "token by token" in whisper and "`static`" in whisper and "Hot words stand in the prompt" in whisper
    waveform = said.partition("#### WaveformCTCFamily")[2].partition("####")[0]
    assert "as a whole" in waveform and "Rows with hot words are refused" in waveform
    assert said.count("CTC models: one pass over the audio gives frames of symbols") == 1  # of two families' module


def test_a_family_that_says_nothing_is_an_error(monkeypatch):
    monkeypatch.setitem(FAMILIES, "x", "")  # taken back at the end
    register_family("x", type("Silent", (SpeechFamily,), {"__module__": __name__}))
    with pytest.raises(LookupError, match="Silent has no docstring"):
        site_words.in_words()


def test_what_rewards_withstand_is_what_their_tests_know():
    lines = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in site_words.adversaries().splitlines()]
    marks = {line[0]: dict(zip(lines[0][3:], line[3:], strict=True)) for line in lines[2:]}
    assert set(marks) == set(REWARDS)
    assert marks["keyword_recall"] == {"stuffed": "-", "empty": "+", "twice": "-", "loop": "+", "invention": "+"}
    assert set(marks["funasr"].values()) == {"+"} and set(marks["language"].values()) == {"-"}
    assert lines[2][1:3] == ["0 to 1", "text"]


def test_a_docstring_is_shown_as_it_stands_and_prose_as_prose():
    assert site_words.docstring("audiorl.evaluation.document").startswith("```text\nAn evaluation as a JSON file")
    with pytest.raises(LookupError, match=r"There is no module 'audiorl\.nowhere'"):
        site_words.docstring("audiorl.nowhere")
    assert site_words._shown('the mark "</s>" and `<s>`') == 'the mark "&lt;/s>" and `<s>`'
    assert site_words._shown("    <s> code") == "    <s> code"

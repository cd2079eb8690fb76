"""A hypothesis below its transcript: the units, the marks, the widths, the colours."""

from __future__ import annotations

import random

import pytest
from rich.cells import cell_len

import audiorl
from audiorl.text import align_texts, count_errors


def drawn(*texts: str, **options) -> list[str]:
    return str(align_texts(*texts, **options)).splitlines()


def test_words_stand_below_each_other_with_their_marks():
    assert drawn("the quick brown fox jumps", "the quack fox jumps over") == [
        "transcript  the quick brown fox jumps ****",
        "hypothesis  the quack ***** fox jumps over",
        "                S     D               I",
        "60.0 % errors: 1 substituted, 1 deleted, 1 inserted of 5 words",
    ]


def test_scripts_without_spaces_are_aligned_by_character_in_two_columns_each():
    lines = drawn("我爱北京天安门", "我爱东京天门")
    assert lines[:2] == ["transcript  我爱北京天安门", "hypothesis  我爱东京天**门"]
    assert cell_len(lines[0]) == cell_len(lines[1]) and lines[-1].endswith("of 7 characters")


def test_mixed_scripts_have_words_and_characters():
    lines = drawn("打开 bluetooth 连接", "打开 bluetooth 链接")
    assert lines[0] == "transcript  打 开 bluetooth 连 接" and lines[-1].endswith("of 5 words or characters")
    assert cell_len(lines[2]) == cell_len("transcript  打 开 bluetooth S")


@pytest.mark.parametrize(
    ("texts", "counts"),
    [(("", ""), "0 inserted of 0 words"), (("", "thank you"), "2 inserted of 0 words"), (("a b", ""), "2 deleted")],
)
def test_silence_has_an_alignment_too(texts, counts):
    assert counts in drawn(*texts)[-1]


def test_long_texts_are_drawn_in_stretches_that_fit():
    words = [f"word{i}" for i in range(60)]
    text = align_texts(" ".join(words), " ".join(words[:30])).drawn(80)
    assert max(map(len, text.splitlines())) <= 80 and text.count("transcript") > 5


def test_counts_are_those_of_the_error_rate():
    draws = random.Random(0)
    for _ in range(50):
        true, said = (" ".join(draws.choices("abcd", k=draws.randrange(1, 9))) for _ in range(2))
        found = align_texts(true, said, unit="word")
        assert found.counts.errors == count_errors([true], [said], unit="word").total.errors
        assert [one.transcript for one in found.units if one.transcript] == true.split()
        assert [one.hypothesis for one in found.units if one.hypothesis] == said.split()


def test_show_alignment_prints_one_or_several_and_colours_a_terminal(capsys, monkeypatch):
    audiorl.show_alignment(["a b", "c"], ["a", "d"])
    shown = capsys.readouterr().out
    assert shown.count("transcript") == 2 and "\x1b" not in shown
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    audiorl.show_alignment("a b", "a")
    assert "\x1b[31mb\x1b[0m" in capsys.readouterr().out


def test_a_notebook_gets_html_without_the_texts_own_markup():
    shown = align_texts("a <b>", "a c", normalise="none")._repr_html_()
    assert '<span style="color:#b58900">&lt;b&gt;</span>' in shown and "<b>" not in shown


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: align_texts("a", None), "hypothesis is a text; got NoneType"),
        (lambda: audiorl.show_alignment(["a"], ["a", "b"]), "got 1 transcripts and 2 hypotheses"),
        (lambda: align_texts("a", "b", normalise="englsh"), "englsh"),
    ],
)
def test_what_has_no_alignment_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()

"""Texts and rewards take time in proportion to the text: no pattern may look at it again for each of its characters."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import audiorl.rewards
import audiorl.text
from audiorl.rewards import Hallucination
from audiorl.text.error_rates import split_units
from audiorl.text.normalizers import NORMALIZERS, normalizer
from tests.text.regex_work import Matcher, adversaries, found_by_re, worst_growth

# Whisper's two are asked only up to the last closing bracket, see `without_brackets`; normalizers are timed below.
GUARDED = {r"[<\[][^>\]]*[>\]]", r"\([^)]+\)"}
PACKAGES = (audiorl.rewards, audiorl.text)
QUADRATIC = [r"[<\[][^>\]]*[>\]]", r"\(([^)]+?)\)", r"\s+'", r"a+b", r"\Alanguage\s+([^<]{1,9}?)\s*<"]


def modules():
    return [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for package in PACKAGES
        for found in pkgutil.iter_modules(package.__path__)
    ]


def patterns_in(value: object) -> Iterator[str]:
    if isinstance(value, re.Pattern):
        yield value.pattern
    elif isinstance(value, tuple | list | set | frozenset):
        for part in value:
            yield from patterns_in(part)
    elif isinstance(value, dict):
        yield from patterns_in(list(value.values()))


PATTERNS = sorted({*patterns_in([vars(module) for module in modules()]), *patterns_in(Hallucination()._compiled)})


@pytest.mark.parametrize("pattern", [*PATTERNS, *QUADRATIC])
def test_the_counting_matcher_finds_what_re_finds(pattern):
    for text in adversaries(pattern, 13, most=3):
        assert Matcher(pattern, text).spans() == found_by_re(pattern, text), text


@pytest.mark.parametrize("pattern", QUADRATIC)
def test_a_quadratic_pattern_is_told(pattern):
    assert worst_growth(pattern, 40)[0] > 3.5


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern not in GUARDED])
def test_patterns_of_rewards_and_texts_look_at_each_character_a_bounded_number_of_times(pattern):
    growth, text = worst_growth(pattern)
    assert growth < 3, f"{pattern!r} looks {growth:.1f} times as often at a text twice as long, {text!r}..."


def test_patterns_are_compiled_at_the_top_of_a_module_where_the_tests_above_find_them():
    strays = []
    for module in modules():
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                strays += [
                    f"{module.__name__}:{call.lineno}"
                    for call in ast.walk(function)
                    if isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and ast.unparse(call.func.value) in ("re", "regex")
                    and call.func.attr != "escape"
                    # a pattern that the user gives
                    and function.name != "_compile"
                ]
    assert not strays


# What the patterns of the normalizers, ours and transformers', begin and end with; what Unicode sorts and composes.
HOSTILE = [
    *"([<)>' a1.\u0301\u0f73\uff9e\u2019",
    *("()", "[)", "<(", "(a", "[ ", "[]", "' ", " a", "1 ", "1.", "1,", ". ", "$1"),
    *("\u0301\u0327", "\uff9e\u0301", "\u0f73\u0301", "e\u0301", "\u200c\u200d", "\u06cc\u200c", "\u200c\u0301"),
    *("one ", "nine one million ", "and a ", "and a half ", "point ", "\u0130", "\u03a3'"),
]


def seconds(function, text: str) -> float:
    """CPU seconds of this thread."""
    begun = time.thread_time()
    function(text)
    return time.thread_time() - begun


def growth(function, pump: str, tries: int) -> float:
    """How many times as long the function takes for 32 times the text, by the least of several tries of each."""
    short, long = ("a" + pump * (size // len(pump)) for size in (500, 16_000))
    # In turns, so that a busy moment of the machine meets both.
    times = [(seconds(function, long), seconds(function, short)) for _ in range(tries)]
    return min(longer for longer, _ in times) / min(shorter for _, shorter in times)


def grow_faster_than_the_text(function, pumps) -> dict[str, float]:
    """Linear is 32, quadratic 1,024: 180 leaves room for a machine five times as slow in between; suspects go again."""
    found = dict.fromkeys(pumps, 0.0)
    for tries in (2, 8, 32):
        found = {pump: growth(function, pump, tries) for pump in found}
        found = {pump: times for pump, times in found.items() if times > 180}
    return found


def test_a_composition_that_sorts_marks_by_insertion_is_told():
    assert growth(lambda text: unicodedata.normalize("NFC", text), "\u0301\u0327", tries=1) > 180


@pytest.mark.parametrize("name", NORMALIZERS)
def test_the_time_of_a_normalizer_grows_with_the_text(name):
    function = normalizer(name)
    function("warm\u0301 up")
    assert not grow_faster_than_the_text(function, HOSTILE)


@pytest.mark.parametrize("unit", ["word", "character", "mixed"])
def test_the_time_of_splitting_grows_with_the_text(unit):
    pumps = [" ", "a ", "\u4f60 ", "\u4f60", "a"]
    assert not grow_faster_than_the_text(lambda text: split_units(text + " b", unit), pumps)


def test_the_time_of_looking_for_patterns_grows_with_the_text():
    reward = Hallucination(detect=("patterns",))
    pumps = ["(", "(a)", "\u266a", "\u266aa", "a", "www.", "http://"]
    assert not grow_faster_than_the_text(lambda text: reward._without_patterns(text, "", "word"), pumps)

"""How many characters a regular expression looks at: a slow matcher that backtracks as `re` does, and counts.

Not a wall clock: the same on every machine. Texts that make a pattern work are made of its own letters.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from re import _parser as parser
from typing import Any

_CATEGORIES: dict[str, tuple[Callable[[str], bool], str]] = {
    "CATEGORY_SPACE": (str.isspace, " "),
    "CATEGORY_NOT_SPACE": (lambda c: not c.isspace(), "a"),
    "CATEGORY_DIGIT": (str.isdecimal, "0"),
    "CATEGORY_NOT_DIGIT": (lambda c: not c.isdecimal(), "a"),
    "CATEGORY_WORD": (lambda c: c.isalnum() or c == "_", "a"),
    "CATEGORY_NOT_WORD": (lambda c: not (c.isalnum() or c == "_"), "-"),
}
Next = Callable[[int], int | None]


class Matcher:
    """One pattern on one text; `looks` counts the characters compared."""

    def __init__(self, pattern: str, text: str):
        self.tree = parser.parse(pattern)
        self.text = text
        self.looks = 0
        self.groups: dict[int, tuple[int, int]] = {}

    def spans(self) -> list[tuple[int, int]]:
        """Where `re.finditer` finds the pattern."""
        found, place = [], 0
        while place <= len(self.text):
            self.groups = {}
            end = self.match(list(self.tree), place, lambda reached: reached)
            if end is not None:
                found.append((place, end))
            place = end if end is not None and end > place else place + 1
        return found

    def match(self, nodes: list[Any], place: int, then: Next) -> int | None:
        if not nodes:
            return then(place)
        (op, arg), rest = nodes[0], nodes[1:]
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self.repeat(name == "MAX_REPEAT", *arg, place, lambda at: self.match(rest, at, then))
        if name == "SUBPATTERN":
            group, _, _, inner = arg
            return self.match(list(inner), place, lambda at: self.close(group, place, at, rest, then))
        if name == "BRANCH":
            ends = (self.match([*branch, *rest], place, then) for branch in arg[1])
            return next((end for end in ends if end is not None), None)
        if name == "GROUPREF":
            start, end = self.groups[arg]
            said = self.text[start:end]
            self.looks += len(said)
            return self.match(rest, place + len(said), then) if self.text.startswith(said, place) else None
        return self.match(rest, place + 1, then) if self.one(op, arg, place) else None

    def close(self, group: int | None, start: int, end: int, rest: list[Any], then: Next) -> int | None:
        if group is not None:
            self.groups[group] = start, end
        return self.match(rest, end, then)

    def repeat(self, greedy: bool, least: int, most: int, inner: Any, place: int, then: Next) -> int | None:
        """Ends of so many repetitions are tried from the longest (or shortest) on."""
        ends = [place]
        while len(ends) <= most and (end := self.match(list(inner), ends[-1], lambda at: at)) not in (None, ends[-1]):
            ends.append(end)
            if not greedy and len(ends) > least and (reached := then(ends[-1])) is not None:
                return reached
        tried = ends[least:]
        return next((end for at in (reversed(tried) if greedy else tried) if (end := then(at)) is not None), None)

    def one(self, op: Any, arg: Any, place: int) -> bool:
        """Whether one character matches."""
        self.looks += 1
        if place >= len(self.text):
            return False
        return _holds(str(op), arg, self.text[place])


def _holds(op: str, arg: Any, character: str) -> bool:
    if op == "IN":
        negated = str(arg[0][0]) == "NEGATE"
        return negated != any(_holds(str(kind), value, character) for kind, value in arg[negated:])
    if op == "RANGE":
        return arg[0] <= ord(character) <= arg[1]
    if op == "CATEGORY":
        return _CATEGORIES[str(arg)][0](character)
    if op == "ANY":
        return character != "\n"
    if op in ("LITERAL", "NOT_LITERAL"):
        return (ord(character) == arg) == (op == "LITERAL")
    raise NotImplementedError(f"{op} is not counted; teach tests/text/regex_work.py what it looks at")


def looks(pattern: str, text: str) -> int:
    """How many characters are compared to find a pattern everywhere in a text."""
    matcher = Matcher(pattern, text)
    matcher.spans()
    return matcher.looks


def alphabet(pattern: str, most: int = 4) -> list[str]:
    """Characters that a pattern tells apart: some that it names, one of each kind, one that it does not name."""
    found = dict.fromkeys(_letters(parser.parse(pattern)))
    return [*list(found)[: most - 1], next(c for c in "xyz~" if c not in found)]


def _letters(tree: Any) -> Iterator[str]:
    for op, arg in tree:
        name = str(op)
        if name in ("LITERAL", "NOT_LITERAL"):
            yield chr(arg)
        elif name == "RANGE":
            yield chr(arg[0])
        elif name == "CATEGORY":
            yield _CATEGORIES[str(arg)][1]
        elif name == "IN":
            yield from _letters(arg)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "SUBPATTERN"):
            yield from _letters(arg[-1])
        elif name == "BRANCH":
            yield from itertools.chain(*map(_letters, arg[1]))


def adversaries(letters: list[str], length: int) -> Iterator[str]:
    """Texts of one or two letters over and over, with or without another letter before and behind."""
    pumps = ["".join(pump) for count in (1, 2) for pump in itertools.product(letters, repeat=count)]
    for start, pump, end in itertools.product(["", letters[0]], pumps, ["", letters[-1]]):
        yield start + pump * (length // len(pump)) + end


def worst_growth(pattern: str, length: int = 90) -> tuple[float, str]:
    """The greatest ratio of work between a text and one twice as long, and the shorter one's first characters."""
    letters = alphabet(pattern)
    texts = zip(adversaries(letters, length), adversaries(letters, 2 * length), strict=True)
    return max((looks(pattern, longer) / looks(pattern, text), text[:8]) for text, longer in texts)


def found_by_re(pattern: str, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)]

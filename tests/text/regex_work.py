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
        if name == "AT":
            return self.match(rest, place, then) if self.stands_at(str(arg), place) else None
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

    def stands_at(self, where: str, place: int) -> bool:
        self.looks += 1
        if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return place == 0
        if where not in ("AT_END", "AT_END_STRING"):
            raise NotImplementedError(f"{where} is not counted; teach tests/text/regex_work.py what it looks at")
        return place == len(self.text) or (where == "AT_END" and self.text[place:] == "\n")

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
    """Characters that a pattern tells apart: some that it names, those it repeats first, and one it does not name."""
    tree = parser.parse(pattern)
    repeated = [arg[-1] for op, arg in tree if str(op) in ("MAX_REPEAT", "MIN_REPEAT")]
    found = dict.fromkeys(itertools.chain(*(_letters(part) for part in [*repeated, tree])))
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


def witness(tree: Any) -> str:
    """A short text that a pattern, or the beginning of it, matches."""
    text = ""
    for op, arg in tree:
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            text += witness(arg[-1]) * max(1, arg[0])
        elif name == "SUBPATTERN":
            text += witness(arg[-1])
        elif name == "BRANCH":
            text += witness(arg[1][0])
        elif name in ("LITERAL", "IN", "ANY"):
            text += next((c for c in [*_letters([(op, arg)]), *"xyz~"] if name == "ANY" or _holds(name, arg, c)), "")
    return text


def adversaries(pattern: str, length: int, most: int = 4) -> Iterator[str]:
    """Texts of one or two letters over and over, behind each beginning of what matches, with and without an end."""
    letters = alphabet(pattern, most)
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    whole = witness(parser.parse(pattern))[:24]
    ways = [("", pairs), *((whole[:cut], letters) for cut in range(len(whole) + 1))]
    for start, pumps in ways:
        for pump, end in itertools.product(pumps, ["", letters[-1]]):
            yield start + pump * (length // len(pump)) + end


def worst_growth(pattern: str, length: int = 90) -> tuple[float, str]:
    """The greatest ratio of work between a text and one twice as long, and the shorter one's first characters."""
    texts = zip(adversaries(pattern, length), adversaries(pattern, 2 * length), strict=True)
    return max((looks(pattern, longer) / looks(pattern, text), text[:24]) for text, longer in texts)


def found_by_re(pattern: str, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)]

"""What is forgiven before words are compared: case, punctuation, spelling of numbers.

An error rate means nothing without the name of its normalizer; results carry it. Two texts that look alike are equal
under each of them, see `as_seen`. The time of each grows no faster than its text, whatever stands in it.
"""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import regex

_IN_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_IN_PARENTHESES = re.compile(r"\([^)]+\)")
# Characters that are written for the apostrophe of "don't": quotation marks, primes, accents alone, letters of their
# own (Ukrainian, Hawaiian, Uzbek), the Armenian and Hebrew ones, full width.
_APOSTROPHES = "\u2018\u2019\u201b\u2032\u2035\u0060\u00b4\u02bb\u02bc\u055a\u05f3\ua78c\uff07"
# Armenian stress, exclamation, question and abbreviation: written over a letter within the word.
_ARMENIAN_MARKS = "\u055b\u055c\u055e\u055f"
_ONE_SPELLING = str.maketrans({**dict.fromkeys(_APOSTROPHES, "'"), **dict.fromkeys(_ARMENIAN_MARKS)})


@dataclass(frozen=True)
class Normalizer:
    """A named function from text to text; the name goes into every result that was measured with it."""

    name: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return self.function(text)

    def __repr__(self) -> str:
        return f"Normalizer({self.name!r})"


def normalizer(name_or_callable: str | Callable[[str], str], *, processor: Any = None) -> Normalizer:
    """The normalizer of a name, or a named wrapper around a function of the caller's own.

    Names:
        none: the text as it is seen: letters composed, invisible characters gone, see `as_seen`.
        lower: lower case, no punctuation except apostrophes inside words, spaces collapsed; see `lower_text`.
        basic: Whisper's basic normalizer without its fault on combining marks, see `basic_text`.
        whisper_basic: transformers' `BasicTextNormalizer` of the text as it is seen (`as_seen`), for comparison with
            figures published with it. It replaces every combining mark by a space: Hindi "हिन्दी" becomes the
            three "words" "ह न द", and Thai, Tamil, vocalised Arabic and Yoruba fall apart likewise, so
            that vowels are never compared and words are miscounted. With `remove_diacritics=True` vowel
            signs vanish or become spaces, according to their Unicode category.
        english: transformers' `EnglishTextNormalizer` (contractions, titles, numbers as digits, "uh" and "um"
            dropped). Its British-to-American spelling table is part of Whisper checkpoints
            (normalizer.json), not of the transformers package: it is used when the processor's tokenizer
            carries one, and the name is then "english+spelling"; otherwise no spelling is changed and
            "colour" is not "color".

    Args:
        name_or_callable: one of the names, a function from text to text, or a `Normalizer` (returned
            as it is).
        processor: a processor or tokenizer, read by "english" only, for its `english_spelling_normalizer`.

    Raises:
        ValueError: no normalizer has this name.

    Source: Radford et al. 2022, arXiv:2212.04356, appendix C, for basic and english.
    """
    if isinstance(name_or_callable, Normalizer):
        return name_or_callable
    if callable(name_or_callable):
        own = getattr(name_or_callable, "__qualname__", type(name_or_callable).__qualname__)
        return Normalizer(own, name_or_callable)
    if name_or_callable not in NORMALIZERS:
        nearest = difflib.get_close_matches(str(name_or_callable), NORMALIZERS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"No normalizer is called {name_or_callable!r}; normalizer() knows {', '.join(NORMALIZERS)}. "
            f"Did you mean {nearest!r}? A function from text to text is taken as well."
        )
    return NORMALIZERS[name_or_callable](processor)


def as_seen(text: str) -> str:
    """The text without what no reader can see: it has one form for all texts that look alike.

    Letters and their marks are composed (NFC); characters that only steer the layout go: direction marks, soft hyphens,
    zero-width spaces, variation selectors, fillers. A joiner stays where it is part of the spelling, that is after
    a virama and, if it keeps letters apart, between letters that would join (Persian, Urdu); nowhere else.

    Source: Unicode Standard Annex 15 (NFC); Unicode's property Default_Ignorable_Code_Point; RFC 5892, appendix A.1
    and A.2, for joiners.
    """
    if text.isascii():
        return text
    text = composed("NFC", _INVISIBLE.sub("", text))
    if _JOINERS.search(text):
        text = composed("NFC", _JOINERS.sub(_joiner, text))
    return text


# Format characters and what fonts show as nothing, but for the two joiners and for signs that enclose digits.
_INVISIBLE = regex.compile(r"(?V1)[[\p{DI}\p{Cf}]--[\u200c\u200d]--\p{Prepended_Concatenation_Mark}]")
_JOINERS = regex.compile(r"[\u200c\u200d]+")
_JOINS_ONWARDS = regex.compile(r"[\p{JT=L}\p{JT=D}]")
_JOINS_BACKWARDS = regex.compile(r"[\p{JT=R}\p{JT=D}]")
_TRANSPARENT = regex.compile(r"\p{JT=T}")
_VIRAMA = 9  # the combining class


def _joiner(found: regex.Match[str]) -> str:
    """The first of a run of joiners where it is part of the spelling, else nothing."""
    text, start, end = found.string, found.start(), found.end()
    if start and unicodedata.combining(text[start - 1]) == _VIRAMA:
        return text[start]
    before, behind = start - 1, end
    while before >= 0 and _TRANSPARENT.match(text[before]):
        before -= 1
    while behind < len(text) and _TRANSPARENT.match(text[behind]):
        behind += 1
    apart = text[start] == "\u200c" and before >= 0 and behind < len(text)
    return text[start] if apart and _JOINS_ONWARDS.match(text[before]) and _JOINS_BACKWARDS.match(text[behind]) else ""


def composed(form: Literal["NFC", "NFKC"], text: str) -> str:
    """`unicodedata.normalize` in linear time: by itself it takes n^2 steps for a run of n marks."""
    return text if text.isascii() else unicodedata.normalize(form, _marks_sorted(form, text))


# Runs longer than Unicode's "stream-safe" texts have; the characters at the end are no marks, but decompose into some.
_MANY_MARKS = {
    "NFC": regex.compile(r"[\P{ccc=0}\u0f73\u0f75\u0f81]{31,}"),
    "NFKC": regex.compile(r"[\P{ccc=0}\u0f73\u0f75\u0f81\uff9e\uff9f]{31,}"),
}


def _marks_sorted(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Long runs of marks in the canonical order; marks of one class keep theirs."""
    parts: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"

    def in_order(run: regex.Match[str]) -> str:
        marks = "".join(unicodedata.normalize(parts, mark) for mark in run[0])
        return "".join(sorted(marks, key=unicodedata.combining))

    return _MANY_MARKS[form].sub(in_order, text)


def basic_text(text: str) -> str:
    """Lower case, no symbols or punctuation, nothing in brackets, one space between words; any language.

    As transformers' `BasicTextNormalizer` does it, with these differences. A combining mark stays where it belongs to
    a letter or digit, so that Indic, Thai, Khmer or Yoruba words keep their vowels, tones and unity; marks, selectors
    and joiners of symbols (emoji) go with their symbol. Every apostrophe is one, "İ" is "i" and marks over a letter of
    an Armenian word do not cut it, see `lower_text`; what no reader sees does not count, see `as_seen`. For text with
    nothing of these after composition (NFKC) the two agree word for word. Vowel points of Arabic and Hebrew count: a
    pointed transcript differs from a bare hypothesis.
    """
    text = composed("NFKC", without_brackets(_lower(text)))
    try:
        return _collapse(text.translate(_SYMBOLS).lower())
    except _CombiningError:
        return _collapse(_marks_with_their_letters(text).lower())


def without_brackets(text: str) -> str:
    """The text without what stands in <>, [] or (), brackets included; one that nothing closes stays.

    The patterns are Whisper's. An opening bracket behind the last closing one would be looked at to the end of the text
    for each of its kind, n^2 steps for n of them; there the patterns are not asked.
    """
    end = max(text.rfind(">"), text.rfind("]")) + 1
    text = _IN_BRACKETS.sub("", text[:end]) + text[end:]
    end = text.rfind(")") + 1
    return _IN_PARENTHESES.sub("", text[:end]) + text[end:]


class _CombiningError(Exception):
    """A character that belongs to the one before it."""


class _SymbolTable(dict[int, str]):
    """For `str.translate`: symbols and punctuation become spaces; several times as fast as a loop over characters."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        if category in ("Mn", "Mc", "Me", "Cf"):
            raise _CombiningError
        self[code] = " " if category[0] in "SP" else chr(code)
        return self[code]


_SYMBOLS = _SymbolTable()


def _marks_with_their_letters(text: str) -> str:
    kept: list[str] = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Mn", "Mc", "Cf"):
            if kept and not kept[-1].isspace() and not _selects_variation(character):
                kept.append(character)
        elif category == "Me":
            continue
        else:
            kept.append(" " if category[0] in "SP" else character)
    return "".join(kept)


def lower_text(text: str) -> str:
    """Lower case, punctuation removed, one space between words; apostrophes inside a word stay.

    "Don't -- stop, co-worker!" becomes "don't stop co worker". The other characters in use for an apostrophe become the
    plain one, the Turkish "İ" an "i". Armenian marks that stand over a letter (stress, exclamation, question) go
    without a space. Texts that look alike become the same, see `as_seen`.
    """
    text = _lower(text)
    inside = {
        place
        for place in range(1, len(text) - 1)
        if text[place] == "'" and _in_word(text[place - 1]) and _in_word(text[place + 1])
    }
    kept = (
        " " if unicodedata.category(character)[0] == "P" and place not in inside else character
        for place, character in enumerate(text)
    )
    return _collapse("".join(kept))


def _lower(text: str) -> str:
    """The text as it is seen, in lower case, its apostrophes, Turkish i and Armenian marks in one spelling."""
    if text.isascii():
        return text.replace("`", "'").lower()
    # lower() makes two characters of U+0130, as other programs do, whose outputs are texts too
    return composed("NFC", as_seen(text).translate(_ONE_SPELLING).lower().replace("i\u0307", "i"))


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _selects_variation(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _whisper_basic(processor: Any) -> Normalizer:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return Normalizer("whisper_basic", functools.partial(_whisper_basic_text, BasicTextNormalizer()))


def _whisper_basic_text(basic: Callable[[str], str], text: str) -> str:
    return basic(composed("NFKC", without_brackets(as_seen(text).lower())).translate(_NOT_CLOSED))


def _english(processor: Any) -> Normalizer:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    tokenizer = getattr(processor, "tokenizer", processor)
    spelling = getattr(tokenizer, "english_spelling_normalizer", None)
    function = functools.partial(_english_text, EnglishTextNormalizer(spelling or {}))
    return Normalizer("english+spelling" if spelling else "english", function)


def _english_text(english: Any, text: str) -> str:
    text = _marks_sorted("NFKC", without_brackets(_lower(text)).translate(_NOT_CLOSED))
    words = _LONG_NUMBER.sub(r"\g<0> ", text).split()
    return " ".join(english(piece).strip() for piece in _pieces(words, english.standardize_numbers.words))


# What transformers' patterns would look at to the end of the text, for each of them. To them it is a symbol as any.
_NOT_CLOSED = str.maketrans("<[(", "{{{")
# transformers makes an integer of every number, and Python makes none of more than 4,300 digits.
_LONG_NUMBER = regex.compile(r"[\p{Nd}\p{No},.]{1000}(?=[\p{Nd}\p{No},.])")
_MOST_NUMBER_WORDS = 100


def _pieces(words: Sequence[str], number_words: Set[str]) -> Iterator[str]:
    """The text, cut where more than a hundred words in a row are of numbers: they may be one, and grow without end."""
    start = numbers = 0
    for place, word in enumerate(words):
        numbers = numbers + 1 if word in number_words or any(map(str.isnumeric, word)) else 0
        if numbers > _MOST_NUMBER_WORDS:
            yield " ".join(words[start:place])
            start, numbers = place, 1
    yield " ".join(words[start:])


NORMALIZERS: dict[str, Callable[[Any], Normalizer]] = {
    "none": lambda processor: Normalizer("none", as_seen),
    "lower": lambda processor: Normalizer("lower", lower_text),
    "basic": lambda processor: Normalizer("basic", basic_text),
    "whisper_basic": _whisper_basic,
    "english": _english,
}


# Their former spelling
NORMALISERS, Normaliser, normaliser = NORMALIZERS, Normalizer, normalizer

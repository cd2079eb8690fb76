"""What is forgiven before words are compared: case, punctuation, spelling of numbers.

An error rate means nothing without the name of its normalizer; results carry it.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_IN_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_IN_PARENTHESES = re.compile(r"\(([^)]+?)\)")


@dataclass(frozen=True)
class Normalizer:
    """A named function from text to text; the name goes into every result that was measured with it."""

    name: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return self.function(text)


def normalizer(name_or_callable: str | Callable[[str], str], *, processor: Any = None) -> Normalizer:
    """The normalizer of a name, or a named wrapper around a function of the caller's own.

    Names:
        none: the text as it is.
        lower: lower case, no punctuation except apostrophes inside words, spaces collapsed; see `lower_text`.
        basic: Whisper's basic normalizer without its fault on combining marks, see `basic_text`.
        whisper_basic: transformers' `BasicTextNormalizer`, unchanged, for comparison with figures published
            with it. In transformers 5.23 it replaces every combining mark by a space: Hindi "हिन्दी" becomes
            the three "words" "ह न द", and Thai, Tamil, vocalised Arabic and Yoruba fall apart likewise, so
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


def basic_text(text: str) -> str:
    """Lower case, no symbols or punctuation, nothing in brackets, one space between words; any language.

    As transformers' `BasicTextNormalizer` does it, with one difference: a combining mark stays where it
    belongs to a letter or digit, so that Indic, Thai, Khmer or Yoruba words keep their vowels, tones and
    unity. Marks, selectors and joiners of symbols (emoji) go with their symbol. For text that has neither
    marks after composition (NFKC) nor invisible format characters the two agree word for word. Vowel points
    of Arabic and Hebrew count: a pointed transcript differs from a bare hypothesis.
    """
    text = _IN_PARENTHESES.sub("", _IN_BRACKETS.sub("", text.lower()))
    text = unicodedata.normalize("NFKC", text)
    try:
        return _collapse(text.translate(_SYMBOLS).lower())
    except _CombiningError:
        return _collapse(_marks_with_their_letters(text).lower())


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

    "Don't -- stop, co-worker!" becomes "don't stop co worker"; typographic apostrophes become the plain one.
    """
    text = text.lower().replace("\u2019", "'")
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


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _selects_variation(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _whisper_basic(processor: Any) -> Normalizer:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return Normalizer("whisper_basic", BasicTextNormalizer())


def _english(processor: Any) -> Normalizer:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    tokenizer = getattr(processor, "tokenizer", processor)
    spelling = getattr(tokenizer, "english_spelling_normalizer", None)
    return Normalizer("english+spelling" if spelling else "english", EnglishTextNormalizer(spelling or {}))


NORMALIZERS: dict[str, Callable[[Any], Normalizer]] = {
    "none": lambda processor: Normalizer("none", str),
    "lower": lambda processor: Normalizer("lower", lower_text),
    "basic": lambda processor: Normalizer("basic", basic_text),
    "whisper_basic": _whisper_basic,
    "english": _english,
}

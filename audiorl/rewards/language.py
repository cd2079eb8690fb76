"""Language, as far as letters show it: the Unicode script of a hypothesis against that of its row's language."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import regex

from audiorl.rewards.base import ShippedReward
from audiorl.text.error_rates import completion_text
from audiorl.text.languages import language_code

# script -> languages written in it, by the codes Whisper and most data sets use
_LANGUAGES = {
    "Latin": (
        "en de es fr pt tr pl ca nl sv it id fi vi ro da hu no nn nb ms cs hr la mi sk sl lt cy lv az et br eu is sq "
        "sw gl yo so af oc uz fo ht tk mt lb haw ln ha jw jv su tl fil mg sn zu xh ga gd bs sr"
    ),
    "Cyrillic": "ru uk bg mk be sr kk mn ba tt tg uz ky",
    "Arabic": "ar fa ur ps sd ug",
    "Hebrew": "he iw yi",
    "Greek": "el",
    "Devanagari": "hi mr ne sa",
    "Bengali": "bn as",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Khmer": "km",
    "Georgian": "ka",
    "Armenian": "hy",
    "Ethiopic": "am ti",
    "Hangul": "ko",
    "Hiragana": "ja",
    "Katakana": "ja",
    "Han": "ja zh yue",
    "Bopomofo": "zh",
}
LANGUAGE_SCRIPTS: dict[str, frozenset[str]] = {
    code: frozenset(script for script, codes in _LANGUAGES.items() if code in codes.split())
    for code in " ".join(_LANGUAGES.values()).split()
}
_NO_SCRIPT, _OTHER = "", "other"
_SCRIPT_PATTERNS = {
    _NO_SCRIPT: regex.compile(r"[\p{Script=Common}\p{Script=Inherited}]"),
    **{script: regex.compile(rf"\p{{Script={script}}}") for script in _LANGUAGES},
}


@functools.lru_cache(maxsize=2**16)
def script_of(letter: str) -> str:
    """Unicode script of a letter; "" for letters that scripts share, "other" for one that no listed language uses."""
    return next((script for script, pattern in _SCRIPT_PATTERNS.items() if pattern.match(letter)), _OTHER)


def count_scripts(text: str) -> Counter[str]:
    """Letters of each script."""
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return Counter(Latin=letters) if letters else Counter()
    return Counter(map(script_of, filter(str.isalpha, text)))


def scripts_of_language(language: str | None) -> frozenset[str]:
    """Scripts of a language by its code ("en", "en-US", "<|en|>") or English name; none for one that is not listed."""
    return LANGUAGE_SCRIPTS.get(language_code(language), frozenset()) if language else frozenset()


@dataclass(frozen=True, kw_only=True)
class RightScript(ShippedReward):
    """-1 for a hypothesis in another script than the row's language, or its transcript, is written in.

        foreign = letters of the hypothesis whose script is neither of the row's `language` nor in its transcript
        reward  = -1 where foreign / letters > max_foreign, else 0

    Rows without a `language`, or with one that `LANGUAGE_SCRIPTS` does not list, are judged by the transcript's scripts
    alone. Digits, punctuation and letters that scripts share belong to every script. No model is asked: languages of
    one script (English for German, Chinese for Japanese) are not told apart; the error rate does that.

    In a `RewardSet` it overrides: a total that it touches is -1 times its weight at best.

    Args:
        max_foreign: at least 0 and below 1.
        name: see `ShippedReward`.

    Range: {-1, 0}. Silence: judged by `language` alone, 0 where the row names none. Empty hypothesis, no letters: 0. A
    row without a transcript (None) and language gives None.

    Source: An et al. 2025, arXiv:2509.12508, section 4.4.2, R4; the rule by script is ours. Scripts: Unicode Standard
    Annex 24.

    Raises:
        ValueError: max_foreign out of range.
    """

    max_foreign: float = 0.5

    default_name: ClassVar[str] = "language"
    overrides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_foreign < 1:
            raise ValueError(
                f"{self.__name__} allows a share of foreign letters of 0 to below 1; got max_foreign="
                f"{self.max_foreign}. Use 0.5, or 0 for none at all."
            )

    def __call__(
        self,
        completions: Sequence[Any],
        text: Sequence[str | None],
        language: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value for each completion; None where the row has neither transcript nor language."""
        languages = [None] * len(completions) if language is None else language
        expected: dict[tuple[str | None, str | None], frozenset[str]] = {}
        rewards: list[float | None] = []
        for completion, transcript, code in zip(completions, text, languages, strict=True):
            if transcript is None and code is None:
                rewards.append(None)
                continue
            row = (transcript, code)
            if row not in expected:
                expected[row] = scripts_of_language(code) | count_scripts(transcript or "").keys() - {_NO_SCRIPT}
            rewards.append(self.score(completion_text(completion), expected[row]))
        return rewards

    def score(self, said: str, expected: frozenset[str]) -> float:
        """The penalty of one hypothesis whose row is written in the `expected` scripts; none expected: 0."""
        if not expected or (said.isascii() and "Latin" in expected):
            return 0.0
        if {script_of(letter) for letter in set(said) if letter.isalpha()} <= expected | {_NO_SCRIPT}:
            return 0.0
        found = count_scripts(said)
        foreign = sum(count for script, count in found.items() if script and script not in expected)
        return -1.0 if foreign > self.max_foreign * found.total() else 0.0

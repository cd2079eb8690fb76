"""Languages as people write them, and the codes that speech models know them by.

Rows, flags and data sets say "English", "en-US", "cmn_hans_cn" or "<|en|>"; a model's vocabulary has one code for each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

# What asks for the language to be detected. No vocabulary has such a language.
DETECT = "auto"
# Codes that ISO 639 or a data set (FLEURS, Common Voice) uses where Whisper's vocabulary has another one.
_ALIASES = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "jv": "jw", "nb": "no"}
_SPECIAL_TOKEN = re.compile(r"\A<\|(.*)\|>\Z")
_IN_PARENTHESES = re.compile(r"\([^()]*\)$")
_BETWEEN_SUBTAGS = re.compile("[-_]")
_TAG = re.compile(r"[a-z]{2,3}")


def language_code(language: str) -> str:
    """The code of a language, however it is written; what is no known spelling comes back in small letters.

    Understood are codes ("en", " EN "), regions and scripts behind them ("pt-BR", "en_us", "cmn_hans_cn"), Whisper's
    tokens ("<|en|>"), English names ("Haitian Creole", "haitian_creole") and names with a region ("Portuguese
    (Brazil)"). The codes are those of Whisper's vocabulary: ISO 639-1, but "jw" for Javanese, and "haw" and "yue".
    """
    return _code(language)


@functools.lru_cache(maxsize=4096)
def _code(language: str) -> str:
    written = language.strip().lower()
    if token := _SPECIAL_TOKEN.fullmatch(written):
        written = token.group(1).strip()
    first, *more = _BETWEEN_SUBTAGS.split(written)
    if _TAG.fullmatch(first) and first != "lao":  # the one English name that is as short as a code
        # Cantonese may stand behind Chinese, as "zh-yue"
        return "yue" if first == "zh" and "yue" in more else _ALIASES.get(first, first)
    plain = " ".join(_IN_PARENTHESES.sub("", written).replace("_", " ").replace("-", " ").split())
    return language_names().get(plain, written)


def own_code(language: str, names: Mapping[str, str]) -> str | None:
    """The code that a model has for a language, however it is written; None where it has none.

    Args:
        names: the model's codes and the English names of their languages.
    """
    codes = {code.lower(): code for code in names} | {name.lower(): code for code, name in names.items()}
    written = language.strip().lower()
    # a model may tell apart what Whisper does not, as Filipino from Tagalog
    spellings = (written, _BETWEEN_SUBTAGS.split(written)[0], language_code(language))
    return next((codes[spelling] for spelling in spellings if spelling in codes), None)


@functools.cache
def language_names() -> dict[str, str]:
    """English name in small letters -> code, of the languages in Whisper's vocabulary; some have several names."""
    # it takes seconds to import, and is needed only where languages are spelt out
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return TO_LANGUAGE_CODE


def nearest_language(language: str, known: Collection[str]) -> str | None:
    """The name or code that a misspelt language was meant to be; None where no one can tell.

    Args:
        language: as it was written.
        known: codes of the languages that the model knows. Nothing else is suggested, and for a word that is a
            language already, though not one of these, nothing at all.
    """
    names = language_names()
    written = language.strip().lower()
    if language_code(language) in names.values():
        return None
    spellings = {name for name, code in names.items() if code in known} | set(known)
    near = get_close_matches(written, spellings - {written}, n=1)
    return near[0] if near else None

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
# ISO 639-1 with English names
_ISO_639_1 = """
    aa afar; ab abkhazian; ae avestan; af afrikaans; ak akan; am amharic; an aragonese; ar arabic; as assamese; av
    avaric; ay aymara; az azerbaijani; ba bashkir; be belarusian; bg bulgarian; bh bihari; bi bislama; bm bambara; bn
    bengali; bo tibetan; br breton; bs bosnian; ca catalan; ce chechen; ch chamorro; co corsican; cr cree; cs czech; cu
    church slavonic; cv chuvash; cy welsh; da danish; de german; dv divehi; dz dzongkha; ee ewe; el greek; en english;
    eo esperanto; es spanish; et estonian; eu basque; fa persian; ff fulah; fi finnish; fj fijian; fo faroese; fr
    french; fy western frisian; ga irish; gd scottish gaelic; gl galician; gn guarani; gu gujarati; gv manx; ha hausa;
    he hebrew; hi hindi; ho hiri motu; hr croatian; ht haitian creole; hu hungarian; hy armenian; hz herero; ia
    interlingua; id indonesian; ie interlingue; ig igbo; ii sichuan yi; ik inupiaq; io ido; is icelandic; it italian; iu
    inuktitut; ja japanese; jv javanese; ka georgian; kg kongo; ki kikuyu; kj kuanyama; kk kazakh; kl kalaallisut; km
    khmer; kn kannada; ko korean; kr kanuri; ks kashmiri; ku kurdish; kv komi; kw cornish; ky kyrgyz; la latin; lb
    luxembourgish; lg ganda; li limburgish; ln lingala; lo lao; lt lithuanian; lu luba katanga; lv latvian; mg malagasy;
    mh marshallese; mi maori; mk macedonian; ml malayalam; mn mongolian; mr marathi; ms malay; mt maltese; my burmese;
    na nauru; nb norwegian bokmal; nd north ndebele; ne nepali; ng ndonga; nl dutch; nn norwegian nynorsk; no norwegian;
    nr south ndebele; nv navajo; ny chichewa; oc occitan; oj ojibwe; om oromo; or odia; os ossetian; pa punjabi; pi
    pali; pl polish; ps pashto; pt portuguese; qu quechua; rm romansh; rn rundi; ro romanian; ru russian; rw
    kinyarwanda; sa sanskrit; sc sardinian; sd sindhi; se northern sami; sg sango; sh serbo croatian; si sinhala; sk
    slovak; sl slovenian; sm samoan; sn shona; so somali; sq albanian; sr serbian; ss swati; st southern sotho; su
    sundanese; sv swedish; sw swahili; ta tamil; te telugu; tg tajik; th thai; ti tigrinya; tk turkmen; tl tagalog; tn
    tswana; to tongan; tr turkish; ts tsonga; tt tatar; tw twi; ty tahitian; ug uyghur; uk ukrainian; ur urdu; uz uzbek;
    ve venda; vi vietnamese; vo volapuk; wa walloon; wo wolof; xh xhosa; yi yiddish; yo yoruba; za zhuang; zh chinese;
    zu zulu
"""
# Codes that it has given up, and Whisper's for Javanese
_FORMER_CODES = ("in", "iw", "ji", "jw")
# Other English names that models and data sets use
_OTHER_NAMES = """
    asturian; bokmal; cantonese; castilian; cebuano; central kurdish; farsi; filipino; flemish; frisian; fula; gaelic;
    haitian; hawaiian; kabuverdianu; kamba; kirghiz; letzeburgesch; luganda; luo; mandarin; moldavian; moldovan;
    myanmar; northern sotho; nyanja; nynorsk; oriya; panjabi; pushto; sinhalese; slovene; sorani; swiss german; uighur;
    umbundu; valencian
"""
# What people write in place of a code or an English name: codes of countries, names in the language itself
_MEANT = {
    **{"cn": "zh", "cz": "cs", "dk": "da", "gb": "en", "gr": "el", "jp": "ja", "ua": "uk", "us": "en", "vn": "vi"},
    **{"deutsch": "german", "español": "spanish", "espanol": "spanish", "français": "french", "francais": "french"},
    **{"italiano": "italian", "nihongo": "japanese", "português": "portuguese", "portugues": "portuguese"},
}


def language_code(language: str) -> str:
    """The code of a language, however it is written; what is no known spelling comes back in small letters.

    Understood are codes ("en", " EN "), regions and scripts behind them ("pt-BR", "en_us", "cmn_hans_cn"), Whisper's
    tokens ("<|en|>"), English names ("Haitian Creole", "haitian_creole") and names with a region ("Portuguese
    (Brazil)"). The codes are those of Whisper's vocabulary: ISO 639-1, but "jw" for Javanese, and "haw" and "yue".
    """
    return _code(language)


@functools.lru_cache(maxsize=4096)
def _code(language: str) -> str:
    written = _bare(language)
    first, *more = _BETWEEN_SUBTAGS.split(written)
    if _TAG.fullmatch(first) and first != "lao":  # the one English name that is as short as a code
        # Cantonese may stand behind Chinese, as "zh-yue"
        return "yue" if first == "zh" and "yue" in more else _ALIASES.get(first, first)
    return language_names().get(_plain(written), written)


def _bare(language: str) -> str:
    """A language in small letters, without the brackets of a token."""
    written = language.strip().lower()
    token = _SPECIAL_TOKEN.fullmatch(written)
    return token.group(1).strip() if token else written


def _plain(written: str) -> str:
    """A name as one writes it, without a region: words with one space between them."""
    return " ".join(_IN_PARENTHESES.sub("", written).replace("_", " ").replace("-", " ").split())


def check_language(language: str | None, told: str) -> None:
    """Refuse what is no language of any model, before a model is loaded that could say which ones it knows.

    What passes: None and nothing, "auto", codes of two letters (ISO 639-1), whatever begins like a code of three
    letters, and English names; regions and scripts as `language_code` understands them.

    Args:
        told: how an error names the setting, as "--language".

    Raises:
        ValueError: with the name or code that is probably meant.
    """
    written = _bare(str(language or ""))
    first = _BETWEEN_SUBTAGS.split(written)[0]
    codes, names = _known()
    if written in ("", DETECT) or _plain(written) in names or first in codes:
        return
    if len(first) == 3 and _TAG.fullmatch(first):
        return
    near = get_close_matches(_plain(written), names, n=1, cutoff=0.75)
    meant = _MEANT.get(first) or (near[0] if near else None)
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise ValueError(f"{told}: no language is called {language!r:.80}. {hint}Write an English name or an ISO 639 code.")


@functools.cache
def _known() -> tuple[set[str], set[str]]:
    """Codes of two letters, and English names in small letters."""
    entries = [entry.split(maxsplit=1) for entry in _ISO_639_1.split(";")]
    names = {" ".join(name.split()) for name in [*(name for _, name in entries), *_OTHER_NAMES.split(";")]}
    return {*(code for code, _ in entries), *_FORMER_CODES}, names


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

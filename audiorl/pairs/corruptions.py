"""Synthetic negatives: transcripts with errors of the kinds that recognisers make, without a model.

    homophone       a word becomes one that sounds the same; only for rows whose language is English
    neighbour       a letter becomes one with a similar sound; Latin, Cyrillic, Greek, kana, and some of Devanagari and
                    Arabic
    deletion        one to three words are left out, never all
    repeated_tail   the last words are repeated, up to four times
    ending          a phrase that ends subtitle files is added, in the languages of `STOCK_PHRASES`
    number          a digit becomes another one; number words in English, German, French, Spanish, Italian, Chinese,
                    Japanese
    keyword         one of the row's `keywords` becomes another of them, or is misspelled if it is the only one
    switch_omitted  words of another language are left out, as by a model that keeps to one: those in another script, or
                    in a table of translations
    switch_translated   the same words are translated into the row's language, by a table or a function

In scripts without spaces, words are characters. Kinds that do not apply to a text are left out: a Chinese transcript
without digits, for example, gets deletions, repeated tails and endings, but no homophones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from audiorl.rewards.hallucination import STOCK_PHRASES
from audiorl.rewards.language import count_scripts, script_of, scripts_of_language
from audiorl.text.error_rates import resolve_unit
from audiorl.text.languages import language_code
from audiorl.text.normalizers import normalizer

# Words of one sound, or nearly, in most English accents. English only: other languages have no list here.
_ENGLISH_HOMOPHONES = """
there their they're|to too two|its it's|your you're|hear here|know no|new knew|right write rite|one won
for four fore|by buy bye|our hour are|or oar ore|be bee|see sea|some sum|sun son|way weigh|wait weight|week weak
wear where ware|whether weather|which witch|who's whose|would wood|through threw|then than|accept except
affect effect|ate eight|allowed aloud|bare bear|berry bury|blew blue|board bored|brake break|bread bred|cell sell
cent sent scent|cite site sight|coarse course|complement compliment|council counsel|days daze|dear deer
desert dessert|die dye|fair fare|find fined|flour flower|great grate|hair hare|hall haul|heal heel|heard herd
higher hire|him hymn|hole whole|knight night|lead led|made maid|mail male|main mane|meat meet|morning mourning
none nun|pail pale|pain pane|pair pear|passed past|patience patients|peace piece|peak peek|plain plane
principal principle|rain reign|raise rays|read red|real reel|road rode|role roll|sail sale|scene seen|sew so
steal steel|stair stare|stationary stationery|suite sweet|tail tale|threw through|throne thrown|tide tied|time thyme
vain vein|waist waste|war wore|we wee|were we're|while wile|wrap rap|yoke yolk|an and|and end|let's lets
"""


def _groups(table: str) -> dict[str, tuple[str, ...]]:
    others: dict[str, tuple[str, ...]] = {}
    for group in (line.split() for line in table.replace("\n", "|").split("|")):
        for word in group:
            found = (*others.get(word, ()), *(other for other in group if other != word))
            others[word] = tuple(dict.fromkeys(found))
    return others


# word -> words that sound like it, lower case
HOMOPHONES: dict[str, tuple[str, ...]] = _groups(_ENGLISH_HOMOPHONES)

# Letters whose sounds differ in one feature (voice, place, height). Scripts that are not here have no neighbours: a
# Chinese character, for example, does not show its sound.
_LETTERS = """
b p|d t|g k|v f|s z|m n|l r|a e|e i|i y|o u|a o|c k|w v|h j
б п|д т|г к|в ф|з с|ж ш|м н|л р|а о|е и|у ю|ы и|ц ч
β π|δ τ|γ κ|μ ν|λ ρ|α ε|ο ω|η ι|σ ζ|φ θ
か が|き ぎ|く ぐ|け げ|こ ご|さ ざ|し じ|す ず|せ ぜ|そ ぞ|た だ|て で|と ど|は ば|ひ び|ふ ぶ|へ べ|ほ ぼ
カ ガ|キ ギ|ク グ|ケ ゲ|コ ゴ|サ ザ|シ ジ|ス ズ|セ ゼ|ソ ゾ|タ ダ|テ デ|ト ド|ハ バ|ヒ ビ|フ ブ|ヘ ベ|ホ ボ
क ग|त द|प ब|च ज|ट ड|म न|ल र|स श
ب ت|د ذ|س ص|ت ط|ك ق|ح ه
"""  # noqa: RUF001
# letter -> letters it is mistaken for
NEIGHBOURS: dict[str, tuple[str, ...]] = _groups(_LETTERS)

# By language: groups of number words of one kind; one word of a group replaces another.
NUMBER_WORDS: dict[str, tuple[str, ...]] = {
    "en": (
        "one two three four five six seven eight nine ten eleven twelve",
        "thirteen fourteen fifteen sixteen seventeen eighteen nineteen thirty forty fifty sixty seventy eighty ninety",
        "hundred thousand million billion",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
    ),
    "de": (
        "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn",
        "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
        "hundert tausend",
    ),
    "fr": (
        "deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize",
        "vingt trente quarante cinquante soixante",
        "cent mille",
    ),
    "es": (
        "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince",
        "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
        "cien mil",
    ),
    "it": (
        "due tre quattro cinque sei sette otto nove dieci undici dodici",
        "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
        "cento mille",
    ),
    "zh": ("一 二 三 四 五 六 七 八 九", "百 千 万"),
    "ja": ("一 二 三 四 五 六 七 八 九", "百 千 万"),
}


LONGEST_DELETION = 3
LONGEST_TAIL = 4
MOST_REPETITIONS = 4
# One letter of a shorter word is too much of it.
SHORTEST_MISSPELT = 3
# Draws for each negative that is wanted, before fewer are returned.
TRIES = 8
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_DIGIT = re.compile(r"[0-9]")


class SyntheticNegative(NamedTuple):
    """A corrupted transcript and how it was made."""

    text: str
    kind: str


# Words of another language -> the same in the row's; None where they are not known.
Translate = Mapping[str, str] | Callable[[str], str | None]


@dataclass(frozen=True)
class Source:
    """What is corrupted."""

    text: str
    language: str | None  # a code, "en"
    keywords: tuple[str, ...]
    spaced: bool  # whether words are separated by spaces
    translate: Translate | None = None

    @property
    def units(self) -> list[str]:
        return self.text.split() if self.spaced else list("".join(self.text.split()))

    def joined(self, units: Sequence[str]) -> str:
        return (" " if self.spaced else "").join(units)


def homophone(source: Source, rng: Random) -> str | None:
    if source.language != "en":
        return None
    return _replace_one(_WORD, source.text, lambda word: HOMOPHONES.get(word.lower().replace("\u2019", "'"), ()), rng)


def neighbour(source: Source, rng: Random) -> str | None:
    words = [found for found in _WORD.finditer(source.text) if _can_be_misspelt(found[0], source.spaced)]
    if not words:
        return None
    found = rng.choice(words)
    return source.text[: found.start()] + _misspelt(found[0], rng) + source.text[found.end() :]


def deletion(source: Source, rng: Random) -> str | None:
    units = source.units
    if len(units) < 2:
        return None
    count = rng.randint(1, min(LONGEST_DELETION, len(units) - 1))
    start = rng.randint(0, len(units) - count)
    return source.joined(units[:start] + units[start + count :])


def repeated_tail(source: Source, rng: Random) -> str | None:
    units = source.units
    if not units:
        return None
    tail = units[-rng.randint(1, min(LONGEST_TAIL, len(units))) :]
    return source.joined(units + tail * rng.randint(1, MOST_REPETITIONS))


def ending(source: Source, rng: Random) -> str | None:
    phrases = STOCK_PHRASES.get(source.language or "")
    if not phrases:
        return None
    return source.joined([source.text, rng.choice(phrases)]).strip()


def number(source: Source, rng: Random) -> str | None:
    digits = _DIGIT.search(source.text) is not None
    groups = [group.split() for group in NUMBER_WORDS.get(source.language or "", ())]
    others = {word: [other for other in group if other != word] for group in groups for word in group}
    if digits and (not others or rng.random() < 0.5):
        return _replace_one(_DIGIT, source.text, _other_digits, rng)
    pattern = _WORD if source.spaced else re.compile("|".join(others) or "(?!)")
    return _replace_one(pattern, source.text, lambda word: others.get(word.lower(), ()), rng)


def keyword(source: Source, rng: Random) -> str | None:
    edge = r"\b" if source.spaced else ""
    places = [
        (found, word)
        for word in source.keywords
        for found in re.finditer(rf"{edge}{re.escape(word)}{edge}", source.text, re.IGNORECASE)
    ]
    if not places:
        return None
    found, word = rng.choice(places)
    others = [other for other in source.keywords if other.lower() != word.lower()]
    if not others and not _can_be_misspelt(found[0], source.spaced):
        return None
    instead = rng.choice(others) if others else _misspelt(found[0], rng)
    return source.text[: found.start()] + instead + source.text[found.end() :]


def switches(source: Source) -> list[re.Match[str]]:
    """Where words of another language stand: runs of words in another script, and phrases of the table."""
    expected = scripts_of_language(source.language)
    if not expected:
        scripts = count_scripts(source.text)
        expected = frozenset(script for script, _ in scripts.most_common(1))
    own = "".join(dict.fromkeys(c for c in source.text if c.isalpha() and script_of(c) in {*expected, ""}))
    if any(char.isalpha() and char not in own for char in source.text):
        other = rf"[^\W\d_{re.escape(own)}]" if own else r"[^\W\d_]"
        found = list(re.finditer(rf"{other}+(?:[\s'-]+{other}+)*", source.text))
    else:
        found = []
    if isinstance(source.translate, Mapping):
        for phrase in source.translate:
            edges = [r"\b" if phrase[side : side + 1 or None].isascii() else "" for side in (0, -1)]
            pattern = edges[0] + re.escape(phrase) + edges[1]
            found += re.finditer(pattern, source.text, re.IGNORECASE) if phrase.strip() else []
    return found


def switch_omitted(source: Source, rng: Random) -> str | None:
    places = switches(source)
    if not places:
        return None
    found = rng.choice(places)
    before, after = source.text[: found.start()], source.text[found.end() :]
    joint = " " if before[-1:].isspace() and after[:1].isspace() else ""
    return (before.rstrip() + joint + after.lstrip() if joint else before + after).strip() or None


def switch_translated(source: Source, rng: Random) -> str | None:
    translate = source.translate
    if translate is None:
        return None
    known: Callable[[str], str | None]
    if isinstance(translate, Mapping):
        table = {phrase.casefold(): translation for phrase, translation in translate.items()}
        known = lambda phrase: table.get(phrase.casefold())  # noqa: E731
    else:
        known = translate
    places = [(found, said) for found in switches(source) if (said := known(found[0])) is not None]
    if not places:
        return None
    found, said = rng.choice(places)
    return source.text[: found.start()] + said + source.text[found.end() :]


CORRUPTIONS: dict[str, Callable[[Source, Random], str | None]] = {
    "homophone": homophone,
    "neighbour": neighbour,
    "deletion": deletion,
    "repeated_tail": repeated_tail,
    "ending": ending,
    "number": number,
    "keyword": keyword,
    "switch_omitted": switch_omitted,
    "switch_translated": switch_translated,
}
# Where nothing is said which of them to use, texts of one language are corrupted without these.
OF_SWITCHES = ("switch_omitted", "switch_translated")


def synthetic_negatives(
    text: str,
    *,
    count: int,
    seed: int | str = 0,
    language: str | None = None,
    keywords: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    normalise: str | Callable[[str], str] = "basic",
    translate: Translate | None = None,
) -> list[SyntheticNegative]:
    """Up to `count` wrong versions of a transcript, all different and none equal to it once normalised.

    Args:
        text: the transcript.
        count: > 0; fewer are returned if the text does not allow more.
        seed: the same text, seed and settings give the same negatives.
        language: code or English name; None leaves out homophones, endings and number words.
        keywords: names and terms in the text.
        kinds: of `CORRUPTIONS`, taken in turn, in an order drawn from the seed; default all.
        normalise: see `audiorl.text.normalizers.normalizer`; texts that it makes equal count as one.
        translate: of words of another language in the text, for switch_translated: a table of phrases, or a function,
            a model for example, that gives None for what it does not know.

    Raises:
        ValueError: count below 1 or an unknown kind.
    """
    chosen = list(CORRUPTIONS if kinds is None else kinds)
    unknown = [kind for kind in chosen if kind not in CORRUPTIONS]
    if count < 1 or unknown or not chosen:
        raise ValueError(
            f"Synthetic negatives are count >= 1 of the kinds {', '.join(CORRUPTIONS)}; got count={count} and "
            f"kinds={chosen}. Leave kinds out for all of them."
        )
    plain = normalizer(normalise)
    spaced = resolve_unit("auto", [text]) == "word"
    code = language_code(language) if language else None
    source = Source(text, code, tuple(word for word in keywords or () if word.strip()), spaced, translate)
    if kinds is None and not switches(source):
        chosen = [kind for kind in chosen if kind not in OF_SWITCHES]
    rng = Random(f"{seed} {text}")
    rng.shuffle(chosen)
    seen, found = {plain(text)}, []
    for attempt in range(TRIES * max(count, len(chosen))):
        kind = chosen[attempt % len(chosen)]
        made = CORRUPTIONS[kind](source, rng)
        made = None if made is None else _in_case_of(text, made)
        if made is not None and (said := plain(made)).strip() and said not in seen:
            seen.add(said)
            found.append(SyntheticNegative(made, kind))
            if len(found) == count:
                break
    return found


def _in_case_of(text: str, made: str) -> str:
    """All capitals or none if the transcript is so; case must not show which words were inserted."""
    return made.upper() if text.isupper() else made.lower() if text.islower() else made


def _replace_one(
    pattern: re.Pattern[str], text: str, others: Callable[[str], Sequence[str]], rng: Random
) -> str | None:
    """The text with one match, of those that have others, exchanged for another; its capital stays."""
    places = [found for found in pattern.finditer(text) if others(found[0])]
    if not places:
        return None
    found = rng.choice(places)
    instead = rng.choice(others(found[0]))
    if found[0][0].isupper():
        instead = instead[0].upper() + instead[1:]
    return text[: found.start()] + instead + text[found.end() :]


def _other_digits(digit: str) -> list[str]:
    return [other for other in "0123456789" if other != digit]


def _can_be_misspelt(word: str, spaced: bool) -> bool:
    return len(word) >= (SHORTEST_MISSPELT if spaced else 1) and any(letter.lower() in NEIGHBOURS for letter in word)


def _misspelt(word: str, rng: Random) -> str:
    """One letter exchanged for one of a like sound."""
    place = rng.choice([place for place, letter in enumerate(word) if letter.lower() in NEIGHBOURS])
    instead = rng.choice(NEIGHBOURS[word[place].lower()])
    return word[:place] + (instead.upper() if word[place].isupper() else instead) + word[place + 1 :]

"""Hallucination: words of a hypothesis that nobody spoke.

Detectors mark units (words or characters) of the hypothesis; the penalty is their number over the transcript's length.
A detector sees the shortest alignment of hypothesis and transcript. What is marked and what the alignment leaves
unmatched may lie in different places: of two equal turns of a loop, either may be the true one. So at most as many
units count as the alignment leaves unmatched, and a correct hypothesis is never punished.

Stock phrases end subtitle files. Models that were trained on such files write them for silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from rapidfuzz.distance import Levenshtein

from audiorl.rewards.base import ShippedReward, TextReward
from audiorl.text.error_rates import UNSPACED_CHARACTER, Opcodes, TextPair, completion_text, split_units
from audiorl.text.normalizers import basic_text

# By language; phrases that hardly occur in speech other than that of video makers. "Thank you" alone is none of them.
STOCK_PHRASES: dict[str, tuple[str, ...]] = {
    "en": (
        "thanks for watching",
        "thank you for watching",
        "please subscribe",
        "like and subscribe",
        "subscribe to my channel",
        "subscribe to our channel",
        "see you in the next video",
        "subtitles by",
        "captions by",
        "transcribed by",
        "transcription by",
        "amara.org",
    ),
    "de": (
        "Untertitel im Auftrag des ZDF",
        "Untertitel von",
        "Untertitelung des ZDF",
        "Untertitelung aufgrund der",
        "Danke fürs Zuschauen",
        "Vielen Dank fürs Zuschauen",
        "Copyright WDR",
    ),
    "fr": (
        "Sous-titres réalisés par",
        "Sous-titrage",
        "Merci d'avoir regardé cette vidéo",
        "Abonnez-vous à la chaîne",
    ),
    "es": (
        "Subtítulos realizados por",
        "Subtítulos por",
        "Gracias por ver el video",
        "Gracias por ver el vídeo",
        "Suscríbete al canal",
    ),
    "pt": ("Legendas pela comunidade", "Obrigado por assistir", "Inscreva-se no canal"),
    "it": ("Sottotitoli creati dalla", "Sottotitoli a cura di", "Grazie per aver guardato il video"),
    "nl": ("Ondertiteling door", "Ondertitels ingediend door", "Bedankt voor het kijken"),
    "pl": ("Napisy stworzone przez", "Dziękuję za obejrzenie", "Dzięki za oglądanie"),
    "ru": (
        "Субтитры сделал",
        "Субтитры создавал",
        "Редактор субтитров",
        "Спасибо за просмотр",
        "Подписывайтесь на канал",
    ),
    "uk": ("Дякую за перегляд", "Підписуйтесь на канал"),
    "tr": ("Altyazı M.K.", "İzlediğiniz için teşekkürler"),  # noqa: RUF001
    "sv": ("Textning Stina Hedin", "Tack för att ni tittade"),
    "no": ("Teksting av",),
    "ar": ("ترجمة نانسي قنقر", "اشتركوا في القناة", "شكرا على المشاهدة"),
    "hi": ("देखने के लिए धन्यवाद",),
    "vi": ("Cảm ơn các bạn đã theo dõi", "Hãy đăng ký kênh"),
    "ko": ("시청해주셔서 감사합니다", "구독과 좋아요"),
    "ja": ("ご視聴ありがとうございました", "チャンネル登録"),
    "zh": ("请不吝点赞", "字幕由", "字幕志愿者", "謝謝觀看", "谢谢观看", "感谢观看", "訂閱頻道"),
}


@dataclass(frozen=True, kw_only=True)
class NoStockPhrases(ShippedReward):
    """-1 for a stock phrase of subtitle files that was not spoken.

        reward = -1 where a phrase occurs oftener in the hypothesis than in the transcript, else 0

    Both texts pass `basic_text` first; a phrase matches whole words, except in scripts without spaces. In a `RewardSet`
    it overrides: a total that it touches is -1 times its weight at best.

    Args:
        phrases: whatever else is to be punished, beside or instead of `STOCK_PHRASES`; default these, all languages.
        name: see `ShippedReward`.

    Range: {-1, 0}. Silence, empty hypothesis: 0 for an empty hypothesis, whatever the transcript. A row without a
    transcript (None) gives None.

    Source: the phenomenon in Koenecke et al. 2024, arXiv:2402.08021; the list is ours.

    Raises:
        ValueError: a phrase of which the normaliser leaves nothing.
    """

    phrases: tuple[str, ...] = tuple(phrase for phrases in STOCK_PHRASES.values() for phrase in phrases)
    _padded: tuple[str, ...] = field(init=False, repr=False, compare=False)

    default_name: ClassVar[str] = "stock_phrases"
    overrides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        padded = tuple(_padded(basic_text(phrase)) for phrase in self.phrases)
        if "" in padded or not padded:
            raise ValueError(
                f"{self.__name__} looks for phrases of words; got {self.phrases!r:.200}. Leave out those without a "
                "letter."
            )
        object.__setattr__(self, "phrases", tuple(self.phrases))
        object.__setattr__(self, "_padded", padded)

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""
        return [
            None if transcript is None else self.score(basic_text(completion_text(completion)), transcript)
            for completion, transcript in zip(completions, text, strict=True)
        ]

    def score(self, said: str, transcript: str) -> float:
        """The penalty of one hypothesis; `said` has passed `basic_text`, the transcript not."""
        padded = f" {said} "
        for phrase in self._padded:
            if phrase in padded and _count(phrase, said) > _count(phrase, basic_text(transcript)):
                return -1.0
        return 0.0


def _count(padded_phrase: str, text: str) -> int:
    # two spaces between words, so that a phrase said twice in a row need not share one
    inner = padded_phrase.strip().replace(" ", "  ")
    start, end = padded_phrase[:1].isspace(), padded_phrase[-1:].isspace()
    return f" {text} ".replace(" ", "  ").count(" " * start + inner + " " * end)


def _padded(phrase: str) -> str:
    """Spaces around a phrase make it match whole words; in scripts without spaces there are none to match."""
    if not phrase:
        return ""
    start = "" if UNSPACED_CHARACTER.match(phrase[0]) else " "
    end = "" if UNSPACED_CHARACTER.match(phrase[-1]) else " "
    return start + phrase + end


ONE_CHARACTER_OVER_AND_OVER = r"(\S)\1{9,}"
# Spans of raw text that are no speech, wherever the transcript has none of them.
PATTERNS = (
    r"[\[(<{【（][^\])>}】）]{1,60}[\])>}】）]",  # noqa: RUF001  [music], (applause), <|special|>
    r"[♩♪♫♬]+(?:[^♩♪♫♬]+[♩♪♫♬]+)?",  # sung lines of subtitles
    r"(?:https?://|www\.)\S+",
    ONE_CHARACTER_OVER_AND_OVER,
)
NGRAM = 3
# A run of substituted units shorter than this is a misheard word or two.
INVENTED_UNITS = 3
# Misheard words look like what was said; invented ones share no more characters than chance gives.
MISHEARD_SIMILARITY = 0.5


class Case(NamedTuple):
    """One hypothesis before the detectors."""

    transcript: list[str]
    hypothesis: list[str]
    opcodes: Opcodes


def repeated_units(case: Case) -> set[int]:
    """Units of n-grams (n = 3) that come back more often than in the transcript, the first time not counted.

    For each n-gram the first max(1, its count in the transcript) occurrences are granted; what the others cover beyond
    these is marked. A true repetition is granted in full; a loop is marked from its second turn on.
    """
    said = _ngrams(case.hypothesis)
    if len(set(said)) == len(said):
        return set()
    places: dict[tuple[str, ...], list[int]] = {}
    for place, ngram in enumerate(said):
        places.setdefault(ngram, []).append(place)
    true = Counter(_ngrams(case.transcript))
    marked: set[int] = set()
    for ngram, found in places.items():
        if len(found) > 1 and len(found) > (granted := max(1, true[ngram])):
            within = found[granted - 1] + NGRAM  # end of the last granted one
            marked.update(unit for place in found[granted:] for unit in range(max(place, within), place + NGRAM))
    return marked


def inserted_units(case: Case) -> set[int]:
    """Units that the alignment inserts; for silence every unit."""
    return {unit for tag, _, _, start, end in case.opcodes if tag == "insert" for unit in range(start, end)}


def invented_units(case: Case) -> set[int]:
    """Units put in the place of others that they do not resemble: a stretch of unheard words.

    A stretch lies between two matches. It is marked where it and the transcript's have `INVENTED_UNITS` units or more,
    one-character units counting half, and the normalised Levenshtein similarity of the two is below
    `MISHEARD_SIMILARITY`. Misheard words ("wreck a nice beach") pass: the error rate has counted them.
    """
    marked: set[int] = set()
    for true_start, true_end, start, end in _stretches(case.opcodes):
        if min(true_end - true_start, end - start) < INVENTED_UNITS:
            continue
        true, said = case.transcript[true_start:true_end], case.hypothesis[start:end]
        if min(_substance(true), _substance(said)) >= INVENTED_UNITS:
            if Levenshtein.normalized_similarity(" ".join(true), " ".join(said)) < MISHEARD_SIMILARITY:
                marked.update(range(start, end))
    return marked


DETECTORS: dict[str, Callable[[Case], set[int]]] = {
    "repetition": repeated_units,
    "insertions": inserted_units,
    "invention": invented_units,
}
# Not a function of units: it looks at the raw text, before a normaliser drops brackets and notes.
PATTERN_DETECTOR = "patterns"


@dataclass(frozen=True, kw_only=True)
class Hallucination(TextReward):
    """A penalty in proportion to the words that were not spoken.

    With N units in the transcript and m the number of units that one detector at least marks, at most as many as the
    alignment leaves unmatched,

        reward = -min(1, m / N)                 where something was spoken
        reward = -min(1, m / silence_units)     for silence, where insertions mark every unit that is said
        reward = -1                             for an empty hypothesis where something was spoken

    The last line is no hallucination. Without it saying nothing would be the surest way past the penalty.

    Detectors:
        repetition: n-grams that come back more often than in the transcript, see `repeated_units`.
        insertions: units that the shortest alignment inserts.
        invention: stretches of substituted units unlike what was spoken, see `invented_units`.
        patterns: spans of the raw text that match a regular expression oftener than the transcript does; a span
            counts its units, at least one.

    Args:
        detect: names of the detectors to use.
        patterns: regular expressions; default brackets, notes, addresses, one character ten times in a row.
        silence_units: > 0; this many units said for silence cost the whole penalty.
        normalise, unit, name: see `TextReward`.

    Range: [-1, 0]. Silence: 0 for an empty hypothesis. A hypothesis equal to its transcript: 0.

    Source: n-gram repetition as a penalty, Yeo et al. 2025, arXiv:2502.03373, appendix C.2, here against the
    transcript's own; what counts as hallucination, fluent text without relation to the audio, after Frieske and Shi
    2024, arXiv:2401.01572. The combination is ours.

    Raises:
        ValueError: an unknown detector, none, a pattern that is not a regular expression, silence_units < 1.
    """

    detect: tuple[str, ...] = (*DETECTORS, PATTERN_DETECTOR)
    patterns: tuple[str, ...] = PATTERNS
    silence_units: int = 5
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    default_name: ClassVar[str] = "hallucination"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "detect", tuple(self.detect))
        object.__setattr__(self, "patterns", tuple(self.patterns))
        known = (*DETECTORS, PATTERN_DETECTOR)
        unknown = [name for name in self.detect if name not in known]
        if unknown or not self.detect:
            raise ValueError(
                f"{self.__name__} detects {', '.join(known)}; got detect={self.detect}. Name at least one of them."
            )
        if self.silence_units < 1:
            raise ValueError(
                f"{self.__name__} divides by silence_units where nothing was spoken; got {self.silence_units}. "
                "Use 5, or 1 for the whole penalty at the first word."
            )
        object.__setattr__(self, "_compiled", tuple(map(self._compile, self.patterns)))

    def _compile(self, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{self.__name__} got the pattern {pattern!r}, which is not a regular expression: {error}. Escape "
                "its special characters with re.escape."
            ) from error

    def __call__(self, completions: Sequence[Any], text: Sequence[str | None], **columns: Any) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""
        return [
            None if pair is None or transcript is None else self.score(pair, completion_text(completion), transcript)
            for pair, completion, transcript in zip(self.pairs(completions, text), completions, text, strict=True)
        ]

    def score(self, pair: TextPair, said: str, transcript: str, opcodes: Opcodes | None = None) -> float:
        """The penalty of one hypothesis.

        Args:
            pair: the two texts as units.
            said, transcript: the same two, not normalised, for the patterns.
            opcodes: of the pair's alignment, where the caller has them already.
        """
        matched = 0
        if PATTERN_DETECTOR in self.detect:
            rest, matched = self._without_patterns(said, transcript, pair.unit)
            if matched:
                pair = pair._replace(hypothesis=split_units(self.normaliser(rest), pair.unit))
                opcodes = None
        if pair.transcript and not pair.hypothesis:
            return -1.0
        if pair.transcript != pair.hypothesis:
            if opcodes is None:
                opcodes = pair.opcodes()
            case = Case(pair.transcript, pair.hypothesis, opcodes)
            marked = set().union(*(detector(case) for name, detector in DETECTORS.items() if name in self.detect))
            unmatched = sum(end - start for tag, _, _, start, end in opcodes if tag != "equal")
            matched += min(len(marked), unmatched)
        return -min(1.0, matched / (len(pair.transcript) or self.silence_units)) if matched else 0.0

    def _without_patterns(self, said: str, transcript: str, unit: str) -> tuple[str, int]:
        """The raw hypothesis without spans that match a pattern, and how many units these had."""
        units = 0
        for pattern in self._compiled:
            if pattern.search(said):
                found = list(pattern.finditer(said))
                kept, place = [], 0
                for match in found[len(pattern.findall(transcript)) :]:
                    units += max(1, len(split_units(match[0], unit)))
                    kept.append(said[place : match.start()])
                    place = match.end()
                said = " ".join([*kept, said[place:]])
        return said, units


def _substance(units: Sequence[str]) -> float:
    return sum(1.0 if len(unit) > 1 else 0.5 for unit in units)


def _ngrams(units: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(units[start:] for start in range(NGRAM)), strict=False))


def _stretches(opcodes: Opcodes) -> list[tuple[int, int, int, int]]:
    """What lies between matches: (transcript start, end, hypothesis start, end)."""
    stretches: list[tuple[int, int, int, int]] = []
    adjacent = False
    for tag, true_start, true_end, start, end in opcodes:
        if tag == "equal":
            adjacent = False
        elif adjacent:
            stretches[-1] = (stretches[-1][0], true_end, stretches[-1][2], end)
        else:
            stretches.append((true_start, true_end, start, end))
            adjacent = True
    return stretches

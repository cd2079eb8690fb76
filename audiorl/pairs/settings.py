"""How pairs are mined: the settings, and the strategies that choose which texts of a clip become a pair.

No torch and no transformers are imported, so that flags show at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from audiorl.rewards.registry import RewardFlags
from audiorl.text.languages import check_language

# What a hypothesis can fail in, beside single words.
FAILURES = ("loop", "hallucination", "language", "keyword")
SOURCES = ("samples", "beams", "synthetic")
DEFAULT_STRATEGY = {
    "samples": "transcript_vs_worst",
    "beams": "transcript_vs_worst",
    "synthetic": "transcript_vs_each",
}
# Strategies that pair each corrupted text only with the transcript.
OF_TRANSCRIPT = ("transcript_vs_worst", "transcript_vs_each")


@dataclass
class MiningConfig(RewardFlags):
    """Hypotheses, rewards, pairs and filters of `audiorl.pairs.mine_pairs`.

    Raises:
        ValueError: a setting out of its range, or two that contradict each other.
    """

    source: str = field(
        default="samples",
        metadata={
            "help": "Where hypotheses come from: samples of the model, beams (its n best by beam search), or synthetic "
            "(transcripts corrupted without a model).",
            "choices": list(SOURCES),
        },
    )
    strategy: str | None = field(
        default=None,
        metadata={
            "help": "Which texts are paired: transcript_vs_worst (default), transcript_vs_each (default of synthetic), "
            "best_vs_worst, above_margin (every two), nbest (the best against those that the model finds more "
            "probable)."
        },
    )
    num_generations: int = field(
        default=8,
        metadata={"help": "K: how many hypotheses (or beams, or corruptions) of each clip, at each temperature."},
    )
    temperature: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "Temperatures to sample at, one or more, above 0; beams take one."},
    )
    batch_size: int = field(default=8, metadata={"help": "Clips decoded at once, at least 1."})
    language: str | None = field(
        default=None,
        metadata={"help": "Language of rows that name none. Synthetic homophones, endings and number words need one."},
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Rewards by name or dotted path that judge the texts; unset: minus the word error rate."},
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight for each reward; default 1."}
    )
    pseudo_labels: bool = field(
        default=False,
        metadata={
            "help": "Use rows without text: the hypothesis with the highest reward (with consensus, the one of "
            "minimum Bayes risk) is the pseudo-label of its clip. Pseudo-labels are written to pseudo_labels.jsonl, "
            "and pairs are made of hypotheses alone."
        },
    )
    min_chosen_reward: float | None = field(
        default=None,
        metadata={"help": "Least reward of a chosen text and of a pseudo-label; unset: no limit."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens after which a hypothesis is cut, above 0; unset: twice the transcript's and 16 more, or "
            "256 for rows without one."
        },
    )
    min_margin: float = field(
        default=0.0,
        metadata={
            "help": "Least difference between the rewards of chosen and rejected; chosen always has the larger one."
        },
    )
    max_margin: float | None = field(
        default=None,
        metadata={"help": "Largest difference between the rewards of chosen and rejected; a bound leaves out loops."},
    )
    max_pairs: int | None = field(default=None, metadata={"help": "Most pairs of one clip; unset: no limit."})
    same_script: bool = field(
        default=False,
        metadata={"help": "Leave out hypotheses in another script than the row's language or transcript."},
    )
    allow_silence: bool = field(
        default=False,
        metadata={
            "help": "Accept rows with an empty text: nothing is said in the clip. If off, an empty text is an error."
        },
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Mine only rows whose `language` is one of these, spelled as in the rows."}
    )
    min_audio_seconds: float | None = field(
        default=None, metadata={"help": "Skip clips shorter than this. Seconds, >= 0."}
    )
    max_audio_seconds: float | None = field(
        default=None, metadata={"help": "Skip clips longer than this. Seconds, above 0."}
    )
    other_transcripts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns with other systems' transcripts. Only hard cases are kept: clips on which these systems "
            "agree and the model, decoded with its generation config, differs."
        },
    )
    max_disagreement: float = field(
        default=0.05, metadata={"help": "Hard cases: other systems agree up to this error rate, a fraction."}
    )
    min_disagreement: float = field(
        default=0.10,
        metadata={"help": "Hard cases: the model differs from them at this error rate or more, a fraction."},
    )
    only: list[str] | None = field(
        default=None,
        metadata={
            "help": "Make pairs from these failures alone: loop, hallucination, language, keyword. Rejected is a "
            "hypothesis that loops, says what nobody said, is in another script, or misses a keyword; chosen does "
            "none of this. Clips without such a hypothesis are left out.",
        },
    )
    translations: str | None = field(
        default=None,
        metadata={
            "help": "Synthetic, switch_translated: JSON file with words or phrases and their translation into the "
            "row's language, {phrase: translation}."
        },
    )
    corruptions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Synthetic: kinds to use, from homophone, neighbour, deletion, repeated_tail, ending, number, "
            "keyword, switch_omitted, switch_translated. Unset: all."
        },
    )
    measure_wer: bool = field(
        default=False,
        metadata={"help": "Also decode every clip with the generation config, for the WER before tuning."},
    )
    normalise: str = field(
        default="basic", metadata={"help": "Normalizer of texts before they are compared: basic, lower, english, none."}
    )
    unit: str = field(default="auto", metadata={"help": "What is counted: word, character, mixed or auto."})
    seed: int = field(default=0, metadata={"help": "Seed of samples and corruptions, at least 0."})

    def __post_init__(self) -> None:
        if isinstance(self.temperature, Real):
            self.temperature = [self.temperature]
        untold = "best_vs_worst" if self.pseudo_labels else None
        self.strategy = self.strategy or untold or DEFAULT_STRATEGY.get(self.source)
        self._check_numbers()
        self._check_choices()
        check_language(self.language, f"{type(self).__name__}.language")
        if self.source == "synthetic":
            self._check_synthetic()
        if self.pseudo_labels:
            self._check_untold()
        flags = [one.name for one in fields(RewardFlags) if getattr(self, one.name) is not None]
        read = self.only and "keyword" in self.only and flags == ["reward_keywords"]
        if flags and self.reward_funcs is None and not read:
            raise ValueError(
                f"{flags} are settings of rewards, and there are none. Add reward_funcs, or leave them out."
            )

    def _check_untold(self) -> None:
        """What needs a transcript where there is none."""
        if self.reward_funcs is None:
            raise ValueError("pseudo_labels are chosen by rewards, and there are none. Add reward_funcs consensus.")
        needing = [name for name in ("other_transcripts", "measure_wer", "only") if getattr(self, name)]
        if needing or self.source == "synthetic" or self.strategy in OF_TRANSCRIPT:
            raise ValueError(
                f"pseudo_labels make pairs of a model's own hypotheses; got source={self.source!r}, strategy="
                f"{self.strategy!r} and {needing}, which need transcripts. Use samples or beams with best_vs_worst, "
                "above_margin or nbest."
            )

    @cached_property
    def rewards(self) -> list[Any] | None:
        """The rewards with their settings; None where the error rate judges."""
        return None if self.reward_funcs is None else self.configured(self.reward_funcs)

    @cached_property
    def translate(self) -> Mapping[str, str] | Callable[[str], str | None] | None:
        """What `switch_translated` translates with: a file's table, or in Python a table or function."""
        if not isinstance(self.translations, str):
            return self.translations
        try:
            table = json.loads(Path(self.translations).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"translations {self.translations!r} cannot be read: {error}. Name a JSON file, "
                '{"new phone": "nuevo teléfono"}.'
            ) from error
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise ValueError(
                f"translations {self.translations!r} have to be one JSON object of texts, {{phrase: translation}}. "
                "Correct the file."
            )
        return table

    def _check_numbers(self) -> None:
        ranges: dict[str, tuple[bool, str]] = {
            "num_generations": (self.num_generations >= 1, "1 or more"),
            "temperature": (bool(self.temperature) and all(0 < t < math.inf for t in self.temperature), "above 0"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "min_margin": (0 <= self.min_margin < math.inf, "0 or more"),
            "max_margin": (
                self.max_margin is None or (self.max_margin > 0 and self.max_margin >= self.min_margin),
                "above 0 and not below min_margin",
            ),
            "max_new_tokens": (self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or more"),
            "max_pairs": (self.max_pairs is None or self.max_pairs >= 1, "1 or more"),
            "max_disagreement": (self.max_disagreement >= 0, "0 or more"),
            "min_disagreement": (self.min_disagreement > 0, "above 0"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise ValueError(
                    f"Mining pairs: {name}={getattr(self, name)!r} is out of its range. Use a value {allowed}."
                )

    def _check_choices(self) -> None:
        from audiorl.pairs.corruptions import CORRUPTIONS

        _require_known("source", [self.source], SOURCES)
        _require_known("strategy", [self.strategy], list(STRATEGIES))
        _require_known("corruptions", self.corruptions or [], list(CORRUPTIONS))
        _require_known("only", self.only or [], FAILURES)
        if self.only is not None and (not self.only or self.source == "synthetic"):
            raise ValueError(
                f"only={self.only} has to name failures of a model's own hypotheses ({', '.join(FAILURES)}); the "
                f"source is {self.source!r}. Name one with source='samples' or 'beams', or leave it out."
            )
        if self.translations is not None and self.source != "synthetic":
            raise ValueError(
                "translations are for the synthetic negatives switch_translated. Set source='synthetic', or leave them "
                "out."
            )
        if self.source == "beams" and len(self.temperature) > 1:
            raise ValueError(
                f"Scores of beam searches at several temperatures do not compare; got temperature={self.temperature}. "
                "Give one, or use source='samples'."
            )
        if self.corruptions is not None and self.source != "synthetic":
            raise ValueError(
                f"corruptions={self.corruptions} are kinds of synthetic negatives, but source is {self.source!r}. "
                "Set source='synthetic', or leave them out."
            )
        if self.reward_weights is not None and self.reward_funcs is None:
            raise ValueError(
                "reward_weights weigh reward_funcs, and there are none. Name rewards, or leave the weights out."
            )

    def _check_synthetic(self) -> None:
        if self.strategy not in OF_TRANSCRIPT:
            raise ValueError(
                f"Synthetic negatives are only known to be worse than the transcript. strategy="
                f"{self.strategy!r} pairs hypotheses with each other. Use one of {list(OF_TRANSCRIPT)}."
            )
        if self.other_transcripts or self.measure_wer:
            raise ValueError(
                "Hard cases (other_transcripts) and measure_wer ask a model, which source='synthetic' does without. "
                "Leave them out, or use source='samples'."
            )


def _require_known(name: str, given: Sequence[Any], known: Sequence[str]) -> None:
    for value in given:
        if value not in known:
            raise ValueError(f"Mining pairs: {name} has no {value!r}. It takes {', '.join(known)}.")


# ---- strategies: which texts of a clip become chosen and rejected ----
# Functions of rewards, nothing else. Place 0 is the transcript, 1 ... K are hypotheses. No strategy pairs two texts
# that the filters do not allow.

TRANSCRIPT = 0
Pair = tuple[int, int]  # places of chosen and rejected


class ScoredTexts(NamedTuple):
    """One clip's texts as a strategy sees them."""

    rewards: Sequence[float]  # (K + 1,) NaN where no reward scored the text
    scores: Sequence[float]  # (K + 1,) how likely the model holds each; NaN for texts it was not asked about
    usable: Sequence[int]  # places of the hypotheses that may stand in a pair at all
    allowed: Callable[[int, int], bool]  # (chosen, rejected) -> whether the filters let them be a pair

    @property
    def best(self) -> int | None:
        """The usable hypothesis of the highest reward, the first of several."""
        return max(self.usable, key=lambda place: self.rewards[place], default=None)

    def worse_than(self, chosen: int) -> list[int]:
        """What `chosen` may be paired with, the lowest reward first."""
        found = [place for place in self.usable if self.allowed(chosen, place)]
        return sorted(found, key=lambda place: self.rewards[place])


def transcript_vs_worst(texts: ScoredTexts) -> list[Pair]:
    """The transcript against the hypothesis of the lowest reward."""
    return transcript_vs_each(texts)[:1]


def transcript_vs_each(texts: ScoredTexts) -> list[Pair]:
    """The transcript against every hypothesis that is worse."""
    return [(TRANSCRIPT, place) for place in texts.worse_than(TRANSCRIPT)]


def best_vs_worst(texts: ScoredTexts) -> list[Pair]:
    """The hypothesis of the highest reward against that of the lowest; the transcript is not learnt from."""
    if texts.best is None:
        return []
    return [(texts.best, place) for place in texts.worse_than(texts.best)[:1]]


def above_margin(texts: ScoredTexts) -> list[Pair]:
    """Every two hypotheses whose rewards lie far enough apart, the widest margins first."""
    pairs = [(chosen, place) for chosen in texts.usable for place in texts.worse_than(chosen)]
    return sorted(pairs, key=lambda pair: texts.rewards[pair[1]] - texts.rewards[pair[0]])


def nbest(texts: ScoredTexts) -> list[Pair]:
    """The best hypothesis of a list against those that earn less and that the model holds likelier: its false ranks.

    The lowest reward comes first. Made for the lists of a beam search; samples are ranked by their log-probability.
    """
    if texts.best is None:
        return []
    likelier = texts.scores[texts.best]
    return [(texts.best, place) for place in texts.worse_than(texts.best) if texts.scores[place] > likelier]


STRATEGIES: dict[str, Callable[[ScoredTexts], list[Pair]]] = {
    "transcript_vs_worst": transcript_vs_worst,
    "transcript_vs_each": transcript_vs_each,
    "best_vs_worst": best_vs_worst,
    "above_margin": above_margin,
    "nbest": nbest,
}


def is_hard_case(
    own: str,
    others: Sequence[str | None],
    *,
    max_disagreement: float = 0.05,
    min_disagreement: float = 0.10,
    unit: str = "auto",
    normalise: str | Callable[[str], str] = "basic",
) -> bool:
    """Whether a clip is worth tuning on, as far as transcripts of other systems tell.

        hard = D(a, b) <= max_disagreement   for every two of the others, and
               D(a, own) >= min_disagreement for every one of them
        D(a, b) = max(WER(a; b), WER(b; a))

    Args:
        own: what the model says of the clip.
        others: what other systems say; None where one has no transcript, which is not an agreement. One system alone
            agrees with itself.
        max_disagreement: >= 0, a fraction.
        min_disagreement: > 0, a fraction.
        unit, normalise: see `audiorl.evaluation.count_errors`.

    Source: An et al. 2025 (Fun-ASR), arXiv:2509.12508, the hard cases among its data for reinforcement learning: three
        systems that agree within 5 % and differ from the model by 10 % (both figures from memory, the passage could
        not be looked up). That a disagreement is the larger of the two
        error rates is ours: the report does not say which transcript counts as the true one.
    """
    from audiorl.text.error_rates import count_errors

    said = [text for text in others if text is not None]
    if not said or len(said) < len(others):
        return False

    def disagreement(first: str, second: str) -> float:
        both = count_errors([first], [second], unit=unit, normalise=normalise)
        swapped = count_errors([second], [first], unit=unit, normalise=normalise)
        return max(both.wer, swapped.wer)

    if any(disagreement(a, b) > max_disagreement for a, b in combinations(said, 2)):
        return False
    return all(disagreement(text, own) >= min_disagreement for text in said)

"""The composite reward of the Fun-ASR report, as far as the report says what it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from audiorl.rewards.base import TextReward
from audiorl.rewards.hallucination import Hallucination, NoStockPhrases
from audiorl.rewards.keywords import KEYWORDS, KeywordScore, RowKeywords
from audiorl.rewards.language import RightScript
from audiorl.text.error_rates import Opcodes, TextPair, completion_text
from audiorl.text.normalizers import basic_text


@dataclass(frozen=True, kw_only=True)
class FunASR(TextReward):
    """Accuracy, keywords, hallucination and language in one number.

        R1 = max(0, 1 - WER)                  `OneMinusWER`
        R2 = F1 of keywords                   `KeywordScore`, 0 for rows without keywords
        R3 = share of hallucinated units      `Hallucination`, in [-1, 0]
        R4 = -1 for a wrong script            `RightScript`, or a stock phrase, `NoStockPhrases`
        reward = -1 where R4 is -1, else R1 + R2 + R3

    The report names four parts: accuracy as 1 - WER, keyword accuracy and recall, suppression of hallucination with a
    penalty in proportion to the hallucinated span, and language match, which makes the whole -1. It gives no formula
    for the second and the third. **Ours are an interpretation**: F1 for "accuracy and recall", so that stuffing
    keywords in does not pay; the detectors of `Hallucination` for the third. Stock phrases under R4 are our addition.

    Args:
        keywords: a list for all rows or the path of a file, see `KeywordReward`; None takes each row's own list from
            a column, where there is one.
        column: that column's name, see `KeywordReward`.
        normalise, unit, name: see `TextReward`, for all parts alike.

    Rows may carry `keywords` (or `column`) and `language`; only `text` is needed.

    Range: [-1, 2] for rows with keywords, [-1, 1] for others; 2 (or 1) for a hypothesis equal to its transcript.
    Silence: 1 for an empty hypothesis, less than 0 for any other (plus R2). Empty hypothesis for speech: -1 (plus R2,
    which is 0 where a keyword was spoken). A transcript of None gives None.

    Source: An et al. 2025 (Fun-ASR), arXiv:2509.12508, section 4.4.2; R2 and R3 ours as said.

    Raises:
        ValueError: as `TextReward` and `KeywordReward`, when built.
    """

    keywords: str | os.PathLike[str] | Sequence[str] | None = None
    column: str = KEYWORDS

    default_name: ClassVar[str] = "funasr"
    _parts: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        shared: dict[str, Any] = {"normalise": self.normalise, "unit": self.unit}
        scorer = KeywordScore(keywords=self.keywords, column=self.column, **shared)
        object.__setattr__(self, "keywords", scorer.keywords)
        object.__setattr__(self, "_parts", (scorer, Hallucination(**shared), RightScript(), NoStockPhrases()))

    def __call__(
        self,
        completions: Sequence[Any],
        text: Sequence[str | None],
        language: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value for each completion; None where the row has no transcript."""
        scorer, hallucination, right_script, stock = self._parts
        said = [completion_text(completion) for completion in completions]
        pairs = self.pairs(said, text)
        foreign = right_script(said, text, language)
        rows = scorer.keywords_of_rows(len(said), columns)
        find = RowKeywords(self.normaliser)
        basic = self.normaliser.name == "basic"
        rewards: list[float | None] = []
        for pair, one, transcript, wanted, r4 in zip(pairs, said, text, rows, foreign, strict=True):
            if pair is None or transcript is None:
                rewards.append(None)
            elif r4 or stock.score(pair.normalised_hypothesis if basic else basic_text(one), transcript):
                rewards.append(-1.0)
            else:
                opcodes = pair.opcodes()
                r2 = scorer.score(pair, find(wanted, pair.unit)) if wanted else 0.0
                r3 = hallucination.score(pair, one, transcript, opcodes)
                rewards.append(_accuracy(pair, opcodes) + r2 + r3)
        return rewards


def _accuracy(pair: TextPair, opcodes: Opcodes) -> float:
    """`OneMinusWER` from an alignment that is known already."""
    edits = sum(
        max(true_end - true_start, end - start) for tag, true_start, true_end, start, end in opcodes if tag != "equal"
    )
    return max(0.0, 1.0 - edits / max(len(pair.transcript), 1))

"""Truncating samplers: which tokens may be drawn, told to transformers' own logits processors by TRL's names."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Sampler:
    """What is done to the distribution before a token is drawn, on top of the temperature.

    A sampler draws from another distribution than the policy. The log-probabilities returned with its samples are those
    of the policy at the same temperature, untruncated, so that `score_groups` gives the same; TRL does likewise. The
    ratio of policy and sampling distribution is not corrected for.

    The order is transformers': repetition control, then top-k, top-p, min-p. Repetition control looks at what a
    hypothesis has drawn itself, never at its prefix or prompt: a keyword named in a prompt stays as likely as it was.

    Attributes:
        top_k: draw from the k most probable tokens; 0 = all.
        top_p: draw from the most probable tokens whose probabilities add up to at least this, in (0, 1]; 1 = all.
        min_p: draw from tokens at least this fraction as probable as the most probable one, in [0, 1]; None = all.
        repetition_penalty: > 0; a logit of a token that was drawn before is divided by it where positive and multiplied
            where negative. 1 = off.
        no_repeat_ngram_size: no run of this many tokens is drawn twice; 0 = off.

    Raises:
        ValueError: a value out of its range.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "top_k": (self.top_k >= 0, "an integer >= 0, 0 for all tokens"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1], 1 for all tokens"),
            "min_p": (self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1], or None for all tokens"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0, 1 for none"),
            "no_repeat_ngram_size": (self.no_repeat_ngram_size >= 0, "an integer >= 0, 0 for no limit"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise ValueError(f"Sampler: {name}={getattr(self, name)!r} is out of its range. Use a value {allowed}.")

    def __call__(self, drawn: Tensor, logits: Tensor) -> Tensor:
        """Logits of the distribution to draw from; tokens that may not be drawn get minus infinity.

        Args:
            drawn: (N, n) the tokens each hypothesis has drawn so far, n >= 0.
            logits: (N, V) of the next token, divided by the temperature.
        """
        return self._processors(repeats=drawn.shape[1] > 0)(drawn, logits)

    def _processors(self, repeats: bool) -> LogitsProcessorList:
        processors = LogitsProcessorList()
        if repeats and self.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if repeats and self.no_repeat_ngram_size:
            processors.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            processors.append(MinPLogitsWarper(self.min_p))
        return processors

"""Drawing hypotheses token by token, for any family that predicts the next token.

`sample_from` asks a decoder for logits and draws from them by inverse-transform sampling, from noise that the caller
gives. A `Sampler` may restrict what is drawn (top-k, top-p, min-p, repetition control); the log-probabilities are those
of the policy in any case.

Randomness is drawn row by row, so that it is the same whatever the batch, the process or the resumed step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from audiorl.batch import GroupBatch, GroupSamples

# Tokens whose probabilities are added up before a draw looks closer: about the root of a large vocabulary.
BLOCK = 256


@dataclass(frozen=True)
class Sampler:
    """Which tokens may be drawn, by transformers' own logits processors and TRL's names; on top of the temperature.

    A sampler draws from another distribution than the policy. The log-probabilities returned with its samples are those
    of the policy at the same temperature, untruncated, so that `score_groups` gives the same; so does TRL. The
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


class DivergedModelError(FloatingPointError):
    """A model whose probabilities are not finite: nothing can be sampled from it.

    Attributes:
        row_ids: of the clips for which they are not.
    """

    def __init__(self, row_ids: list[int]):
        self.row_ids = row_ids
        super().__init__(
            f"The model's log-probabilities are not finite for rows {row_ids}, so nothing can be sampled: its weights "
            "have diverged, or half precision overflows. Load a checkpoint from before, or use float32."
        )


def check_finite(logps: Tensor, batch: GroupBatch) -> None:
    """Refuse hypotheses that were drawn from NaN or infinite numbers.

    Args:
        logps: (B, K, T) of what was sampled or found; padding and placeholders hold 0.

    Raises:
        DivergedModelError: some are NaN, which is what NaN and infinite logits come to.
    """
    bad = torch.isnan(logps).flatten(1).any(1)
    if bad.any():
        raise DivergedModelError(batch.row_ids[bad.to(batch.row_ids.device)].tolist())


class NextLogits(Protocol):
    """Predicts the next token of K hypotheses for each clip; remembers what it has read."""

    def __call__(self, tokens: Tensor, start: int, /) -> Tensor:
        """(B, K, n) tokens that are new since the last call, the first of them at position `start` -> (B, K, V) logits
        of the token that follows. In the first call the tokens of a clip's hypotheses are the same."""


def prefix_lengths(batch: GroupBatch) -> Tensor:
    """(B,) tokens before the first that counts, of each clip's leading hypothesis.

    A clip of which nothing counts (a placeholder) gets the fewest of the others, so that no step is run for it; 1 if
    there are only such.
    """
    keep = batch.keep[torch.arange(len(batch.keep), device=batch.keep.device), batch.leading]
    counts = keep.any(-1)
    lengths = keep.int().argmax(-1) + 1
    shortest = lengths.masked_fill(~counts, keep.shape[-1]).amin()
    return torch.where(counts, lengths, torch.where(counts.any(), shortest, 1))


def sample_from(
    next_logits: NextLogits,
    batch: GroupBatch,
    noise: Tensor,
    *,
    end_token: int,
    max_tokens: int,
    sampler: Sampler | None = None,
) -> GroupSamples:
    """Sample token by token until every hypothesis of every clip has ended.

    Prefixes of unequal length are followed to their own end before a row's first token is drawn.

    Args:
        next_logits: see `NextLogits`; used up by one rollout.
        batch: B clips; the prefix of each one's leading hypothesis is where sampling starts.
        noise: (B, K, T) uniform in [0, 1); T limits the tokens drawn for each hypothesis.
        end_token: ends a hypothesis and fills up shorter ones.
        max_tokens: positions of the decoder.
        sampler: changes what is drawn, not the log-probabilities.
    """
    prefixes = prefix_lengths(batch)
    clips, hypotheses, limit = noise.shape
    shortest, longest = int(prefixes.min()), int(prefixes.max())
    # the token that would fill the last position is predicted, never read, so `max_tokens` positions are enough
    length = min(longest + limit, max_tokens + 1)
    tokens = started(batch, prefixes, hypotheses, length, end_token)
    drawn = torch.zeros((clips, hypotheses, length - 1), dtype=torch.bool, device=tokens.device)
    logps = torch.zeros((clips, hypotheses, length - 1), device=tokens.device)
    # nothing is sampled for a placeholder
    finished = ~batch.valid[:, None].repeat(1, hypotheses)
    start, stop = 0, shortest
    while stop < length:
        logits = next_logits(tokens[:, :, start:stop], start)
        step = stop - prefixes  # (B,) how many tokens each clip has drawn
        active = ~finished & ((step >= 0) & (step < limit))[:, None]
        uniform = noise.gather(2, step.clamp(0, limit - 1)[:, None, None].expand(-1, hypotheses, 1)).squeeze(-1)
        if sampler is None:
            token, token_logps = draw(logits, uniform)
        else:
            token, _ = draw(_truncated(sampler, logits, tokens[:, :, :stop], prefixes), uniform)
            token_logps = logits.log_softmax(-1).gather(-1, token[..., None]).squeeze(-1)
        tokens[:, :, stop] = torch.where(active, token, tokens[:, :, stop])
        logps[:, :, stop - 1] = torch.where(active, token_logps, 0.0)
        drawn[:, :, stop - 1] = active
        finished |= active & (token == end_token)
        start, stop = stop, stop + 1
        # numbers that are none are told by whoever asked; all that followed would be none
        lost = torch.isnan(token_logps) & active
        if bool((finished | (step >= limit - 1)[:, None]).all() | lost.any()):
            break
    return GroupSamples(tokens[..., :stop], drawn[..., : stop - 1], logps[..., : stop - 1], finished)


def started(batch: GroupBatch, prefixes: Tensor, hypotheses: int, length: int, end_token: int) -> Tensor:
    """(B, K, length) tokens: each clip's prefix, K times, and end tokens behind it."""
    longest = int(prefixes.max())
    in_prefix = torch.arange(longest, device=prefixes.device) < prefixes[:, None]
    tokens = batch.tokens.new_full((len(prefixes), length), end_token)
    tokens[:, :longest] = torch.where(in_prefix, batch.leading_tokens[:, :longest], end_token)
    return tokens[:, None].repeat(1, hypotheses, 1)


def _truncated(sampler: Sampler, logits: Tensor, tokens: Tensor, prefixes: Tensor) -> Tensor:
    """(B, K, V) logits after the sampler; clips with equally long prefixes are processed together."""
    shaped = torch.empty_like(logits)
    for length in prefixes.unique().tolist():
        rows = prefixes == length
        drawn, now = tokens[rows, :, length:], logits[rows]
        shaped[rows] = sampler(drawn.flatten(0, 1), now.flatten(0, 1)).view_as(now)
    return shaped


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds `uniform`.

    Probabilities are added up in float64 (at 50,000 entries a float32 running sum is off by more than a rare token's
    probability), but block by block: only the block in which the number falls is looked at token by token.

    Args:
        logits: (B, K, V).
        uniform: (B, K) in [0, 1).

    Returns:
        (B, K) token ids and their log-probabilities; some token and NaN where logits are NaN or +inf.
    """
    vocabulary = logits.shape[-1]
    block = min(BLOCK, vocabulary)
    highest = logits.amax(-1, keepdim=True)
    padded = nn.functional.pad(logits, (0, -vocabulary % block), value=-torch.inf)
    weights = padded.sub_(highest).exp_().unflatten(-1, (-1, block))  # (B, K, blocks, block)
    blocks = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    total = blocks[..., -1:]
    target = _below(uniform.double()[..., None] * total, total)
    # NaN is above all numbers: without a limit it would be looked up after the last token
    place = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[-1] - 1)
    before = nn.functional.pad(blocks, (1, 0)).gather(-1, place)
    inside = weights.gather(-2, place[..., None].expand(*place.shape, block)).squeeze(-2).double().cumsum(-1)
    offset = torch.searchsorted(inside, _below(target - before, inside[..., -1:]), right=True)
    token = (place * block + offset).clamp(max=vocabulary - 1)
    logps = logits.gather(-1, token) - highest - total.log().to(logits.dtype)
    return token.squeeze(-1), logps.squeeze(-1)


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Stay below the total despite rounding, so that the token found has a probability above zero."""
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))


def rollout_noise(row_ids: Sequence[int], *, seed: int, step: int, num_generations: int, max_tokens: int) -> Tensor:
    """The randomness of a rollout, drawn for each row from (seed, step, row) and from nothing else.

    A row's numbers do not depend on the rows beside it, on the process, on the global generators, or on `max_tokens`
    (a smaller limit gives the first of them).

    Args:
        row_ids: B row numbers, >= 0; negative ones (placeholders) get numbers as well.
        seed, step: integers >= 0.
        num_generations: K.
        max_tokens: T.

    Returns:
        (B, K, T) float64, uniform in [0, 1).
    """
    drawn = [
        np.random.default_rng([seed, step, row + 1]).random((max_tokens, num_generations)).T
        for row in (max(row, -1) for row in row_ids)
    ]
    return torch.from_numpy(np.ascontiguousarray(np.stack(drawn)))

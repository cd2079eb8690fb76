"""Beam search and diverse beams: the n best hypotheses of each clip, with scores.

Plain beam search follows transformers' `generate(num_beams=...)` and gives its sequences and scores. Diverse beams are
those of Vijayakumar et al. 2018 (arXiv:1610.02424): the beams are divided into groups that take turns at every token,
and a group pays for a token once for each earlier group that chose it at this position:

    score(token) = log p(token | past) - diversity_penalty * (times chosen at this position by earlier groups)

The penalties stay in a hypothesis' score. Deviation from the former version in transformers: the end token of a
finished hypothesis also counts as chosen. Otherwise every group could return the same short hypothesis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from audiorl.batch import GroupBatch, shapes_in_words
from audiorl.models.sampling import NextLogits, prefix_lengths, started


class BeamDecoder(NextLogits, Protocol):
    """What beam search asks of a decoder beside the next token."""

    def reorder(self, parents: Tensor) -> None:
        """Let hypothesis k of clip b continue from what `parents[b, k]` has read; (B, K) long."""


@dataclass(frozen=True)
class BeamSettings:
    """How to search; transformers' names.

    Attributes:
        num_beams: K, hypotheses kept while searching and returned.
        max_tokens: T, tokens of a hypothesis behind its prefix, the end token included.
        num_beam_groups: K is divided into this many groups.
        diversity_penalty: >= 0, in nats; above 0 exactly where there are several groups.
        length_penalty: a hypothesis of n tokens is ranked by (sum of its tokens' scores) / n ** length_penalty.
        early_stopping: True: a group ends once it has as many finished hypotheses as beams. False: once the best
            running one, at its present length, ranks below the worst finished one. "never": once it could not rank
            above it at any length.
        temperature: > 0; logits are divided by it.

    Raises:
        ValueError: a value out of its range.
    """

    num_beams: int
    max_tokens: int
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        groups = self.num_beam_groups
        ranges = {
            "num_beams": (self.num_beams >= 1, "of 1 or more"),
            "max_tokens": (self.max_tokens >= 1, "of 1 or more"),
            "num_beam_groups": (
                groups >= 1 and self.num_beams % groups == 0,
                f"that divides num_beams={self.num_beams}",
            ),
            "diversity_penalty": (
                math.isfinite(self.diversity_penalty)
                and (self.diversity_penalty > 0 if groups > 1 else self.diversity_penalty == 0),
                "above 0 with several beam groups, and 0 with one",
            ),
            "length_penalty": (math.isfinite(self.length_penalty), "that is a finite number"),
            "early_stopping": (self.early_stopping in (True, False, "never"), "of True, False or 'never'"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise ValueError(
                    f"Beam search: {name}={getattr(self, name)!r} is out of its range. Use a value {allowed}."
                )


class GroupBeams(NamedTuple):
    """The K best hypotheses of each clip, best first."""

    tokens: Tensor  # (B, K, T + 1) long, prefix and end token included, padded on the right
    keep: Tensor  # (B, K, T) bool, the tokens after the prefix
    logps: Tensor  # (B, K, T) log-probability of each of them, zero where keep is False
    scores: Tensor  # (B, K) to rank by: (sum of log-probabilities - penalties) / n ** length_penalty
    finished: Tensor  # (B, K) bool, False where the length limit cut the hypothesis

    def __repr__(self) -> str:
        return f"GroupBeams({shapes_in_words(self._asdict().items())})"


class Hypotheses(NamedTuple):
    """n hypotheses of each clip; the rows of all fields belong together."""

    tokens: Tensor  # (B, n, length)
    logps: Tensor  # (B, n, length - 1)
    scores: Tensor  # (B, n); minus infinity where there is none yet
    ended: Tensor  # (B, n) bool
    counts: Tensor  # (B, n) tokens after the prefix

    def pick(self, places: Tensor) -> Hypotheses:
        """The hypotheses at `places` (B, m)."""
        return Hypotheses(*(x.take_along_dim(places.view(*places.shape, *[1] * (x.dim() - 2)), 1) for x in self))


def beam_search(
    decoder: BeamDecoder, batch: GroupBatch, settings: BeamSettings, *, end_token: int, max_tokens: int
) -> GroupBeams:
    """The K best hypotheses of each clip; a clip's do not depend on its neighbours.

    Args:
        decoder: used up by one search.
        batch: B clips; the prefix of each one's leading hypothesis is where the search starts. Placeholders get
            hypotheses without tokens and of score 0.
        settings: K, T and how to rank.
        end_token: ends a hypothesis and fills up shorter ones.
        max_tokens: positions of the decoder.
    """
    prefixes = prefix_lengths(batch)
    length = min(int(prefixes.max()) + settings.max_tokens, max_tokens + 1)
    limits = (length - prefixes).clamp(max=settings.max_tokens)  # (B,)
    beams = settings.num_beams // settings.num_beam_groups
    tokens = started(batch, prefixes, settings.num_beams, length, end_token)
    groups = [BeamGroup(part, batch.valid, settings, end_token) for part in tokens.split(beams, 1)]
    start, stop = 0, int(prefixes.min())
    while stop < length:
        running = torch.cat([group.running.tokens[:, :, start:stop] for group in groups], 1)
        logits = decoder(running, start)
        step = stop - prefixes
        parents, chosen = [], torch.zeros_like(logits[:, 0])
        for i, group in enumerate(groups):
            now = logits[:, i * beams : (i + 1) * beams]
            parents.append(i * beams + group.advance(now, chosen, step, limits, stop))
        start, stop = stop, stop + 1
        if not bool(torch.stack([group.open for group in groups]).any()):
            break
        decoder.reorder(torch.cat(parents, 1))
    return _ranked(groups, prefixes, batch.valid, stop)


def _ranked(groups: list[BeamGroup], prefixes: Tensor, valid: Tensor, stop: int) -> GroupBeams:
    """All groups' finished hypotheses, best first."""
    done = Hypotheses(*(torch.cat(parts, 1) for parts in zip(*(group.done for group in groups), strict=True)))
    done = done.pick(done.scores.argsort(dim=1, descending=True, stable=True))
    place = torch.arange(stop - 1, device=prefixes.device)
    first = (prefixes - 1)[:, None, None]
    keep = (place >= first) & (place < first + done.counts[..., None]) & valid[:, None, None]
    scores = torch.where(valid[:, None], done.scores, 0.0)
    logps = torch.where(keep, done.logps[..., : stop - 1], 0.0)
    return GroupBeams(done.tokens[..., :stop], keep, logps, scores, done.ended | ~valid[:, None])


class BeamGroup:
    """The beams of one group for all clips: those that run, and the best that have finished.

    Attributes:
        running: `num_beams / num_beam_groups` hypotheses of each clip, best first; scores are sums.
        done: as many finished ones, best first; scores are divided by the length penalty.
        open: (B,) bool, whether a running one may still take a finished one's place.
    """

    def __init__(self, tokens: Tensor, valid: Tensor, settings: BeamSettings, end_token: int):
        self.settings, self.end_token = settings, end_token
        nothing = torch.zeros(tokens.shape[:2], device=tokens.device)
        none_yet = torch.full_like(nothing, -torch.inf)
        no_logps = torch.zeros(tokens[..., 1:].shape, device=tokens.device)
        zeros = nothing.long()
        # all beams of a clip begin alike: only the first may be followed
        first = none_yet.clone()
        first[:, 0] = 0.0
        self.running = Hypotheses(tokens, no_logps, first, nothing.bool(), zeros)
        self.done = Hypotheses(tokens, no_logps, none_yet, nothing.bool(), zeros)
        self.open = valid.clone()

    def advance(self, logits: Tensor, chosen: Tensor, step: Tensor, limits: Tensor, stop: int) -> Tensor:
        """Follow the best continuations by one token, written at position `stop`.

        Args:
            logits: (B, k, V) of the next token.
            chosen: (B, V) how often earlier groups have chosen each token at this position; this group's are added.
            step: (B,) tokens behind the prefix so far; below 0 while a clip still reads its prefix.
            limits: (B,) of them that a hypothesis may have.

        Returns:
            (B, k) which of the group's running hypotheses each of the new ones continues.
        """
        beams = logits.shape[1]
        candidates, parents = self._candidates(logits, chosen, step, stop)
        active = (step >= 0) & self.open
        at_limit = (step + 1 >= limits)[:, None]
        stops = candidates.ended | at_limit
        count = (step + 1).clamp(min=1)[:, None]
        rank = torch.arange(2 * beams, device=logits.device)
        may_finish = stops & active[:, None] & (rank < beams)
        ranked = candidates.scores / count.to(logits.dtype) ** self.settings.length_penalty
        finals = candidates._replace(scores=torch.where(may_finish, ranked, -torch.inf))
        merged = Hypotheses(*(torch.cat(pair, 1) for pair in zip(self.done, finals, strict=True)))
        self.done = merged.pick(merged.scores.topk(beams, 1).indices)
        places = torch.where(candidates.ended, -torch.inf, candidates.scores).topk(beams, 1).indices
        if self.settings.num_beam_groups > 1:
            self._claim(chosen, candidates.tokens[..., stop], may_finish & candidates.ended, places)
        # a clip that still reads its prefix stays as it is
        reading = (step < 0)[:, None]
        going_on = candidates.pick(places)
        self.running = Hypotheses(
            *(
                torch.where(reading.view(-1, *[1] * (new.dim() - 1)), old, new)
                for old, new in zip(self.running, going_on, strict=True)
            )
        )
        self._close(step, limits)
        own = torch.arange(beams, device=logits.device).expand_as(places)
        return torch.where(reading, own, parents.gather(1, places))

    def _candidates(self, logits: Tensor, chosen: Tensor, step: Tensor, stop: int) -> tuple[Hypotheses, Tensor]:
        """The 2k best continuations of each clip, best first, and the beam each continues: enough that k go on where k
        end."""
        beams, vocabulary = logits.shape[1:]
        if vocabulary < 2 * beams:
            raise ValueError(
                f"Beam search follows twice as many continuations as it has beams, {2 * beams} here, and the "
                f"vocabulary has {vocabulary} tokens. Use fewer beams."
            )
        penalty = self.settings.diversity_penalty
        preferred = logits - penalty * chosen[:, None] if penalty else logits
        # the best of all are among the best of each beam; the normaliser turns only those into log-probabilities
        values, tokens = preferred.topk(2 * beams, -1)
        normaliser = logits.logsumexp(-1, keepdim=True)
        totals = (self.running.scores[..., None] + values - normaliser).flatten(1)
        scores, places = totals.topk(2 * beams, 1)
        parents, token = places // (2 * beams), tokens.flatten(1).gather(1, places)
        logps = (logits.gather(-1, tokens) - normaliser).flatten(1).gather(1, places)
        picked = self.running.pick(parents)
        picked.tokens[:, :, stop] = token
        picked.logps[:, :, stop - 1] = logps
        counts = (step + 1).clamp(min=0)[:, None].expand_as(token)
        return picked._replace(scores=scores, ended=token == self.end_token, counts=counts), parents

    def _claim(self, chosen: Tensor, tokens: Tensor, finishing: Tensor, places: Tensor) -> None:
        """Count the tokens of the hypotheses that finish and of those that go on, while the clip is searched."""
        going_on = torch.zeros_like(finishing).scatter(1, places, True)
        counted = (finishing | going_on) & self.open[:, None]
        chosen.scatter_add_(1, tokens, counted.to(chosen.dtype))

    def _close(self, step: Tensor, limits: Tensor) -> None:
        """Close the clips that are finished, by transformers' rule for each value of `early_stopping`."""
        settings = self.settings
        until = limits if settings.early_stopping == "never" and settings.length_penalty > 0 else step + 1
        best = self.running.scores[:, 0] / until.clamp(min=1).to(self.running.scores.dtype) ** settings.length_penalty
        worst = self.done.scores.amin(1)
        hopeless = best <= worst
        if settings.early_stopping is True:
            hopeless |= worst > -torch.inf
        self.open &= (step < 0) | ~(hopeless | (step + 1 >= limits))

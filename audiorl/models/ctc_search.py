"""Hypotheses from frames of symbols: drawing and collapsing paths, and a prefix beam search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Prefix = tuple[int, ...]


def draw_paths(frame_logps: Tensor, noise: Tensor) -> Tensor:
    """K paths for each clip: a symbol for each frame, the first whose cumulative probability exceeds the noise.

    The K paths of a clip share one table of cumulative probabilities, added up in float64.

    Args:
        frame_logps: (B, S, V) nats.
        noise: (B, K, S) uniform in [0, 1).

    Returns:
        (B, K, S) long; some symbol where a frame's probabilities are NaN.
    """
    paths = []
    for logps, uniform in zip(frame_logps, noise.transpose(1, 2), strict=True):  # (S, V) and (S, K)
        cumulative = logps.double().exp().cumsum(-1)
        total = cumulative[:, -1:]
        # below the total whatever the rounding, so that what is found has a probability above zero
        target = torch.minimum(uniform.double() * total, torch.nextafter(total, torch.zeros_like(total)))
        # NaN is above all numbers, and would be looked up after the last symbol
        drawn = torch.searchsorted(cumulative, target.contiguous(), right=True).clamp(max=logps.shape[-1] - 1)
        paths.append(drawn.T)
    return torch.stack(paths)


def collapse(paths: Tensor, frames: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """What paths say: repetitions count once, blanks not at all.

    Args:
        paths: (B, K, S) long.
        frames: (B,) long, how many of the S frames are the clip's own.

    Returns:
        (B, K, U) long symbols, blanks behind the shorter ones, and their number (B, K).
    """
    own = torch.arange(paths.shape[-1], device=paths.device) < frames[:, None, None]
    fresh = torch.ones_like(paths, dtype=torch.bool)
    fresh[..., 1:] = paths[..., 1:] != paths[..., :-1]
    said = fresh & own & (paths != blank)
    counts = said.sum(-1)
    longest = int(counts.max())
    # frames that say nothing write after the longest hypothesis, where they are cut off
    place = torch.where(said, said.cumsum(-1) - 1, longest)
    symbols = paths.new_full((*counts.shape, longest + 1), blank)
    symbols.scatter_(-1, place, torch.where(said, paths, blank))
    return symbols[..., :longest], counts


def as_hypotheses(symbols: Tensor, counts: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """`tokens` (B, K, U + 2) and `keep` (B, K, U + 1): a blank, the symbols, a blank that ends them."""
    around = torch.nn.functional.pad(symbols, (1, 1), value=blank)
    return around, torch.arange(symbols.shape[-1] + 1, device=symbols.device) <= counts[..., None]


def samples_for(frames_in: Callable[[int], int], frames: int) -> int:
    """The fewest samples that give this many frames; 0 for none.

    Args:
        frames_in: samples -> frames, growing.
    """
    low, high = 0, 1
    while frames_in(high) < frames:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if frames_in(middle) >= frames else (middle, high)
    return high if frames else 0


def said_symbols(tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, U) symbols and their number (B, K) of hypotheses that begin and end with a blank; the end is no symbol."""
    return tokens[..., 1:-1], (keep.sum(-1) - 1).clamp(min=0)


def only_valid(symbols: Tensor, counts: Tensor, valid: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Empty the hypotheses of placeholders."""
    return torch.where(valid[:, None, None], symbols, blank), torch.where(valid[:, None], counts, 0)


def packed(
    found: Sequence[Sequence[Prefix]], width: int, blank: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols (B, width, U), their number (B, width), and which of the places are taken."""
    longest = max((len(ids) for group in found for ids in group), default=0)
    symbols = torch.full((len(found), width, longest), blank)
    counts = torch.zeros((len(found), width), dtype=torch.long)
    there = torch.zeros((len(found), width), dtype=torch.bool)
    for b, group in enumerate(found):
        there[b, : len(group)] = True
        for k, ids in enumerate(group):
            symbols[b, k, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            counts[b, k] = len(ids)
    return symbols.to(device), counts.to(device), there.to(device)


def best_prefixes(frame_logps: np.ndarray, width: int, blank: int, longest: int) -> list[Prefix]:
    """The `width` most probable transcripts that a prefix beam search finds, best first.

    A beam is a prefix with two probabilities: that of its paths that end in a blank, and that of its paths that end in
    its last symbol. A symbol that is neither among the `width + 1` most probable of a frame nor the end of a beam
    cannot bring a prefix into the `width` best, so it is skipped.

    Args:
        frame_logps: (S, V) float nats, of one clip's own frames.
        width: > 0, beams.
        longest: symbols that a prefix may have.

    Returns:
        At most `width` tuples of symbols; fewer where no more can be said.

    Source: Hannun et al. 2014, arXiv:1408.2873, algorithm 1, without a language model.
    """
    symbols = frame_logps.shape[1]
    beams: dict[Prefix, tuple[float, float]] = {(): (0.0, -math.inf)}  # ends in a blank, ends in its last symbol
    likely = min(width + 2, symbols)
    for logps in frame_logps:
        top = [int(v) for v in np.argpartition(-logps, likely - 1)[:likely] if v != blank]
        ends = {prefix[-1] for prefix in beams if prefix}
        candidates = sorted({*top, *ends})
        beams = _best(_extended(beams, logps.tolist(), candidates, blank, longest), width)
    return list(beams)


def _extended(
    beams: dict[Prefix, tuple[float, float]],
    logps: Sequence[float],
    candidates: Sequence[int],
    blank: int,
    longest: int,
) -> dict[Prefix, tuple[float, float]]:
    """The prefixes after one more frame."""
    found: dict[Prefix, tuple[float, float]] = {}

    def add(prefix: Prefix, to_blank: float, to_symbol: float) -> None:
        before = found.get(prefix, (-math.inf, -math.inf))
        found[prefix] = (_log_sum(before[0], to_blank), _log_sum(before[1], to_symbol))

    for prefix, (blank_logp, symbol_logp) in beams.items():
        either = _log_sum(blank_logp, symbol_logp)
        add(prefix, either + logps[blank], symbol_logp + logps[prefix[-1]] if prefix else -math.inf)
        if len(prefix) >= longest:
            continue
        for symbol in candidates:
            # the same symbol again is a new one only behind a blank
            begun = blank_logp if prefix and symbol == prefix[-1] else either
            add((*prefix, symbol), -math.inf, begun + logps[symbol])
    return found


def _best(found: dict[Prefix, tuple[float, float]], width: int) -> dict[Prefix, tuple[float, float]]:
    ranked = sorted(found, key=lambda prefix: _log_sum(*found[prefix]), reverse=True)
    return {prefix: found[prefix] for prefix in ranked[:width] if _log_sum(*found[prefix]) > -math.inf}


def _log_sum(a: float, b: float) -> float:
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

"""The CTC likelihood of K transcripts of a clip, from one set of frame log-probabilities.

A path names a symbol for each frame; it says a transcript if repetitions, then blanks, are taken out of it. The
likelihood is the sum over all paths that say the transcript, which a forward recursion over

    states 0 ... 2U of a transcript of U symbols:  blank, first symbol, blank, second symbol, ..., blank

adds up frame by frame. `torch.nn.functional.ctc_loss` does it for one transcript of each clip. For K of them it wants
the frames K times, or K calls that hold K tables of states and K gradients until the backward pass is through. There
are two ways here that hold neither, and `_stock_clips` takes the one that measured faster
(`benchmarks/ctc_likelihood.py`):

* one call of torch's for each hypothesis of some clips, computed anew in the backward pass (`_StockLogps`). It goes
  over all V symbols of each frame for each hypothesis: the faster way for letters, or for few hypotheses;
* a recursion of our own in which all K read the same frames and add to one gradient, states recomputed from a few that
  are kept (`_Occupation`). It has a few calls for each frame, and no work of size V for a hypothesis: the faster way
  for many hypotheses over a large vocabulary.

Memory beside the log-probabilities, either way and whatever K is: their gradient, and a workspace of the size of one
copy of them, or of `CPU_WORKSPACE` numbers where that is more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Frames whose log-probabilities are looked up at once where states are followed and not kept.
LOOKED_UP = 4
# Numbers that a state takes beside those of single frames: its label (two) and skip, of this round and of the last one
# until the new one is there, and what one step makes.
PER_STATE = 14
# A round costs a few calls for each frame however few hypotheses it has: small frames get more room than they take.
CPU_WORKSPACE = 2**20  # numbers, 4 MiB in float32
# On a GPU a call is a launch, and memory comes in gigabytes.
GPU_WORKSPACE = 2**24  # numbers
# On a CPU torch's own is faster while (V - 1.2 states) times all hypotheses are below this; fitted to the table of
# benchmarks/ctc_likelihood.py.
BREAK_EVEN = 10_000
# How often the frames may be divided into parts, in the search for the cheapest way to recompute states.
DEPTHS = range(2, 7)


def ctc_logps(frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, *, blank: int) -> Tensor:
    """Log-probability of each transcript, summed over all paths that say it.

        out[b, k] = log sum over paths of frames[b] symbols that collapse to tokens[b, k, :lengths[b, k]]
                        of product over t of exp(frame_logps[b, t, path[t]])

    Args:
        frame_logps: (B, S, V) nats, float32 or float64; `log_softmax` of the frames' logits.
        frames: (B,) long, how many of the S frames are the clip's own; the others are not read.
        tokens: (B, K, U) long, symbols without blanks; what lies behind `lengths` is not read.
        lengths: (B, K) long, symbols of each transcript, >= 0.
        blank: id of the symbol that stands for none.

    Returns:
        (B, K) nats. -inf, with gradient 0, where the frames are too few: a transcript needs `frames_needed` of them.

    Source: Graves et al. 2006, "Connectionist Temporal Classification", eq. 6 to 8; its gradient, eq. 15.
    """
    if clips := _stock_clips(frame_logps, tokens):
        return _StockLogps.apply(frame_logps, frames, tokens, lengths, blank, clips)
    return _CTCLogps.apply(frame_logps, frames, tokens, lengths, blank)


def frames_needed(tokens: Tensor, lengths: Tensor) -> Tensor:
    """The fewest frames that can say a transcript: one for each symbol, and a blank between two equal ones.

    Args:
        tokens: (..., U) long.
        lengths: (...) long, symbols that count.

    Returns:
        (...) long.
    """
    inside = torch.arange(tokens.shape[-1], device=tokens.device)[1:] < lengths[..., None]
    return lengths + ((tokens[..., 1:] == tokens[..., :-1]) & inside).sum(-1)


def _stock_clips(frame_logps: Tensor, tokens: Tensor) -> int:
    """How many clips torch's own is given at once; 0 where the recursion is faster, or torch's own takes more room.

    On a GPU neither has been measured; the recursion stays.
    """
    (clips, _, symbols), (_, hypotheses, longest) = frame_logps.shape, tokens.shape
    work = clips * hypotheses * (symbols - 1.2 * (2 * longest + 1))
    if frame_logps.is_cuda or not longest or work >= BREAK_EVEN:
        return 0
    return clips_that_fit(frame_logps, tokens)


def clips_that_fit(frame_logps: Tensor, tokens: Tensor) -> int:
    """For how many clips a call of torch's fits the workspace: two tables of states and a gradient; 0 for none."""
    (clips, frames, symbols), longest = frame_logps.shape, tokens.shape[-1]
    return min(clips, _workspace(frame_logps) // (frames * (2 * (2 * longest + 1) + symbols)))


class _StockLogps(torch.autograd.Function):
    """`torch.nn.functional.ctc_loss` for one hypothesis of some clips after the other.

    Nothing is held between the passes: the backward pass computes each likelihood again, and its states for the clips
    of one call at a time. torch's gradient is that of the logits, exp(frame_logps) less the occupation; what a
    log-softmax behind it makes of either is the same, but here it is asked for the occupation alone.
    """

    @staticmethod
    def forward(
        ctx: Any, frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int, clips: int
    ) -> Tensor:
        logps = frame_logps.new_empty(lengths.shape)
        for part, k in _calls(lengths, clips):
            loss = _stock_loss(frame_logps[part], frames[part], tokens[part, k], lengths[part, k], blank)
            logps[part, k] = loss.neg()
        ctx.save_for_backward(frame_logps, frames, tokens, lengths, logps)
        ctx.settings = blank, clips
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
        frame_logps, frames, tokens, lengths, logps = ctx.saved_tensors
        blank, clips = ctx.settings
        weights = torch.where(torch.isfinite(logps), grad_logps.to(logps.dtype), 0.0)
        grad = torch.zeros_like(frame_logps, memory_format=torch.contiguous_format)
        for b, (clip, own) in enumerate(zip(frame_logps, frames.tolist(), strict=True)):
            torch.exp(clip[:own], out=grad[b, :own]).mul_(weights[b].sum())
        for part, k in _calls(lengths, clips):
            with torch.enable_grad():
                leaf = frame_logps[part].detach().requires_grad_()
                loss = _stock_loss(leaf, frames[part], tokens[part, k], lengths[part, k], blank)
            (found,) = torch.autograd.grad(loss, leaf, weights[part, k])
            # NaN of what cannot be said; torch's zero_infinity would make a copy
            grad[part].sub_(found.masked_fill_(~torch.isfinite(logps[part, k, None, None]), 0.0))
            del loss, leaf, found  # before the next call makes its own
        return grad, None, None, None, None, None


def _calls(lengths: Tensor, clips: int) -> Iterator[tuple[slice, int]]:
    """Which clips, and which hypothesis of each, one call after the other."""
    for start in range(0, len(lengths), clips):
        for k in range(lengths.shape[1]):
            yield slice(start, start + clips), k


def _stock_loss(frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """(n,) -log-likelihood of a hypothesis of each of n clips; inf, with gradient NaN, where the frames are too few."""
    inside = torch.arange(tokens.shape[-1], device=tokens.device) < lengths[:, None]
    said = torch.where(inside, tokens, 0)
    return torch.nn.functional.ctc_loss(
        frame_logps.transpose(0, 1), said, frames, lengths, blank=blank, reduction="none"
    )


class _CTCLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int) -> Tensor:
        rows = _workspace(frame_logps) // ((LOOKED_UP + PER_STATE) * (2 * tokens.shape[-1] + 1))
        lattices = _lattices(frame_logps, frames, tokens, lengths, blank, max(1, rows))
        logps = torch.cat([lattice.likelihood() for _, lattice in lattices])
        ctx.save_for_backward(frame_logps, frames, tokens, lengths, logps)
        ctx.blank = blank
        return logps.view(lengths.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
        frame_logps, frames, tokens, lengths, logps = ctx.saved_tensors
        possible = torch.isfinite(logps)
        weights = torch.where(possible, grad_logps.flatten().to(logps.dtype), 0.0)
        logps = torch.where(possible, logps, 0.0)
        grad = torch.zeros_like(frame_logps, memory_format=torch.contiguous_format)
        rows, span = _cheapest_rounds(len(logps), 2 * tokens.shape[-1] + 1, frame_logps)
        for part, lattice in _lattices(frame_logps, frames, tokens, lengths, ctx.blank, rows):
            _Occupation(lattice, grad, logps[part], weights[part], span).add()
        return grad, None, None, None, None


class _Lattice(NamedTuple):
    """n transcripts, each with the states of its symbols and blanks."""

    frame_logps: Tensor  # (B, S, V)
    clips: Tensor  # (n,) long
    frames: Tensor  # (n,) long
    labels: Tensor  # (n, 2U + 1) long, the symbol of each state
    skips: Tensor  # (n, 2U + 1) 0 where the state two before may precede, -inf where not
    last: Tensor  # (n,) long, the state of the last blank
    shortest: int  # smallest of `frames`

    def emissions(self, start: int, stop: int) -> Tensor:
        """(stop - start, n, states): what each state's symbol adds in each frame."""
        return self.frame_logps.transpose(0, 1)[start:stop, self.clips[:, None], self.labels]

    def begin(self) -> Tensor:
        """(n, states): before the first frame a path stands at the first blank."""
        state = self.frame_logps.new_full(self.labels.shape, -torch.inf)
        state[:, 0] = 0.0
        return state

    def end(self) -> Tensor:
        """(n, states): a path may end at the last blank or the symbol before it."""
        state = self.frame_logps.new_full(self.labels.shape, -torch.inf)
        state.scatter_(1, (self.last - 1).clamp(min=0)[:, None], 0.0)
        return state.scatter_(1, self.last[:, None], 0.0)

    def _own(self, frame: int, new: Tensor, old: Tensor) -> Tensor:
        """`new` for the hypotheses whose clip has this frame."""
        return new if frame < self.shortest else torch.where((frame < self.frames)[:, None], new, old)

    def forward(self, state: Tensor, emission: Tensor, frame: int) -> Tensor:
        """Log-probability of the frames up to this one, for paths that are at each state."""
        new = state.clone()
        torch.logaddexp(new[:, 1:], state[:, :-1], out=new[:, 1:])
        torch.logaddexp(new[:, 2:], state[:, :-2] + self.skips[:, 2:], out=new[:, 2:])
        return self._own(frame, new.add_(emission), state)

    def backward(self, state: Tensor, emission: Tensor, frame: int) -> Tensor:
        """Log-probability of this frame and those behind it, for paths that were at each state the frame before."""
        here = state + emission
        new = here.clone()
        torch.logaddexp(new[:, :-1], here[:, 1:], out=new[:, :-1])
        torch.logaddexp(new[:, :-2], here[:, 2:] + self.skips[:, 2:], out=new[:, :-2])
        return self._own(frame, new, state)

    def follow(self, state: Tensor, start: int, stop: int) -> Tensor:
        """The states after frame `stop - 1`, from those before frame `start`."""
        for first in range(start, stop, LOOKED_UP):
            for i, emission in enumerate(self.emissions(first, min(first + LOOKED_UP, stop))):
                state = self.forward(state, emission, first + i)
        return state

    def likelihood(self) -> Tensor:
        """(n,) nats."""
        state = self.follow(self.begin(), 0, self.frame_logps.shape[1])
        return torch.logsumexp(state + self.end(), -1)


class _Occupation(NamedTuple):
    """Adds to a gradient how likely each symbol is in each frame, given that a path says the transcript."""

    lattice: _Lattice  # of n transcripts
    grad: Tensor  # (B, S, V)
    logps: Tensor  # (n,) nats, the transcripts' likelihoods
    weights: Tensor  # (n,) what their shares are multiplied by
    span: int  # frames whose states are held at once

    def add(self) -> None:
        self._between(self.lattice.begin(), self.lattice.end(), 0, self.grad.shape[1])

    def _between(self, state: Tensor, ahead: Tensor, start: int, stop: int) -> Tensor:
        """Of frames `start` to `stop`, given the states on both sides; returns those behind frame `start - 1`.

        Parts are gone through from the last to the first, each from a state that was kept at its beginning.
        """
        if stop - start <= self.span:
            return self._add(state, ahead, start, stop)
        part = math.ceil((stop - start) / self.span)
        begins = list(range(start, stop, part))
        states = [state]
        for begin in begins[:-1]:
            states.append(self.lattice.follow(states[-1], begin, begin + part))
        for begin in reversed(begins):
            ahead = self._between(states.pop(), ahead, begin, min(begin + part, stop))
        return ahead

    def _add(self, state: Tensor, ahead: Tensor, start: int, stop: int) -> Tensor:
        lattice, (_, frames, symbols) = self.lattice, self.grad.shape
        emissions = lattice.emissions(start, stop)
        share = torch.empty_like(emissions)
        for i in range(stop - start):
            state = share[i] = lattice.forward(state, emissions[i], start + i)
        for i in reversed(range(stop - start)):
            share[i] += ahead
            ahead = lattice.backward(ahead, emissions[i], start + i)
        del emissions
        frame = torch.arange(start, stop, device=share.device)[:, None]
        counted = torch.where(frame < lattice.frames, self.weights, 0.0)
        share.sub_(self.logps[:, None]).exp_().mul_(counted[..., None])
        place = (lattice.clips * frames + frame) * symbols  # (span, n), of a frame in the flat gradient
        flat = self.grad.view(-1)
        flat.scatter_add_(0, (place + lattice.labels[:, 0]).flatten(), share[..., 0::2].sum(-1).flatten())
        said = place[..., None] + lattice.labels[:, 1::2]
        flat.scatter_add_(0, said.flatten(), share[..., 1::2].flatten())
        return ahead


def _lattices(
    frame_logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int, size: int
) -> Iterator[tuple[slice, _Lattice]]:
    """The B * K transcripts, `size` of them at a time, with their places among all."""
    _, hypotheses, longest = tokens.shape
    tokens, lengths = tokens.flatten(0, 1), lengths.flatten()
    clips = torch.arange(len(lengths), device=tokens.device) // hypotheses
    shortest = int(frames.min())
    for start in range(0, len(lengths), size):
        part = slice(start, start + size)
        inside = torch.arange(longest, device=tokens.device) < lengths[part, None]
        labels = tokens.new_full((len(inside), 2 * longest + 1), blank)
        labels[:, 1::2] = torch.where(inside, tokens[part], blank)
        # a symbol may follow another one without a blank between them; the same one may not
        skips = frame_logps.new_full(labels.shape, -torch.inf)
        skips[:, 3::2] = torch.where(labels[:, 3::2] != labels[:, 1:-2:2], 0.0, -torch.inf)
        clip = clips[part]
        yield part, _Lattice(frame_logps, clip, frames[clip], labels, skips, 2 * lengths[part], shortest)


def _workspace(frame_logps: Tensor) -> int:
    """How many numbers a round may hold."""
    return max(frame_logps.numel(), GPU_WORKSPACE if frame_logps.is_cuda else CPU_WORKSPACE)


def _cheapest_rounds(hypotheses: int, states: int, frame_logps: Tensor) -> tuple[int, int]:
    """Hypotheses of a round, and frames whose states are kept at once, that fit the workspace and take least time.

    With the frames divided `depth - 1` times into `span` parts, `depth - 1` times `span` states are kept; the innermost
    part holds 2.5 times as many numbers. Time is a matter of rounds, and of passes over the frames in each.
    """
    frames, workspace = frame_logps.shape[1], _workspace(frame_logps)
    found = []
    for depth in DEPTHS:
        span = max(2, math.ceil(frames ** (1 / depth)))
        held = math.ceil((depth - 1) * span + max(2.5 * span, LOOKED_UP) + PER_STATE) * states
        rounds = math.ceil(hypotheses / max(1, min(hypotheses, workspace // held)))
        too_much = max(0, held - workspace)
        found.append((too_much, rounds * (depth + 2), math.ceil(hypotheses / rounds), span))
    *_, rows, span = min(found)
    return rows, span

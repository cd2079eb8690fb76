"""The likelihood of K transcripts of a clip under a transducer, without a lattice of logits.

A transducer (Graves 2012, arXiv:1211.3711) stands at a node (t, u): it has heard t frames and written u symbols. A
blank takes it to another frame, a symbol to u + 1. In a plain one (RNN-T) a blank takes one frame and a symbol none;
one with durations (TDT, Xu et al. 2023, arXiv:2304.06795) draws how many frames either takes. The likelihood of a
transcript is the sum over all alignments: ways from (0, 0) that write its U symbols and end with a blank, exactly
after the last frame.

Logits of all nodes, (B, K, S, U + 1, V), would be gigabytes. Here they exist for some nodes at a time (`CPU_CHUNK`
numbers):

1. Without a graph, chunk after chunk: the log-probabilities that alignments use (blank, the next symbol, durations).
2. A forward and a backward recursion over them give the likelihood, and how often each arc is taken
   (`lattice_logps`). All transcripts go together; nodes with t + u = n are one step.
3. In the backward pass the logits are computed again, chunk after chunk, and weighed by step 2. Nodes that alignments
   visit with a probability below a thousandth of a rounding error are left out.

Beside the inputs and their gradients, the gradient of the joint network's parameters twice, and a few numbers for each
node, no more than two chunks are alive at once, whatever B and K are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of a chunk: numbers, 16 MiB in float32; on a GPU a call is a launch, and memory comes in gigabytes.
CPU_CHUNK = 2**22
GPU_CHUNK = 2**26
# Logits that statistics pass over at once: few enough to stay in a CPU's cache.
CPU_PIECE = 2**18
GPU_PIECE = 2**24
# Numbers of a recursion, in float64, for some transcripts at once.
CPU_WORKSPACE = 2**23
GPU_WORKSPACE = 2**26

Joint = Callable[[Tensor, Tensor], Tensor]


class TransducerScores(NamedTuple):
    """What a transducer says of K transcripts for each of B clips; (B, K) each.

    Entropy and mean logit are those of the nodes that alignments of the transcript visit, weighed by how likely they
    do; they have no gradient.
    """

    logps: Tensor  # nats, summed over alignments
    entropy: Tensor  # nats; of the symbol, and of the duration if there are some
    mean_logits: Tensor  # over the vocabulary, divided by the temperature
    is_top1: Tensor  # bool, whether greedy decoding writes the transcript


def transducer_scores(
    joint: Joint,
    audio: Tensor,
    text: Tensor,
    frames: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    *,
    symbols: int,
    blank: int,
    durations: Sequence[int] | None = None,
    temperature: float = 1.0,
    max_symbols: int | None = None,
    parameters: Sequence[Tensor] = (),
) -> TransducerScores:
    """Log-probability of each transcript, summed over all alignments.

    Args:
        joint: (n, D) of frames and (n, D) of texts -> (n, V) logits, or (n, V + len(durations)) if there are durations;
            without randomness. It is called with some nodes of the lattice at a time, and again in the backward pass.
        audio: (B, S, D).
        text: (B, K, U + 1, D); the prediction network's output behind the start and behind each symbol.
        frames: (B,) long >= 1, how many of the S frames are the clip's own; the others are not read.
        tokens: (B, K, U) long, symbols without blanks; what lies behind `lengths` is not read.
        lengths: (B, K) long, symbols of each transcript, >= 0.
        symbols: V, the blank included.
        blank: its id.
        durations: frames that a symbol or a blank may take, >= 0 and different; a blank takes one at least. None for a
            plain transducer.
        temperature: > 0; logits of symbols and durations are divided by it.
        max_symbols: what greedy decoding of a plain transducer writes in a frame at most; for `is_top1` alone.
        parameters: those of `joint` that get a gradient.

    Returns:
        Scores; a log-probability is -inf, with gradient 0, where no alignment says the transcript in that many frames.

    Sources: arXiv:1211.3711, eq. 16 to 18 and 20; arXiv:2304.06795, section 3.
    """
    nodes = _Nodes.of(frames, tokens, lengths, blank, audio.shape[1])
    call = _Call(joint, nodes, symbols, blank, Moves.of(durations), temperature, max_symbols)
    scores = _TransducerLogps.apply(call, audio, text.flatten(0, 1), *parameters)
    return TransducerScores(*(values.view_as(lengths) for values in scores))


def lattice_logps(
    arcs: Tensor, frames: Tensor, lengths: Tensor, durations: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of N transcripts from those of single steps, and how often an alignment takes each.

        alpha(t, u) = sum of alpha(t - d, u) blank(t - d, u) duration_d(t - d, u)          over d > 0
                    + sum of alpha(t - d, u - 1) symbol(t - d, u - 1) duration_d(t - d, u - 1)   over d

    Args:
        arcs: (N, S, U + 1, 2 + len(durations)) nats, at each node of a blank, of the next symbol, of each duration.
        frames: (N,) long, >= 1.
        lengths: (N,) long, >= 0.
        durations: see `transducer_scores`.

    Returns:
        (N,) nats in float64, and in the shape of `arcs` their gradient with respect to it: the probability that an
        alignment of the transcript takes the step there. Neither has a graph.

    Source: arXiv:1211.3711, eq. 16 to 18 and 20; arXiv:2304.06795, section 3.
    """
    moves = Moves.of(durations)
    count, _, width, _ = arcs.shape
    taken = torch.zeros_like(arcs)
    logps = arcs.new_empty(count, dtype=torch.float64)
    states = (arcs.shape[1] + width) * (width + 1) * len(moves.frames)
    rows = max(1, (GPU_WORKSPACE if arcs.is_cuda else CPU_WORKSPACE) // states)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        longest, widest = int(frames[part].max()), int(lengths[part].max()) + 1
        lattice = _Lattice.of(arcs[part, :longest, :widest], frames[part], lengths[part], moves)
        logps[part], taken[part, :longest, :widest] = lattice.sums()
    return logps, taken


class Moves(NamedTuple):
    """The arcs that leave a node: those of a blank first, then those of the next symbol."""

    frames: tuple[int, ...]  # what each arc takes
    blanks: int  # how many of them are blanks
    durations: tuple[int, ...] | None

    @classmethod
    def of(cls, durations: Sequence[int] | None) -> Moves:
        """
        Raises:
            ValueError: negative or equal durations, or none that is one.
        """
        if durations is None:
            return cls((1, 0), 1, None)
        if len(set(durations)) < len(durations) or min(durations) < 0 or 1 not in durations:
            raise ValueError(
                f"Durations of a transducer are different numbers of frames, 1 among them; got {list(durations)}. "
                "Check the durations of the model's config."
            )
        longer = tuple(d for d in durations if d > 0)
        return cls((*longer, *durations), len(longer), tuple(durations))

    def columns(self) -> list[tuple[int, int | None]]:
        """For each arc, which column of `arcs` says its symbol, and which its duration."""
        if self.durations is None:
            return [(0, None), (1, None)]
        kinds = [int(i >= self.blanks) for i in range(len(self.frames))]
        return [(kind, 2 + self.durations.index(d)) for kind, d in zip(kinds, self.frames, strict=True)]


class _Lattice(NamedTuple):
    """n transcripts, nodes in the order of t + u: those of one diagonal depend on earlier diagonals only."""

    weights: Tensor  # (pad + D, arcs, n, 1 + U + 1) what leaves node (diagonal - u, u); -inf where nothing may
    steps: Tensor  # (arcs,) diagonals that an arc takes
    frames: Tensor  # (n,)
    lengths: Tensor  # (n,)
    moves: Moves
    size: int  # S

    @classmethod
    def of(cls, arcs: Tensor, frames: Tensor, lengths: Tensor, moves: Moves) -> _Lattice:
        count, size, width, _ = arcs.shape
        device = arcs.device
        u = torch.arange(width, device=device)
        t = torch.arange(size + width - 1, device=device)[:, None] - u  # (D, U + 1)
        skewed = arcs[:, t.clamp(0, size - 1), u].double().permute(1, 3, 0, 2)  # (D, columns, n, U + 1)
        steps = [d + (i >= moves.blanks) for i, d in enumerate(moves.frames)]
        pad = max(steps)
        weights = skewed.new_full((pad + len(t), len(steps), count, 1 + width), -torch.inf)
        t, frame, length = t[:, None], frames[:, None], lengths[:, None]
        for i, (d, (symbol, duration)) in enumerate(zip(moves.frames, moves.columns(), strict=True)):
            arc = skewed[:, symbol] if duration is None else skewed[:, symbol] + skewed[:, duration]
            lands = t + d
            if i < moves.blanks:
                allowed = (u <= length) & ((lands < frame) | ((lands == frame) & (u == length)))
            else:
                allowed = (u < length) & (lands < frame)
            weights[pad:, i, :, 1:] = torch.where(allowed & (t >= 0), arc, -torch.inf)
        return cls(weights, torch.tensor(steps, device=device), frames, lengths, moves, size)

    def sums(self) -> tuple[Tensor, Tensor]:
        """(n,) log-probabilities, and (n, S, U + 1, columns) how often each step is taken; uses the weights up."""
        pad, blanks = int(self.steps.max()), self.moves.blanks
        alpha = self._from_the_start(pad)
        beta = self._to_the_end(pad)
        logps = beta[0, :, 0].clone()
        # nothing goes through the nodes of a transcript that cannot be said
        passing = self.weights[pad:, :, :, 1:]
        passing += (alpha[pad:, :, 1:] - torch.where(logps == -torch.inf, 0.0, logps)[:, None])[:, None]
        passing.exp_()
        u = torch.arange(passing.shape[-1], device=passing.device)
        place = torch.arange(self.size, device=passing.device)[:, None] + u
        taken = passing.permute(2, 0, 3, 1)[:, place, u]  # (n, S, U + 1, arcs)
        columns = [taken[..., :blanks].sum(-1), taken[..., blanks:].sum(-1)]
        for j in range(len(self.moves.durations or ())):
            arcs = [i for i, (_, duration) in enumerate(self.moves.columns()) if duration == 2 + j]
            columns.append(taken[..., arcs].sum(-1))
        return logps, torch.stack(columns, -1)

    def _from_the_start(self, pad: int) -> Tensor:
        """(pad + D, n, 1 + U + 1): log-probability of the alignments up to each node."""
        total, arcs, count, width = self.weights.shape
        blanks, each = self.moves.blanks, torch.arange(arcs, device=self.weights.device)
        alpha = self.weights.new_full((total, count, width), -torch.inf)
        alpha[pad, :, 1] = 0.0
        sources = torch.arange(pad, total, device=each.device)[:, None] - self.steps
        for n, source in enumerate(sources.unbind(0)):
            if n == 0:
                continue
            come = self.weights[source, each] + alpha[source]
            come = torch.cat([come[:blanks, :, 1:], come[blanks:, :, :-1]])
            alpha[pad + n, :, 1:] = torch.logsumexp(come, 0)
        return alpha

    def _to_the_end(self, pad: int) -> Tensor:
        """(D + pad, n, U + 1 + 1): log-probability of what follows each node; adds what follows to the weights."""
        total, _, count, width = self.weights.shape
        blanks, diagonals = self.moves.blanks, total - pad
        beta = self.weights.new_full((total, count, width), -torch.inf)
        beta[self.frames + self.lengths, torch.arange(count, device=beta.device), self.lengths] = 0.0
        for n in reversed(range(diagonals)):
            behind = beta[n + self.steps]
            arcs = self.weights[pad + n, :, :, 1:]
            arcs[:blanks] += behind[:blanks, :, :-1]
            arcs[blanks:] += behind[blanks:, :, 1:]
            own = beta[n, :, :-1]
            torch.logaddexp(own, torch.logsumexp(arcs, 0), out=own)
        return beta


# ---- from a joint network, some nodes at a time ----


class _Nodes(NamedTuple):
    """The nodes of N = B K transcripts, as places in a table (N, S, U + 1)."""

    places: Tensor  # (nodes,) long, those that exist
    labels: Tensor  # (N, U + 1) long, the next symbol; the blank after the last
    frames: Tensor  # (N,)
    lengths: Tensor  # (N,)
    hypotheses: int  # K
    size: int  # S

    @classmethod
    def of(cls, frames: Tensor, tokens: Tensor, lengths: Tensor, blank: int, size: int) -> _Nodes:
        hypotheses, longest = tokens.shape[1:]
        u = torch.arange(longest + 1, device=tokens.device)
        frames, lengths = frames.repeat_interleave(hypotheses), lengths.flatten()
        padded = torch.nn.functional.pad(tokens.flatten(0, 1), (0, 1), value=blank)
        labels = torch.where(u < lengths[:, None], padded, blank)
        t = torch.arange(size, device=tokens.device)
        there = (t < frames[:, None])[:, :, None] & (u <= lengths[:, None])[:, None]
        return cls(there.flatten().nonzero().squeeze(1), labels, frames, lengths, hypotheses, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.labels), self.size, self.labels.shape[1])

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of each node, the row of `audio` (B S, D) and of `text` (N (U + 1), D)."""
        width = self.labels.shape[1]
        transcript, t = places // (self.size * width), places // width % self.size
        return transcript // self.hypotheses * self.size + t, transcript * width + places % width


class _Call(NamedTuple):
    """What a call of `transducer_scores` is about, beside the tensors that may have a gradient."""

    joint: Joint
    nodes: _Nodes
    symbols: int  # V
    blank: int
    moves: Moves
    temperature: float
    max_symbols: int | None

    @property
    def columns(self) -> int:
        """What is kept of a node's logits: two symbols, the durations."""
        return 2 + len(self.moves.durations or ())

    def chunks(self, places: Tensor, width: int) -> Sequence[Tensor]:
        """`places` in parts whose logits, and what they are made of, fit a chunk.

        Args:
            width: D.
        """
        widest = max(self.symbols + self.columns - 2, width)
        return places.split(max(1, (GPU_CHUNK if places.is_cuda else CPU_CHUNK) // widest))

    def steps(self, audio: Tensor, text: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        logits = self.joint(audio, text)
        return StepStatistics.apply(logits, labels, self.symbols, self.blank, self.temperature)


class _TransducerLogps(torch.autograd.Function):
    """Steps 1 and 2 of the module in the forward pass, step 3 in the backward pass."""

    @staticmethod
    def forward(ctx: Any, call: _Call, audio: Tensor, text: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        nodes = call.nodes
        kept: list[list[Tensor]] = []
        for places in call.chunks(nodes.places, audio.shape[-1]):
            heard, written = nodes.rows(places)
            kept.append(
                list(call.steps(audio.flatten(0, 1)[heard], text.flatten(0, 1)[written], nodes.labels.take(written)))
            )
        arcs, *statistics = (_placed(nodes, values) for values in zip(*kept, strict=True))
        logps, taken = lattice_logps(arcs, nodes.frames, nodes.lengths, call.moves.durations)
        entropy, mean_logits, best = statistics
        visits = taken[..., 0] + taken[..., 1]
        counted = visits.sum((1, 2)).clamp(min=torch.finfo(visits.dtype).tiny)
        means = [
            (torch.where(visits > 0, values * visits, 0.0)).sum((1, 2)) / counted for values in (entropy, mean_logits)
        ]
        top = _greedy(best, nodes, call.moves, call.max_symbols)
        ctx.save_for_backward(audio, text, taken, *parameters)
        ctx.call, ctx.autocast = call, _autocast(audio.device.type)
        ctx.mark_non_differentiable(*means, top)
        return logps.to(arcs.dtype), *means, top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        audio, text, taken, *parameters = ctx.saved_tensors
        call, nodes = ctx.call, ctx.call.nodes
        wanted = [*ctx.needs_input_grad[1:3], *ctx.needs_input_grad[3:]]
        weights = (taken * grad_logps.to(taken.dtype)[:, None, None, None]).flatten(0, 2)
        heard_grad, written_grad, *grads = (_zeros(x) for x in (audio.flatten(0, 1), text.flatten(0, 1), *parameters))
        visited = nodes.places[(_visited(taken) & (grad_logps != 0)[:, None, None]).flatten()[nodes.places]]
        for places in call.chunks(visited, audio.shape[-1]):
            heard, written = nodes.rows(places)
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                leaves = [
                    x.flatten(0, 1)[rows].detach().requires_grad_() for x, rows in ((audio, heard), (text, written))
                ]
                arcs = call.steps(*leaves, nodes.labels.take(written))[0]
            found = torch.autograd.grad(arcs, [*leaves, *parameters], weights[places], allow_unused=True)
            del arcs
            heard_grad.index_add_(0, heard, found[0].to(heard_grad.dtype))
            written_grad.index_add_(0, written, found[1].to(written_grad.dtype))
            for total, grad in zip(grads, found[2:], strict=True):
                if grad is not None:
                    total += grad
            del found, leaves
        pairs = zip((heard_grad, written_grad, *grads), (audio, text, *parameters), wanted, strict=True)
        return None, *(total.view_as(x).to(x.dtype) if asked else None for total, x, asked in pairs)


def _zeros(like: Tensor) -> Tensor:
    """Half precision is too coarse to add up many chunks in."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _placed(nodes: _Nodes, values: Sequence[Tensor]) -> Tensor:
    """Values of the nodes, chunk after chunk, in their table (N, S, U + 1, ...); zero elsewhere."""
    table = values[0].new_zeros((nodes.labels.numel() * nodes.size, *values[0].shape[1:]))
    table[nodes.places] = torch.cat(list(values))
    return table.unflatten(0, nodes.shape)


def _visited(taken: Tensor) -> Tensor:
    """(N, S, U + 1) bool. What is left out changes a sum over an alignment's nodes by less than it is rounded."""
    return taken[..., 0] + taken[..., 1] > 1e-3 * torch.finfo(taken.dtype).eps


def _autocast(device: str) -> dict[str, Any]:
    """How to compute again what is computed now."""
    if not torch.amp.is_autocast_available(device):
        return {"device_type": "cpu", "enabled": False}
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }


class StepStatistics(torch.autograd.Function):
    """What alignments use of logits (n, V + durations), which are held once; see `TokenStatistics` of the head.

    Args:
        logits: divided by the temperature here.
        labels: (n,) long, the next symbol at each node.
        symbols: V.

    Returns:
        (n, 2 + durations) nats of the blank, the next symbol and each duration; then without gradient (n,) entropy,
        mean logit, and (n, 2) the most probable symbol (0 the blank, 1 the next, 2 another) and duration. The gradient
        is written over the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, symbols: int, blank: int, temperature: float
    ) -> tuple[Tensor, ...]:
        ends = torch.stack([torch.full_like(labels, blank), labels], 1)
        found = []
        for rows in _pieces(logits):
            scaled = _scaled(logits[rows], temperature)
            token_logps, duration_logps = (part.log_softmax(-1) for part in _parts(scaled, symbols))
            best = token_logps.argmax(-1, keepdim=True)
            kind = torch.where(best == ends[rows], torch.arange(2, device=best.device), 2).amin(-1)
            longest = duration_logps.argmax(-1) if duration_logps.shape[-1] else torch.zeros_like(kind)
            entropy = -sum((part.exp() * part).sum(-1) for part in (token_logps, duration_logps))
            arcs = torch.cat([token_logps.gather(-1, ends[rows]), duration_logps], 1)
            found.append((arcs, entropy, scaled[:, :symbols].mean(-1), torch.stack([kind, longest], 1)))
        arcs, *statistics = (torch.cat(values) for values in zip(*found, strict=True))
        ctx.save_for_backward(logits, ends)
        ctx.settings = symbols, temperature
        ctx.mark_non_differentiable(*statistics)
        return arcs, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_arcs: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        logits, ends = ctx.saved_tensors
        symbols, temperature = ctx.settings
        for rows in _pieces(logits):
            grad = grad_arcs[rows] / temperature
            tokens, durations = (part.softmax(-1) for part in _parts(_scaled(logits[rows], temperature), symbols))
            tokens.mul_(-grad[:, :2].sum(-1, keepdim=True)).scatter_add_(-1, ends[rows], grad[:, :2])
            logits[rows, :symbols] = tokens.to(logits.dtype)
            durations.mul_(-grad[:, 2:].sum(-1, keepdim=True)).add_(grad[:, 2:])
            logits[rows, symbols:] = durations.to(logits.dtype)
        return logits, None, None, None, None


def _pieces(logits: Tensor) -> list[slice]:
    size = max(1, (GPU_PIECE if logits.is_cuda else CPU_PIECE) // logits.shape[1])
    # a call without a node has a piece all the same, of no rows
    return [slice(start, start + size) for start in range(0, max(1, len(logits)), size)]


def _parts(logits: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    return logits[:, :symbols], logits[:, symbols:]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def _greedy(best: Tensor, nodes: _Nodes, moves: Moves, max_symbols: int | None) -> Tensor:
    """(N,) bool, whether the most probable step of each node leads through a transcript, to its end.

    Args:
        best: (N, S, U + 1, 2) most probable symbol (0, 1, 2) and duration of each node.
    """
    each = torch.arange(len(best), device=best.device)
    t, u, here = (torch.zeros_like(each) for _ in range(3))
    right = torch.ones_like(each, dtype=torch.bool)
    durations = None if moves.durations is None else torch.tensor(moves.durations, device=best.device)
    # each step hears a frame or writes a symbol
    for _ in range(best.shape[1] + best.shape[2]):
        symbol, duration = best[each, t.clamp(max=best.shape[1] - 1), u].unbind(-1)
        walking = right & (t < nodes.frames)
        writes = symbol == 1
        right = right & ~(walking & (symbol == 2))
        here = torch.where(writes, here + 1, 0)
        if durations is None:
            forced = writes & (here == max_symbols) if max_symbols else torch.zeros_like(writes)
            heard = (~writes | forced).long()
            here = torch.where(forced, 0, here)
        else:
            heard = torch.where(writes, durations[duration], durations[duration].clamp(min=1))
        t = torch.where(walking, t + heard, t)
        u = torch.where(walking & writes, u + 1, u).clamp(max=best.shape[2] - 1)
    return right & (t >= nodes.frames) & (u == nodes.lengths)

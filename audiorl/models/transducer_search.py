"""Hypotheses of a transducer: alignments drawn or followed step by step, and a beam search over frames.

A step asks the joint network at (frame, text so far) for a symbol and, in a TDT model, a duration. The rules are those
of transformers' `generate`: a blank takes a frame at least; a plain transducer goes to the next frame by itself after
`max_symbols_per_step` symbols; a step that reaches beyond the last frame ends the hypothesis.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from audiorl.losses.transducer import Moves
from audiorl.models.ctc_search import Prefix
from audiorl.models.forward import is_sharded
from audiorl.models.head import scaled_logits
from audiorl.models.sampling import draw

# (n, V) symbol and (n, durations) logits of n walks, where they stand -> symbol and place of the duration, (n,) each
Choice = Callable[[Tensor, Tensor, "Walks"], tuple[Tensor, Tensor]]


class Written(NamedTuple):
    """What prediction networks have read: n texts."""

    output: Tensor  # (n, D)
    hidden: Tensor  # (layers, n, D) of the LSTM
    cell: Tensor  # (layers, n, D)

    def pick(self, rows: Tensor) -> Written:
        return Written(self.output[rows], self.hidden[:, rows], self.cell[:, rows])

    def put(self, rows: Tensor, new: Written) -> None:
        self.output[rows], self.hidden[:, rows], self.cell[:, rows] = new


class _LSTMState:
    """What the decoder of transformers' transducers takes as its cache; it keeps what the decoder found."""

    def __init__(self, layers: int, known: Written | None):
        self.layers = layers
        self.is_initialized = known is not None
        self.cache: Tensor | None = None
        if known is not None:
            self.hidden_state, self.cell_state = known.hidden.contiguous(), known.cell.contiguous()

    def lazy_initialization(self, embeddings: Tensor) -> None:
        self.hidden_state = embeddings.new_zeros(self.layers, len(embeddings), embeddings.shape[-1])
        self.cell_state = torch.zeros_like(self.hidden_state)

    def update(self, output: Tensor, hidden: Tensor, cell: Tensor, mask: Tensor | None = None) -> None:
        self.cache, self.hidden_state, self.cell_state = output, hidden, cell


class TransducerSteps:
    """One step of a transducer at a time, for any clips and texts.

    Args:
        base: the transformers model.
        heard: (B, S, D) what its joint network reads of the audio.
        durations: of a TDT model; None for a plain one.
    """

    def __init__(self, base: Any, heard: Tensor, durations: Sequence[int] | None, temperature: float):
        self.base, self.heard, self.temperature = base, heard, temperature
        self.blank, self.symbols = base.config.blank_token_id, base.config.vocab_size
        self.moves = Moves.of(durations)

    def start(self) -> Written:
        """The one text that says nothing."""
        return self._read(torch.tensor([self.blank], device=self.heard.device), None)

    def go_on(self, known: Written, symbols: Tensor) -> Written:
        """Texts with one symbol (n,) more each; none is a blank."""
        return self._read(symbols, known)

    def _read(self, symbols: Tensor, known: Written | None) -> Written:
        state = _LSTMState(self.base.config.num_decoder_layers, known)
        output = self.base.decoder(symbols[:, None], cache=state)
        return Written(output.squeeze(1), state.hidden_state, state.cell_state)

    def logits(self, clips: Tensor, frames: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """(n, V) and (n, durations) over the temperature, for (n,) clips and frames and (n, D) texts."""
        made = self.base.joint(decoder_hidden_states=texts, encoder_hidden_states=self.heard[clips, frames])
        scaled = scaled_logits(made, self.temperature)
        return scaled[:, : self.symbols], scaled[:, self.symbols :]


class Walks(NamedTuple):
    """Where n alignments stand."""

    rows: Tensor  # (n,) which of all
    frames: Tensor  # (n,)
    here: Tensor  # (n,) symbols written in this frame


class Limits(NamedTuple):
    """What ends a walk before its audio does."""

    symbols_in_frame: int  # a walk goes to the next frame after this many
    steps: Tensor  # (n,)
    symbols: int  # of a whole transcript


@torch.no_grad()
def walk(
    steps: TransducerSteps, clips: Tensor, frames: Tensor, choose: Choice, limits: Limits
) -> tuple[Tensor, Tensor]:
    """Follow N alignments to the end of their audio.

    Args:
        clips: (N,) long, the clip of each.
        frames: (N,) long, of that clip; 0 writes nothing.

    Returns:
        (N, U) long symbols, blanks behind the shorter ones, and their number (N,).
    """
    durations = torch.tensor(steps.moves.durations or (0,), device=frames.device)
    t, here, count, taken = (torch.zeros_like(frames) for _ in range(4))
    known = steps.start()
    known = Written(*(x.expand(*x.shape[:d], len(frames), -1).clone() for d, x in zip((0, 1, 1), known, strict=True)))
    said: list[Tensor] = []
    pace = _Pace(steps.base, frames.device)
    while pace.anyone(walking := (t < frames) & (taken < limits.steps) & (count < limits.symbols)):
        rows = pace.rows(walking)
        symbols, places = choose(
            *steps.logits(clips[rows], t[rows], known.output[rows]), Walks(rows, t[rows], here[rows])
        )
        symbols = torch.where(walking[rows], symbols, steps.blank)
        writes = symbols != steps.blank
        new = _frames_taken(steps.moves, writes, here[rows] + 1 >= limits.symbols_in_frame, durations[places])
        t[rows] += new
        here[rows] = torch.where(new > 0, 0, here[rows] + 1)
        taken[rows] += 1
        count[rows] += writes.long()
        said.append(torch.full_like(frames, steps.blank).index_copy(0, rows, symbols))
        if writes.any() or pace.sharded:
            # with nothing to read, sharded weights are called all the same
            written = writes if writes.any() else torch.arange(len(rows), device=rows.device) == 0
            further = steps.go_on(known.pick(rows[written]), _not_blank(symbols[written], steps.blank))
            known.put(rows[writes], further.pick(writes[written].nonzero().squeeze(1)))
    return _without_blanks(said, frames, steps.blank)


def _not_blank(symbols: Tensor, blank: int) -> Tensor:
    return torch.where(symbols == blank, int(blank == 0), symbols)


def _frames_taken(moves: Moves, writes: Tensor, enough: Tensor, durations: Tensor) -> Tensor:
    """(n,) frames that steps take; `enough` where one more symbol may not be written in the same frame."""
    least = (~writes | enough).long()
    return least if moves.durations is None else torch.maximum(durations, least)


def _without_blanks(said: Sequence[Tensor], frames: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    if not said:
        return frames.new_zeros((len(frames), 0)), torch.zeros_like(frames)
    steps = torch.stack(list(said), 1)
    writes = steps != blank
    counts = writes.sum(1)
    longest = int(counts.max())
    # blanks are written after the longest, where they are cut off
    place = torch.where(writes, writes.cumsum(1) - 1, longest)
    symbols = steps.new_full((len(steps), longest + 1), blank).scatter_(1, place, steps)
    return symbols[:, :longest], counts


class _Pace:
    """Sharded weights are gathered in calls that all processes make: who has finished goes on with its first row."""

    def __init__(self, base: Any, device: torch.device):
        self.sharded, self.device = is_sharded(base), device

    def anyone(self, walking: Tensor) -> bool:
        if not self.sharded:
            return bool(walking.any())
        count = walking.any().long()
        distributed.all_reduce(count)
        return bool(count)

    def rows(self, walking: Tensor) -> Tensor:
        rows = walking.nonzero().squeeze(1)
        return rows if len(rows) else rows.new_zeros(1)


def most_probable(symbols: Tensor, durations: Tensor, walks: Walks) -> tuple[Tensor, Tensor]:
    """Greedy decoding."""
    places = durations.argmax(-1) if durations.shape[-1] else torch.zeros_like(walks.rows)
    return symbols.argmax(-1), places


class Drawn:
    """A choice by inverse-transform sampling; a step's numbers belong to its frame and place in it.

    Args:
        noise: (N, frames * most * draws) uniform in [0, 1), draws = 2 with durations.
        most: symbols in a frame.
    """

    def __init__(self, noise: Tensor, most: int, draws: int):
        self.noise, self.most, self.draws = noise, most, draws

    def __call__(self, symbols: Tensor, durations: Tensor, walks: Walks) -> tuple[Tensor, Tensor]:
        place = (walks.frames * self.most + walks.here) * self.draws
        uniform = self.noise[walks.rows]
        drawn = [
            draw(logits[None], uniform.gather(1, place[:, None] + i).T)[0][0]
            for i, logits in enumerate((symbols, durations)[: self.draws])
        ]
        return drawn[0], drawn[1] if self.draws == 2 else torch.zeros_like(drawn[0])


# ---- beam search ----

Agenda = dict[int, dict[Prefix, float]]  # frame -> texts that stand there -> nats


@torch.no_grad()
def best_transcripts(
    steps: TransducerSteps, frames: Sequence[int], width: int, longest: int, most: int
) -> list[list[Prefix]]:
    """The `width` most probable transcripts of each clip that a beam search finds.

    It goes from frame to frame; texts that reach the same frame by different alignments are one, with the sum of their
    probabilities. In a frame, texts are extended by their `width` most probable symbols, again and again where that
    takes no frame, as long as the result can be among the `width` best. All clips take a step together.

    Args:
        frames: of each clip.
        width: > 0, texts kept for a frame.
        longest: symbols that a text may have.
        most: symbols written in a frame.

    Returns:
        For each clip at most `width` tuples of symbols.

    Source: Saon et al. 2020, "Alignment-length synchronous decoding for RNN transducer" describes the search by frames
    (time synchronous) that this is; durations as in arXiv:2304.06795.
    """
    search = _Search(steps, frames, width, longest)
    for t in range(max(frames, default=0)):
        begun = {b: search.best(agenda.pop(t, {})) for b, agenda in enumerate(search.agendas) if t < frames[b]}
        for written in range(most + 1):
            begun = search.extend(t, begun, may_write=written < most)
            if not begun:
                break
    return [list(search.best(agenda.get(count, {}))) for agenda, count in zip(search.agendas, frames, strict=True)]


class _Search:
    def __init__(self, steps: TransducerSteps, frames: Sequence[int], width: int, longest: int):
        self.steps, self.frames, self.width, self.longest = steps, frames, width, longest
        self.agendas: list[Agenda] = [defaultdict(dict, {0: {(): 0.0}}) for _ in frames]
        self.texts: dict[Prefix, Written] = {(): steps.start()}

    def best(self, found: dict[Prefix, float]) -> dict[Prefix, float]:
        ranked = sorted(found, key=lambda prefix: found[prefix], reverse=True)[: self.width]
        return {prefix: found[prefix] for prefix in ranked if found[prefix] > -math.inf}

    def extend(
        self, t: int, begun: dict[int, dict[Prefix, float]], *, may_write: bool
    ) -> dict[int, dict[Prefix, float]]:
        """Take one step with all texts that stand in frame t; those that still stand there are returned."""
        rows = [(b, prefix, logp) for b, texts in begun.items() for prefix, logp in texts.items()]
        if not rows:
            return {}
        self._read([prefix for _, prefix, _ in rows])
        moves, blank = self.steps.moves, self.steps.blank
        device = self.steps.heard.device
        logits = self.steps.logits(
            torch.tensor([b for b, _, _ in rows], device=device),
            torch.full((len(rows),), t, device=device),
            torch.cat([self.texts[prefix].output for _, prefix, _ in rows]),
        )
        symbols, durations = (part.log_softmax(-1).double() for part in logits)
        likely = symbols.topk(min(self.width + 1, symbols.shape[-1]), -1)
        stay: dict[int, dict[Prefix, float]] = {}
        for i, (b, prefix, logp) in enumerate(rows):
            lengths = durations[i].tolist()
            taken = [
                (d, lengths[column - 2] if column else 0.0)
                for d, (_, column) in zip(moves.frames, moves.columns(), strict=True)
            ]
            own, count = self.agendas[b], self.frames[b]
            nats = logp + float(symbols[i, blank])
            for d, more in taken[: moves.blanks]:
                if t + d <= count:
                    _add(own[t + d], prefix, nats + more)
            if not may_write or len(prefix) >= self.longest:
                continue
            for symbol, value in zip(likely.indices[i].tolist(), likely.values[i].tolist(), strict=True):
                if symbol == blank:
                    continue
                for d, more in taken[moves.blanks :]:
                    if t + d < count:
                        _add(own[t + d] if d else stay.setdefault(b, {}), (*prefix, symbol), logp + value + more)
        return {b: kept for b, texts in stay.items() if (kept := self._worth(b, t, texts))}

    def _worth(self, b: int, t: int, texts: dict[Prefix, float]) -> dict[Prefix, float]:
        """Of texts in frame t, those that can be among the best of the next one."""
        ahead = sorted(self.agendas[b][t + 1].values(), reverse=True)
        bar = ahead[self.width - 1] if len(ahead) >= self.width else -math.inf
        return {prefix: logp for prefix, logp in self.best(texts).items() if logp > bar}

    def _read(self, prefixes: Sequence[Prefix]) -> None:
        """Let the prediction network read texts that are new; all but their last symbol it has read."""
        new = [prefix for prefix in dict.fromkeys(prefixes) if prefix not in self.texts]
        if not new:
            return
        known = [self.texts[prefix[:-1]] for prefix in new]
        joined = Written(*(torch.cat(parts, d) for d, parts in zip((0, 1, 1), zip(*known, strict=True), strict=True)))
        device = self.steps.heard.device
        further = self.steps.go_on(joined, torch.tensor([prefix[-1] for prefix in new], device=device))
        for i, prefix in enumerate(new):
            self.texts[prefix] = further.pick(torch.tensor([i], device=device))


def _add(texts: dict[Prefix, float], prefix: Prefix, logp: float) -> None:
    before = texts.get(prefix, -math.inf)
    high, low = (before, logp) if before > logp else (logp, before)
    texts[prefix] = high if low == -math.inf else high + math.log1p(math.exp(low - high))

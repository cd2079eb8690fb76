"""Transducers by counting every alignment, in float64; imports nothing from audiorl."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

Step = tuple[int, int, int, int]  # frame, symbols written before, symbol, duration


def alignments(
    frames: int, transcript: Sequence[int], blank: int, durations: Sequence[int] | None
) -> Iterator[list[Step]]:
    """Every way to write a transcript and to leave behind the last frame with a blank.

    Args:
        durations: what a symbol or a blank may take; None for a plain transducer, whose blanks take one frame and whose
            symbols none (their steps have duration 1 and 0).
    """
    after_blank = [1] if durations is None else [d for d in durations if d > 0]
    after_symbol = [0] if durations is None else list(durations)

    def further(t: int, u: int, path: list[Step]) -> Iterator[list[Step]]:
        for d in after_blank:
            if t + d == frames and u == len(transcript):
                yield [*path, (t, u, blank, d)]
            elif t + d < frames:
                yield from further(t + d, u, [*path, (t, u, blank, d)])
        for d in after_symbol:
            if u < len(transcript) and t + d < frames:
                yield from further(t + d, u + 1, [*path, (t, u, transcript[u], d)])

    yield from further(0, 0, [])


def log_softmax(logits: Sequence[float]) -> list[float]:
    high = max(logits)
    total = high + math.log(sum(math.exp(x - high) for x in logits))
    return [x - total for x in logits]


def step_logp(node: Sequence[float], symbols: int, step: Step, durations: Sequence[int] | None) -> float:
    """Nats of a step from the logits of its node, V symbols and then the durations."""
    _, _, symbol, duration = step
    logp = log_softmax(node[:symbols])[symbol]
    return logp if durations is None else logp + log_softmax(node[symbols:])[list(durations).index(duration)]


def likelihood(
    logits: Sequence[Sequence[Sequence[float]]],
    transcript: Sequence[int],
    symbols: int,
    blank: int,
    durations: Sequence[int] | None = None,
) -> float:
    """The probability of a transcript from the logits of all nodes (S, U + 1, V + durations)."""
    return sum(
        math.exp(sum(step_logp(logits[step[0]][step[1]], symbols, step, durations) for step in path))
        for path in alignments(len(logits), transcript, blank, durations)
    )


def visits(
    logits: Sequence[Sequence[Sequence[float]]],
    transcript: Sequence[int],
    symbols: int,
    blank: int,
    durations: Sequence[int] | None = None,
) -> list[list[float]]:
    """(S, U + 1): how likely an alignment passes a node, given that it writes the transcript."""
    passed = [[0.0] * (len(transcript) + 1) for _ in logits]
    for path in alignments(len(logits), transcript, blank, durations):
        p = math.exp(sum(step_logp(logits[step[0]][step[1]], symbols, step, durations) for step in path))
        for t, u, _, _ in path:
            passed[t][u] += p
    total = likelihood(logits, transcript, symbols, blank, durations)
    return [[value / total for value in row] for row in passed]


def log_likelihood(
    logits: Sequence[Sequence[Sequence[float]]],
    transcript: Sequence[int],
    symbols: int,
    blank: int,
    durations: Sequence[int] | None = None,
) -> float:
    """`likelihood` in nats by the forward recursion, for lattices with too many alignments to count."""
    frames, length = len(logits), len(transcript)
    alpha = [[-math.inf] * (length + 1) for _ in range(frames)]
    alpha[0][0] = 0.0
    end = -math.inf
    after_blank = [1] if durations is None else [d for d in durations if d > 0]
    after_symbol = [0] if durations is None else list(durations)
    for t in range(frames):
        for u in range(length + 1):
            if alpha[t][u] == -math.inf:
                continue
            for d in after_blank:
                logp = alpha[t][u] + step_logp(logits[t][u], symbols, (t, u, blank, d), durations)
                if t + d < frames:
                    alpha[t + d][u] = log_sum(alpha[t + d][u], logp)
                elif t + d == frames and u == length:
                    end = log_sum(end, logp)
            for d in after_symbol if u < length else ():
                if t + d < frames:
                    logp = alpha[t][u] + step_logp(logits[t][u], symbols, (t, u, transcript[u], d), durations)
                    alpha[t + d][u + 1] = log_sum(alpha[t + d][u + 1], logp)
    return end


def log_sum(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def walked(
    logits: Callable[[tuple[int, ...]], Sequence[Sequence[Sequence[float]]]],
    frames: int,
    most: int,
    symbols: int,
    blank: int,
    durations: Sequence[int] | None = None,
) -> dict[tuple[int, ...], float]:
    """The probability of everything that drawing step by step can write, by the rules of transformers' `generate`.

    Args:
        logits: of a transcript, of all nodes (S, U + 1, V + durations).
        most: symbols in a frame, after which a walk goes on to the next one.
    """
    found: dict[tuple[int, ...], float] = {}

    def further(t: int, here: int, text: tuple[int, ...], p: float) -> None:
        if t >= frames:
            found[text] = found.get(text, 0.0) + p
            return
        node = logits(text)[t][len(text)]
        token_logps = log_softmax(node[:symbols])
        duration_logps = [0.0] if durations is None else log_softmax(node[symbols:])
        for symbol, logp in enumerate(token_logps):
            for i, more in enumerate(duration_logps):
                taken = 0 if durations is None else durations[i]
                if symbol == blank or here + 1 == most:
                    taken = max(taken, 1)
                written = text if symbol == blank else (*text, symbol)
                further(t + taken, 0 if taken else here + 1, written, p * math.exp(logp + more))

    further(0, 0, (), 1.0)
    return found

"""CTC by counting every path, in float64; imports nothing from audiorl."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def collapsed(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """What a path says: repetitions count once, blanks not at all."""
    said = [symbol for symbol, _ in itertools.groupby(path)]
    return tuple(symbol for symbol in said if symbol != blank)


def distribution(frame_logps: Sequence[Sequence[float]], blank: int) -> dict[tuple[int, ...], float]:
    """The probability of everything that S frames of V symbols can say: all V^S paths, one by one."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(len(frame_logps[0])), repeat=len(frame_logps)):
        logp = sum(frame_logps[t][symbol] for t, symbol in enumerate(path))
        said = collapsed(path, blank)
        found[said] = found.get(said, 0.0) + math.exp(logp)
    return found


def occupations(frame_logps: Sequence[Sequence[float]], transcript: Sequence[int], blank: int) -> list[list[float]]:
    """(S, V): how likely each symbol is in each frame, given that the path says the transcript."""
    symbols = len(frame_logps[0])
    mass = [[0.0] * symbols for _ in frame_logps]
    total = 0.0
    for path in itertools.product(range(symbols), repeat=len(frame_logps)):
        if collapsed(path, blank) == tuple(transcript):
            p = math.exp(sum(frame_logps[t][symbol] for t, symbol in enumerate(path)))
            total += p
            for t, symbol in enumerate(path):
                mass[t][symbol] += p
    return [[value / total for value in row] for row in mass]


def best_alignment(frame_logps: Sequence[Sequence[float]], transcript: Sequence[int], blank: int) -> float:
    """The log-probability of the most probable of all V^S paths that say the transcript; -inf if there is none."""
    best = -math.inf
    for path in itertools.product(range(len(frame_logps[0])), repeat=len(frame_logps)):
        if collapsed(path, blank) == tuple(transcript):
            best = max(best, sum(frame_logps[t][symbol] for t, symbol in enumerate(path)))
    return best

"""Float64 loops over lists: which tokens a sampler allows, and beam search in groups, written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LogProbabilities = Callable[[tuple[int, ...]], Sequence[float]]


def softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def sampler_logits(
    logits: Sequence[float],
    drawn: Sequence[int],
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
) -> list[float]:
    """Logits to draw from, minus infinity for tokens that may not be drawn.

    Repetition: Keskar et al. 2019 (arXiv:1909.05858, 4.1); top-p: Holtzman et al. 2020 (arXiv:1904.09751), eq. 3;
    min-p: Nguyen et al. 2024 (arXiv:2407.01082).
    """
    out = list(logits)
    for token in set(drawn):
        out[token] = out[token] / repetition_penalty if out[token] > 0 else out[token] * repetition_penalty
    n = no_repeat_ngram_size
    if n:
        seen = [tuple(drawn[i : i + n]) for i in range(len(drawn) - n + 1)]
        for token in range(len(out)):
            if (*drawn[len(drawn) - n + 1 :], token) in seen:
                out[token] = -math.inf
    if top_k:
        least = sorted(out, reverse=True)[min(top_k, len(out)) - 1]
        out = [logit if logit >= least else -math.inf for logit in out]
    if top_p < 1:
        probabilities = softmax(out)
        mass, kept = 0.0, set()
        for token in sorted(range(len(out)), key=lambda token: -probabilities[token]):
            if mass >= top_p:
                break
            kept.add(token)
            mass += probabilities[token]
        out = [logit if token in kept else -math.inf for token, logit in enumerate(out)]
    if min_p:
        probabilities = softmax(out)
        out = [
            logit if p >= min_p * max(probabilities) else -math.inf for logit, p in zip(out, probabilities, strict=True)
        ]
    return out


Hypothesis = tuple[tuple[int, ...], float, float]  # tokens, score, log-probability


def diverse_beams(
    log_probabilities: LogProbabilities,
    *,
    end: int,
    limit: int,
    beams: int,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
) -> list[Hypothesis]:
    """The best hypotheses, best first: Vijayakumar et al. 2018 (arXiv:1610.02424), algorithm 1, with Hamming diversity.

    Each group follows twice as many candidates as it has beams; one that ends counts among the first half.
    """
    size = beams // groups
    running: list[list[Hypothesis]] = [[((), 0.0, 0.0)] for _ in range(groups)]
    done: list[list[Hypothesis]] = [[] for _ in range(groups)]
    closed = [False] * groups
    for length in range(1, limit + 1):
        chosen: dict[int, int] = {}
        for g in range(groups):
            if closed[g]:
                continue
            candidates = best_candidates(running[g], log_probabilities, chosen, diversity_penalty)[: 2 * size]
            going_on = [hypothesis for hypothesis in candidates if hypothesis[0][-1] != end][:size]
            ending = [hypothesis for hypothesis in candidates[:size] if hypothesis[0][-1] == end]
            for ids, _, _ in going_on + ending:
                chosen[ids[-1]] = chosen.get(ids[-1], 0) + 1
            finals = candidates[:size] if length == limit else ending
            done[g] += [(ids, score / length**length_penalty, logp) for ids, score, logp in finals]
            done[g] = sorted(done[g], key=lambda hypothesis: -hypothesis[1])[:size]
            running[g] = going_on
            longest = limit if early_stopping == "never" and length_penalty > 0 else length
            attainable = going_on[0][1] / longest**length_penalty
            closed[g] = len(done[g]) == size and (early_stopping is True or attainable <= done[g][-1][1])
    return sorted((hypothesis for group in done for hypothesis in group), key=lambda hypothesis: -hypothesis[1])


def best_candidates(
    running: Sequence[Hypothesis], log_probabilities: LogProbabilities, chosen: dict[int, int], diversity_penalty: float
) -> list[Hypothesis]:
    candidates = [
        ((*ids, token), score + token_logp - diversity_penalty * chosen.get(token, 0), logp + token_logp)
        for ids, score, logp in running
        for token, token_logp in enumerate(log_probabilities(ids))
    ]
    return sorted(candidates, key=lambda hypothesis: -hypothesis[1])

"""Float64 loop versions of the policy losses and advantages, written from the papers; nothing here is from audiorl.

Everything is plain Python: numbers, lists and loops. `logps[b][k][t]` are nats, `keep[b][k][t]` bools. Where an
expression would overflow in float64 it is left to do so: oracles are asked about moderate numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Tokens = list[list[list[float]]]  # [b][k][t]
Mask = Sequence[Sequence[Sequence[bool]]]
Table = Sequence[Sequence[float]]  # [b][k]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def k3(logp: float, ref_logp: float) -> float:
    """Schulman's third estimator of KL(pi || pi_ref): r - 1 - log r with r = pi_ref / pi."""
    r = math.exp(ref_logp) / math.exp(logp)
    return r - 1 - math.log(r)


def importance(logps: Tokens, engine: Tokens, keep: Mask, mode: str, cap: float) -> Tokens:
    """Weights of samples that an engine drew: p / q of a token or of a hypothesis, cut at the cap or dropped there."""
    weights = []
    for group, others, kept in zip(logps, engine, keep, strict=True):
        rows = []
        for ours, theirs, counts in zip(group, others, kept, strict=True):
            ratios = [math.exp(p) / math.exp(q) if c else 1.0 for p, q, c in zip(ours, theirs, counts, strict=True)]
            if mode.startswith("sequence"):
                ratios = [math.prod(ratios)] * len(ratios)
            bounded = [min(r, cap) if mode.endswith("truncate") else (r if r <= cap else 0.0) for r in ratios]
            rows.append([b if c else 1.0 for b, c in zip(bounded, counts, strict=True)])
        weights.append(rows)
    return weights


class PolicyOracle:
    """One batch, and every policy loss of it as a function of the policy's log-probabilities.

    `identity[b][k]` says which hypotheses of a clip are the same; default: all differ. `counts` are (clips, hypotheses,
    tokens) of the optimizer step; default: of this batch.
    """

    def __init__(
        self,
        old_logps: Tokens,
        keep: Mask,
        advantages: Table,
        *,
        ref_logps: Tokens | None = None,
        entropy: Tokens | None = None,
        identity: Sequence[Sequence[int]] | None = None,
        counts: tuple[int, int, int] | None = None,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        delta: float | None = None,
        beta: float = 0.0,
        use_bias_correction_kl: bool = True,
        importance_sampling_level: str = "token",
        max_completion_length: int = 0,
        entropy_coef: float = 0.0,
    ):
        self.old, self.keep, self.advantages = old_logps, keep, advantages
        self.ref, self.entropy = ref_logps, entropy
        self.identity = identity or [list(range(len(group))) for group in keep]
        self.low, self.high = epsilon, epsilon if epsilon_high is None else epsilon_high
        self.delta, self.beta, self.bias_correction = delta, beta, use_bias_correction_kl
        self.level, self.longest, self.entropy_coef = importance_sampling_level, max_completion_length, entropy_coef
        self.clips, self.hypotheses, self.tokens = counts or self.own_counts()

    def own_counts(self) -> tuple[int, int, int]:
        clips = hypotheses = tokens = 0
        for group in self.keep:
            clips += any(any(row) for row in group)
            hypotheses += sum(any(row) for row in group)
            tokens += sum(sum(row) for row in group)
        return clips, hypotheses, tokens

    def kept(self, b: int, k: int) -> list[int]:
        return [t for t, counts in enumerate(self.keep[b][k]) if counts]

    def listed(self) -> list[tuple[int, int]]:
        """(b, k) of the hypotheses that count."""
        return [(b, k) for b, group in enumerate(self.keep) for k in range(len(group)) if self.kept(b, k)]

    # ---- ratios ----

    def ratio(self, logps: Tokens, b: int, k: int, t: int, level: str | None = None) -> float:
        if (level or self.level) == "token":
            return math.exp(logps[b][k][t]) / math.exp(self.old[b][k][t])
        return math.exp(mean([logps[b][k][u] - self.old[b][k][u] for u in self.kept(b, k)]))

    def clipped(self, ratio: float, advantage: float) -> float:
        """What is to be maximised: min(r A, clip(r) A), the unclipped r bounded by delta."""
        unclipped = ratio if self.delta is None else min(ratio, self.delta)
        return min(unclipped * advantage, min(max(ratio, 1 - self.low), 1 + self.high) * advantage)

    def surrogate(self, logps: Tokens, b: int, k: int, level: str | None = None) -> list[float]:
        """Loss of each kept token of a hypothesis."""
        return [-self.clipped(self.ratio(logps, b, k, t, level), self.advantages[b][k]) for t in self.kept(b, k)]

    # ---- the losses, without KL and entropy ----

    def grpo(self, logps: Tokens) -> float:
        return sum(mean(self.surrogate(logps, b, k)) for b, k in self.listed()) / self.hypotheses

    def gspo(self, logps: Tokens) -> float:
        return sum(self.surrogate(logps, b, k, "sequence")[0] for b, k in self.listed()) / self.hypotheses

    def bnpo(self, logps: Tokens) -> float:
        return sum(sum(self.surrogate(logps, b, k)) for b, k in self.listed()) / self.tokens

    dapo = bnpo

    def dr_grpo(self, logps: Tokens) -> float:
        return sum(sum(self.surrogate(logps, b, k)) for b, k in self.listed()) / (self.hypotheses * self.longest)

    def cispo(self, logps: Tokens, at: Tokens | None = None) -> float:
        """`at` are the log-probabilities that the constant weights are made of; default `logps`."""
        total = 0.0
        for b, k in self.listed():
            for t in self.kept(b, k):
                weight = min(self.ratio(at or logps, b, k, t), self.high)
                total -= weight * self.advantages[b][k] * logps[b][k][t]
        return total / self.tokens

    def mwer(self, logps: Tokens) -> float:
        """Expected risk less mean risk over the distinct hypotheses of a clip; a repetition is crossed out."""
        total = 0.0
        for b, group in enumerate(self.keep):
            distinct: dict[int, int] = {}
            for k in range(len(group)):
                if self.kept(b, k):
                    distinct.setdefault(self.identity[b][k], k)
            if not distinct:
                continue
            mass = {k: math.exp(sum(logps[b][k][t] for t in self.kept(b, k))) for k in distinct.values()}
            mean_risk = mean([-self.advantages[b][k] for k in mass])
            for k, share in mass.items():
                total += share / sum(mass.values()) * (-self.advantages[b][k] - mean_risk)
        return total / self.clips

    # ---- the whole ----

    def token_kl(self, logps: Tokens, b: int, k: int, t: int, level: str) -> float:
        assert self.ref is not None
        value = k3(logps[b][k][t], self.ref[b][k][t])
        return value * self.ratio(logps, b, k, t, level) if self.bias_correction else value

    def kl(self, name: str, logps: Tokens) -> float:
        level = "sequence" if name == "gspo" else self.level
        sums = [[self.token_kl(logps, b, k, t, level) for t in self.kept(b, k)] for b, k in self.listed()]
        if name in ("grpo", "gspo", "mwer"):
            return sum(mean(values) for values in sums) / self.hypotheses
        count = self.hypotheses * self.longest if name == "dr_grpo" else self.tokens
        return sum(sum(values) for values in sums) / count

    def total(self, name: str, logps: Tokens, at: Tokens | None = None) -> float:
        total = self.cispo(logps, at) if name == "cispo" else getattr(self, name)(logps)
        if self.beta:
            total += self.beta * self.kl(name, logps)
        if self.entropy_coef:
            assert self.entropy is not None
            summed = sum(self.entropy[b][k][t] for b, k in self.listed() for t in self.kept(b, k))
            total -= self.entropy_coef * summed / self.tokens
        return total


def token_differences(function: Callable[[Tokens], float], at: Tokens, keep: Mask) -> Tokens:
    """Gradient of a scalar function of token log-probabilities, by central differences of step 1e-5; 0 outside keep."""
    step = 1e-5
    gradient = [[[0.0] * len(row) for row in group] for group in at]
    for b, group in enumerate(at):
        for k, row in enumerate(group):
            for t in range(len(row)):
                if keep[b][k][t]:
                    sides = []
                    for sign in (1, -1):
                        moved = [[list(r) for r in g] for g in at]
                        moved[b][k][t] += sign * step
                        sides.append(function(moved))
                    gradient[b][k][t] = (sides[0] - sides[1]) / (2 * step)
    return gradient


# ---- advantages ----


def advantages(kind: str, rewards: Table, valid: Sequence[Sequence[bool]]) -> list[list[float]]:
    """ "group", "batch", "none" or "rloo" of [b][k] rewards; 0 for an entry that is not valid."""
    everything = [r for row, ok in zip(rewards, valid, strict=True) for r, v in zip(row, ok, strict=True) if v]
    out = []
    for row, ok in zip(rewards, valid, strict=True):
        group = [r for r, v in zip(row, ok, strict=True) if v]
        out.append([])
        for k, (reward, v) in enumerate(zip(row, ok, strict=True)):
            if not v or len(group) < 2:
                out[-1].append(0.0)
            elif kind == "rloo":
                others = [row[j] for j in range(len(row)) if j != k and ok[j]]
                out[-1].append(reward - mean(others))
            else:
                spread = {"none": 1.0, "group": deviation(group) + 1e-4, "batch": deviation(everything) + 1e-4}[kind]
                out[-1].append((reward - mean(group)) / spread)
    return out


def decoupled_advantages(parts: Sequence[Table], weights: Sequence[float]) -> list[list[float]]:
    """GDPO, Liu et al. 2026: [b][k][i] rewards, NaN where one abstained; z-scores of each, their sum's over all."""
    sums: list[list[float]] = []
    for group in parts:
        sums.append([math.nan] * len(group))
        for k, mine in enumerate(group):
            for i, weight in enumerate(weights):
                known = [other[i] for other in group if not math.isnan(other[i])]
                if weight and not math.isnan(mine[i]):
                    z = (mine[i] - mean(known)) / (deviation(known) + 1e-4)
                    sums[-1][k] = weight * z + (0.0 if math.isnan(sums[-1][k]) else sums[-1][k])
    everything = [s for row in sums for s in row if not math.isnan(s)]
    spread = deviation(everything) + 1e-4
    return [[0.0 if math.isnan(s) else (s - mean(everything)) / spread for s in row] for row in sums]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))

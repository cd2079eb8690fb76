"""Float64 loop versions of the losses, written from the papers; nothing here is imported from audiorl.

Everything is plain Python: numbers, lists and loops. Where an expression would overflow in float64 it is left
to do so: oracles are asked about moderate numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Pair = Sequence[float]  # (chosen, rejected)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def divergence_score(kind: str, log_ratio: float, alpha: float = 0.5) -> float:
    """f'(t) at t = exp(log_ratio), up to the constants that TRL drops; f-DPO, arXiv:2309.16240."""
    t = math.exp(log_ratio)
    if kind == "reverse_kl":
        return math.log(t)
    if kind == "forward_kl":
        return 1 - 1 / t
    if kind == "js_divergence":
        return math.log(2 * t / (1 + t))
    if kind == "alpha_divergence":
        return math.log(t) if alpha == 1 else (t ** (alpha - 1) - 1) / (alpha - 1)
    raise KeyError(kind)


class PairOracle:
    """One batch of pairs, and every preference loss of it as a list of floats."""

    def __init__(
        self,
        logps: Sequence[Pair],
        ref_logps: Sequence[Pair],
        lengths: Sequence[Sequence[int]],
        *,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        divergence: str = "reverse_kl",
        alpha: float = 0.5,
        discopop_tau: float = 0.05,
    ):
        self.logps, self.ref_logps, self.lengths = logps, ref_logps, lengths
        self.beta, self.smoothing, self.tau = beta, label_smoothing, discopop_tau
        self.divergence, self.alpha = divergence, alpha

    def log_ratio(self, b: int, k: int) -> float:
        return self.logps[b][k] - self.ref_logps[b][k]

    def score(self, b: int, k: int) -> float:
        return divergence_score(self.divergence, self.log_ratio(b, k), self.alpha)

    def delta(self, b: int) -> float:
        return self.score(b, 0) - self.score(b, 1)

    def delta_per_token(self, b: int) -> float:
        return self.score(b, 0) / self.lengths[b][0] - self.score(b, 1) / self.lengths[b][1]

    def losses(self, name: str) -> list[float]:
        if name in ("aot", "aot_unpaired"):
            return getattr(self, name)()
        one: Callable[[int], float] = getattr(self, name)
        return [one(b) for b in range(len(self.logps))]

    # arXiv:2305.18290, eq. 7
    def sigmoid(self, b: int) -> float:
        return -math.log(sigmoid(self.beta * self.delta(b)))

    # arXiv:2305.10425
    def hinge(self, b: int) -> float:
        return max(0.0, 1 - self.beta * self.delta(b))

    # arXiv:2310.12036, eq. 17, on log-ratios per token
    def ipo(self, b: int) -> float:
        return (self.delta_per_token(b) - 1 / (2 * self.beta)) ** 2

    # arXiv:2403.00409: the observed label's loss and the flipped label's loss, combined without bias
    def robust(self, b: int) -> float:
        e = self.smoothing
        observed = -log_sigmoid(self.beta * self.delta(b))
        flipped = -log_sigmoid(-self.beta * self.delta(b))
        return ((1 - e) * observed - e * flipped) / (1 - 2 * e)

    # arXiv:2402.00856, eq. 16: KL between a softmax over two transcripts and the smoothed label
    def exo_pair(self, b: int) -> float:
        weights = [math.exp(self.beta * self.score(b, k)) for k in (0, 1)]
        belief = [w / sum(weights) for w in weights]
        label = [1 - self.smoothing, self.smoothing]
        return sum(p * math.log(p / q) for p, q in zip(belief, label, strict=True))

    # arXiv:2402.05369
    def nca_pair(self, b: int) -> float:
        rewards = [self.beta * self.log_ratio(b, k) for k in (0, 1)]
        total = -log_sigmoid(rewards[0])
        for reward in rewards:
            total -= 0.5 * log_sigmoid(-reward)
        return total

    # arXiv:2404.04656 without the reward shift: binary cross-entropy with labels 1 and 0
    def bco_pair(self, b: int) -> float:
        total = 0.0
        for k, label in ((0, 1), (1, 0)):
            p = sigmoid(self.beta * self.log_ratio(b, k))
            total -= label * math.log(p) + (1 - label) * math.log(1 - p)
        return total

    # arXiv:2405.00675, eq. 4.7: win rates 1 and 0, eta = 1 / beta
    def sppo_hard(self, b: int) -> float:
        total = 0.0
        for k, win_rate in ((0, 1), (1, 0)):
            total += (self.log_ratio(b, k) - (win_rate - 0.5) / self.beta) ** 2
        return total

    # arXiv:2408.06266, eq. 7
    def apo_zero(self, b: int) -> float:
        return 1 - sigmoid(self.beta * self.log_ratio(b, 0)) + sigmoid(self.beta * self.log_ratio(b, 1))

    # arXiv:2408.06266, eq. 8
    def apo_down(self, b: int) -> float:
        gap = self.log_ratio(b, 0) - self.log_ratio(b, 1)
        return sigmoid(self.beta * self.log_ratio(b, 0)) + 1 - sigmoid(self.beta * gap)

    # arXiv:2406.08414, eq. 5
    def discopop(self, b: int) -> float:
        x = self.beta * self.delta(b)
        mix = sigmoid(x / self.tau)
        return (1 - mix) * -log_sigmoid(x) + mix * math.exp(-x)

    # arXiv:2411.15124, length-normalised DPO
    def sigmoid_norm(self, b: int) -> float:
        return -math.log(sigmoid(self.beta * self.delta_per_token(b)))

    def sft(self, b: int) -> float:
        return -self.logps[b][0]

    # arXiv:2406.05882, paired: quantiles of the policy's preferences against those of the frozen policy
    def aot(self) -> list[float]:
        return self._transport(
            [chosen - rejected for chosen, rejected in self.logps],
            [chosen - rejected for chosen, rejected in self.ref_logps],
        )

    # arXiv:2406.05882, unpaired: quantiles of chosen log-ratios against those of rejected ones
    def aot_unpaired(self) -> list[float]:
        pairs = range(len(self.logps))
        return self._transport([self.log_ratio(b, 0) for b in pairs], [self.log_ratio(b, 1) for b in pairs])

    def _transport(self, wanted_above: list[float], wanted_below: list[float]) -> list[float]:
        """Element b belongs to the b-th of `wanted_above`, compared with its equal in rank."""
        ranked_below = sorted(wanted_below)
        losses = []
        for value in wanted_above:
            rank = sum(other < value for other in wanted_above)
            x = self.beta * (value - ranked_below[rank])
            losses.append(-(1 - self.smoothing) * log_sigmoid(x) - self.smoothing * log_sigmoid(-x))
        return losses


def sequence_sum(token_logps: Sequence[float], keep: Sequence[bool]) -> float:
    total = 0.0
    for logp, kept in zip(token_logps, keep, strict=True):
        if kept:
            total += logp
    return total


def length_desensitized_pair(
    token_logps: Sequence[Sequence[float]], keep: Sequence[Sequence[bool]], ld_alpha: float
) -> list[float]:
    """LD-DPO, arXiv:2409.06411: tokens beyond the shorter transcript's length weigh `ld_alpha`."""
    kept = [
        [logp for logp, counts in zip(row, mask, strict=True) if counts]
        for row, mask in zip(token_logps, keep, strict=True)
    ]
    shared = min(len(tokens) for tokens in kept)
    return [sum(tokens[:shared]) + ld_alpha * sum(tokens[shared:]) for tokens in kept]


def central_differences(function: Callable[[list[list[float]]], float], at: list[list[float]]) -> list[list[float]]:
    """Gradient of a scalar function of a table of floats, by central differences with step 1e-5."""
    step = 1e-5
    gradient = []
    for i, row in enumerate(at):
        gradient.append([0.0] * len(row))
        for j in range(len(row)):
            sides = []
            for sign in (1, -1):
                moved = [list(r) for r in at]
                moved[i][j] += sign * step
                sides.append(function(moved))
            gradient[i][j] = (sides[0] - sides[1]) / (2 * step)
    return gradient


# ---- words ----


def edit_distance(first, second):
    """Levenshtein 1966: the fewest substitutions, deletions and insertions, by the table of all prefixes."""
    table = [[i + j if not i * j else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (first[i - 1] != second[j - 1])
            )
    return table[-1][-1]

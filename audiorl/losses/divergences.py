"""f-divergences of f-DPO: what stands in for the log-ratio under another divergence than the reverse KL.

With u = log(policy / frozen policy) and t = exp(u), a divergence with generator f scores a transcript with
f'(t). The margin of a pair is the difference of two scores; a term that depends on the audio alone cancels there, and
only there. So losses that look at one transcript at a time cannot take a divergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from audiorl.losses.settings import finite_number, known_name

ScoreFunction = Callable[[Tensor], Tensor]

# exp(80) = 5.5e34 leaves room in float32 (3.4e38) for a subtraction and a beta; TRL clamps its
# alpha-divergence there.
MAX_EXPONENT = 80.0
# Nearer to 1 than this the alpha-divergence is its limit, the reverse KL, and its formula 0 / 0.
ALPHA_LIMIT_WIDTH = 1e-6


def reverse_kl_scores(log_ratios: Tensor) -> Tensor:
    """Scores under KL(policy || frozen), the divergence of plain DPO.

        score = f'(t) - 1 = u     for f(t) = t log t

    Args:
        log_ratios: u, any shape, nats.

    Returns:
        Scores, the same shape.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    return log_ratios


def forward_kl_scores(log_ratios: Tensor) -> Tensor:
    """Scores under KL(frozen || policy).

        score = f'(t) + 1 = 1 - exp(-u)     for f(t) = -log t

    Below u = -80 the score stays at that of -80 and its gradient is 0: float32 ends at exp(88).

    Args:
        log_ratios: u, any shape, nats.

    Returns:
        Scores below 1, the same shape.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    return -torch.expm1((-log_ratios).clamp(max=MAX_EXPONENT))


def js_divergence_scores(log_ratios: Tensor) -> Tensor:
    """Scores under the Jensen-Shannon divergence.

        score = f'(t) = log(2t / (t + 1)) = log 2 + log sigmoid(u)

    Args:
        log_ratios: u, any shape, nats.

    Returns:
        Scores below log 2, the same shape.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    return math.log(2) + F.logsigmoid(log_ratios)


def alpha_divergence_scores(log_ratios: Tensor, *, alpha: float) -> Tensor:
    """Scores under an alpha-divergence.

        score = f'(t) = (t^(alpha - 1) - 1) / (alpha - 1) = expm1((alpha - 1) u) / (alpha - 1)

    alpha = 1 is its limit, the reverse KL. This is TRL's parameter: the paper's own is 1 - alpha. Above an
    exponent of 80 the score stays where it is and its gradient is 0.

    Args:
        log_ratios: u, any shape, nats.
        alpha: any finite number; 0 is the forward KL, 1 the reverse KL.

    Returns:
        Scores, the same shape.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    slope = alpha - 1.0
    if abs(slope) < ALPHA_LIMIT_WIDTH:
        return log_ratios
    return torch.expm1((slope * log_ratios).clamp(max=MAX_EXPONENT)) / slope


F_DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "reverse_kl": reverse_kl_scores,
    "forward_kl": forward_kl_scores,
    "js_divergence": js_divergence_scores,
    "alpha_divergence": alpha_divergence_scores,
}


def f_divergence_scores(f_divergence_type: str, f_alpha_divergence_coef: float = 0.5) -> ScoreFunction:
    """Pick, once, the function from log-ratios to scores.

    Args:
        f_divergence_type: a key of `F_DIVERGENCES`.
        f_alpha_divergence_coef: alpha; read by "alpha_divergence" alone.

    Returns:
        A function from log-ratios to scores of the same shape.

    Raises:
        LossSettingError: no such divergence, or an alpha that is not finite.
    """
    name = known_name("f_divergence_type", f_divergence_type, F_DIVERGENCES)
    alpha = finite_number("f_alpha_divergence_coef", f_alpha_divergence_coef)
    if name == "alpha_divergence":
        return partial(alpha_divergence_scores, alpha=alpha)
    return F_DIVERGENCES[name]


# ---- between two next-token distributions ----


def generalized_jsd(student_logps: Tensor, teacher_logps: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence of a teacher's and a student's distributions.

        m     = beta p_teacher + (1 - beta) p_student
        jsd   = beta KL(p_teacher || m) + (1 - beta) KL(p_student || m)     for 0 < beta < 1
              = KL(p_teacher || p_student)     at beta = 0, the forward KL: covers all that the teacher may say
              = KL(p_student || p_teacher)     at beta = 1, the reverse KL: keeps to what the teacher says most

    Args:
        student_logps: (..., V) nats, with gradient; a log-softmax.
        teacher_logps: (..., V) the teacher's; receives no gradient.
        beta: 0 ... 1.

    Returns:
        (...) nats, >= 0 up to rounding.

    Source: Agarwal et al. 2024 (GKD), arXiv:2306.13649, eq. 1, with its limits at 0 and 1 scaled as in TRL.
    """
    teacher_logps = teacher_logps.detach()
    if beta == 0.0:
        return _kl(teacher_logps, student_logps)
    if beta == 1.0:
        return _kl(student_logps, teacher_logps)
    mixture = torch.logaddexp(teacher_logps + math.log(beta), student_logps + math.log1p(-beta))
    return beta * _kl(teacher_logps, mixture) + (1.0 - beta) * _kl(student_logps, mixture)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities (..., V); what has no probability under `first` adds nothing."""
    terms = first.exp() * (first - second)
    return torch.where(first.isneginf(), 0.0, terms).sum(-1)

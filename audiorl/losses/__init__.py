"""Losses as pure functions of tensors; importing them loads torch and nothing of transformers."""

from audiorl.losses.advantages import (
    ADVANTAGES,
    batch_advantages,
    group_advantages,
    mean_advantages,
    rloo_advantages,
    zero_variance,
)
from audiorl.losses.anchored_losses import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    nca_pair_loss,
    sft_loss,
    sppo_hard_loss,
)
from audiorl.losses.ctc import ctc_logps, frames_needed
from audiorl.losses.divergences import F_DIVERGENCES, f_divergence_scores
from audiorl.losses.objective import CombinedObjective, LossTerm, ObjectiveTerms, resolve_losses
from audiorl.losses.odds_ratio import OddsRatioObjective, log1mexp, log_odds, log_odds_ratio, odds_ratio_loss
from audiorl.losses.pair_scores import PairScores, pair_scores
from audiorl.losses.policy import POLICY_LOSSES, PolicyMethod, PolicyObjective
from audiorl.losses.policy_batch import PolicyBatch, PolicyCounts, PolicyLoss, count_copies, policy_counts
from audiorl.losses.policy_losses import (
    PolicyTerms,
    Surrogate,
    bnpo_loss,
    cispo_loss,
    dapo_loss,
    dr_grpo_loss,
    grpo_loss,
    gspo_loss,
    k3_divergence,
    mwer_loss,
)
from audiorl.losses.preference import LOSS_PRESETS, PREFERENCE_LOSSES, PreferenceObjective
from audiorl.losses.preference_losses import (
    discopop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    robust_loss,
    sigmoid_loss,
    sigmoid_norm_loss,
)
from audiorl.losses.reductions import (
    length_desensitized_sum,
    length_mean,
    pair_mean,
    sequence_reduction,
    sequence_sum,
    token_mean,
)
from audiorl.losses.settings import LossSettingError
from audiorl.losses.supervised import supervised_loss
from audiorl.losses.transport_losses import aot_loss, aot_unpaired_loss

__all__ = [
    "ADVANTAGES",
    "F_DIVERGENCES",
    "LOSS_PRESETS",
    "POLICY_LOSSES",
    "PREFERENCE_LOSSES",
    "CombinedObjective",
    "LossSettingError",
    "LossTerm",
    "ObjectiveTerms",
    "OddsRatioObjective",
    "PairScores",
    "PolicyBatch",
    "PolicyCounts",
    "PolicyLoss",
    "PolicyMethod",
    "PolicyObjective",
    "PolicyTerms",
    "PreferenceObjective",
    "Surrogate",
    "aot_loss",
    "aot_unpaired_loss",
    "apo_down_loss",
    "apo_zero_loss",
    "batch_advantages",
    "bco_pair_loss",
    "bnpo_loss",
    "cispo_loss",
    "count_copies",
    "ctc_logps",
    "dapo_loss",
    "discopop_loss",
    "dr_grpo_loss",
    "exo_pair_loss",
    "f_divergence_scores",
    "frames_needed",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "hinge_loss",
    "ipo_loss",
    "k3_divergence",
    "length_desensitized_sum",
    "length_mean",
    "log1mexp",
    "log_odds",
    "log_odds_ratio",
    "mean_advantages",
    "mwer_loss",
    "nca_pair_loss",
    "odds_ratio_loss",
    "pair_mean",
    "pair_scores",
    "policy_counts",
    "resolve_losses",
    "rloo_advantages",
    "robust_loss",
    "sequence_reduction",
    "sequence_sum",
    "sft_loss",
    "sigmoid_loss",
    "sigmoid_norm_loss",
    "sppo_hard_loss",
    "supervised_loss",
    "token_mean",
    "zero_variance",
]

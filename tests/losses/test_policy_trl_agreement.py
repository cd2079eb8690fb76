"""Agreement with TRL: its own `GRPOTrainer._compute_loss` and ours on the same token log-probabilities.

TRL's method runs unchanged on a bag of the attributes that it reads; log-probabilities and entropies are prescribed.
Every batch is one optimizer step, cut into as many micro-batches as a test says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from audiorl.losses import POLICY_LOSSES, PolicyBatch, PolicyCounts, PolicyLoss, PolicyObjective, policy_counts
from tests.losses.policy_examples import (
    LONGEST,
    POLICY_SETTING_IDS,
    POLICY_SETTINGS,
    all_settings,
    chosen,
    loss_of,
    objective_of,
    random_batch,
)

trl_grpo = pytest.importorskip("trl.trainer.grpo_trainer")
trl_config = pytest.importorskip("trl.trainer.grpo_config")

# gspo is TRL's grpo at level "sequence"; mwer is not in TRL.
OURS_ALONE = {"mwer"}
SETTINGS = [
    (name, settings)
    for name, settings in POLICY_SETTINGS
    if name not in OURS_ALONE and not (name == "gspo" and "importance_sampling_level" in settings)
]
IDS = [i for i, case in zip(POLICY_SETTING_IDS, POLICY_SETTINGS, strict=True) if case in SETTINGS]
every_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)


class OneProcess:
    """What `_compute_loss` asks of accelerate."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, x: Tensor) -> Tensor:
        return x

    def reduce(self, x: Tensor, reduction: str) -> Tensor:
        return x


def trl_trainer(name: str, settings: dict[str, Any], micro_batches: int) -> SimpleNamespace:
    told = all_settings(name, settings)
    epsilon, high = told.get("epsilon", 0.2), told.get("epsilon_high")
    level = "sequence" if name == "gspo" else told.get("importance_sampling_level", "token")
    return SimpleNamespace(
        loss_type="grpo" if name == "gspo" else name,
        epsilon_low=epsilon,
        epsilon_high=epsilon if high is None else high,
        beta=told.get("beta", 0.0),
        importance_sampling_level=level,
        max_completion_length=LONGEST,
        entropy_coef=told.get("entropy_coef", 0.0),
        _entropy_bonus_enabled=told.get("entropy_coef", 0.0) != 0.0,
        use_adaptive_entropy=False,
        args=SimpleNamespace(
            delta=told.get("delta"),
            use_bias_correction_kl=told.get("use_bias_correction_kl", True),
            steps_per_generation=micro_batches,
        ),
        accelerator=OneProcess(),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=micro_batches,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _metrics={"train": defaultdict(list)},
    )


def trl_loss(name: str, batch: PolicyBatch, settings: dict[str, Any], whole: Tensor, micro_batches: int = 1):
    """TRL's scalar and metrics of one micro-batch; `whole` is the `keep` of the whole step."""
    flat = PolicyBatch(*(None if x is None else x.flatten(0, 1) for x in batch))
    zeros = [torch.where(flat.keep, x, 0.0) for x in (flat.logps, flat.old_logps, flat.ref_logps, flat.entropy)]
    logps, old_logps, ref_logps, entropy = zeros
    trainer = trl_trainer(name, settings, micro_batches)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, entropy, None)
    prompts = torch.ones(len(logps), 1).long()
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompts,
        "completion_ids": torch.ones(logps.shape).long(),
        "completion_mask": flat.keep.long(),
        "advantages": torch.where(flat.keep.any(-1), flat.advantages, 0.0),
        "old_per_token_logps": old_logps,
        "ref_per_token_logps": ref_logps,
        "num_items_in_batch": whole.sum(),
    }
    return trl_grpo.GRPOTrainer._compute_loss(trainer, trainer.model, inputs), trainer._metrics["train"]


def full_batch(seed: int = 0, **more: Any) -> PolicyBatch:
    """Every hypothesis counts: one that is masked still counts in TRL's grpo and dr_grpo, and in ours it does not."""
    batch = random_batch(seed, padding=0.0, **more)
    keep = batch.keep.clone()
    keep[..., 0] = True
    return batch._replace(keep=keep)


@every_setting
def test_every_loss_agrees_with_trl_in_value_and_gradient(name, settings):
    for seed in range(3):
        batch = full_batch(seed, spread=0.5)
        theirs, _ = trl_loss(name, batch, settings, batch.keep)
        ours = loss_of(name, batch, settings).loss
        torch.testing.assert_close(ours, theirs)
        leaves = [batch.logps, batch.entropy] if settings.get("entropy_coef") else [batch.logps]
        their_gradients, our_gradients = (torch.autograd.grad(loss, leaves) for loss in (theirs, ours))
        assert their_gradients[0].abs().max() > 0
        torch.testing.assert_close(our_gradients, their_gradients)


def micro_batches(name: str, cuts: list[slice]) -> tuple[Tensor, Tensor]:
    """(TRL's, our) sum over micro-batches of one optimizer step of 4 clips."""
    batch = full_batch(1, clips=4)
    parts = [chosen(batch, cut) for cut in cuts]
    counts = PolicyCounts(*(sum(fields) for fields in zip(*(policy_counts(p.keep) for p in parts), strict=True)))
    theirs = sum(trl_loss(name, part, {}, batch.keep, len(parts))[0] for part in parts)
    return theirs, sum(objective_of(name)(part, counts).loss for part in parts)


@pytest.mark.parametrize("name", sorted(POLICY_LOSSES.keys() - OURS_ALONE - {"bnpo"}))
def test_accumulation_over_equal_micro_batches_agrees_with_trl(name):
    theirs, ours = micro_batches(name, [slice(0, 2), slice(2, 4)])
    torch.testing.assert_close(ours, theirs)


def test_the_deviation_in_bnpo_is_the_one_its_docstring_tells():
    """TRL's is a mean of means over micro-batches; ours is the token mean of the step, TRL's dapo."""
    theirs, ours = micro_batches("bnpo", [slice(0, 2), slice(2, 4)])
    assert not torch.isclose(ours, theirs, rtol=1e-3)
    torch.testing.assert_close(ours, micro_batches("dapo", [slice(0, 2), slice(2, 4)])[0])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_the_deviation_of_masked_hypotheses_is_the_count_of_hypotheses(name):
    """Hypothesis 1 of 12 is masked and five more count nowhere: TRL divides by 12, we by those that count."""
    batch = random_batch(padding=0.0)
    listed = batch.keep.any(-1).sum()
    assert listed < 12
    torch.testing.assert_close(loss_of(name, batch).loss * listed / 12, trl_loss(name, batch, {}, batch.keep)[0])


@pytest.mark.parametrize("name", sorted(POLICY_LOSSES.keys() - OURS_ALONE - {"grpo", "dr_grpo", "gspo"}))
def test_masked_hypotheses_agree_with_trl_where_tokens_are_counted(name):
    batch = random_batch(padding=0.0)
    torch.testing.assert_close(loss_of(name, batch).loss, trl_loss(name, batch, {}, batch.keep)[0])


def shares(out: PolicyLoss, keep: Tensor, level: str) -> dict[str, float]:
    """TRL's means: over tokens, or over hypotheses where they have one ratio."""
    low, high = (x[..., 0] if level == "sequence" else x[keep] for x in (out.clipped_low, out.clipped_high))
    return {
        "clip_ratio/low_mean": low.double().mean().item(),
        "clip_ratio/high_mean": high.double().mean().item(),
        "clip_ratio/region_mean": (low | high).double().mean().item(),
        "cispo_clip_ratio": high.double().mean().item(),
    }


@every_setting
def test_what_a_log_shows_agrees_with_the_metrics_of_trl(name, settings):
    batch = full_batch(2, spread=0.5)
    out, level = loss_of(name, batch, settings), objective_of(name, **settings).level
    _, metrics = trl_loss(name, batch, settings, batch.keep)
    ours = shares(out, batch.keep, level)
    if out.kl is not None:
        ours["kl"] = out.kl[batch.keep].mean().item()
    compared = metrics.keys() & ours.keys()
    assert compared >= {"cispo_clip_ratio" if name == "cispo" else "clip_ratio/region_mean"}
    assert ("kl" in compared) == ("beta" in settings)
    for metric in compared:
        assert metrics[metric] == [pytest.approx(ours[metric], rel=1e-6)], metric


def test_the_names_of_the_losses_are_those_of_trl_where_trl_has_them():
    theirs = set(re.findall(r"'(\w+)'", trl_config.GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"]))
    assert set(POLICY_LOSSES) - OURS_ALONE - {"gspo"} <= theirs
    assert theirs - set(POLICY_LOSSES) - {"importance_sampling_level", "sequence"} >= {"sapo", "luspo", "vespo"}


def test_defaults_are_those_of_trl():
    defaults = {"loss_type": "dapo", **PolicyObjective.__init__.__kwdefaults__}
    assert PolicyObjective.__init__.__defaults__ == (defaults["loss_type"],)
    fields = trl_config.GRPOConfig.__dataclass_fields__
    del defaults["max_completion_length"]  # TRL says 512; trainers pass their own limit
    assert not defaults.pop("loss_settings")  # ours alone: settings of a loss of one's own
    assert defaults == {name: fields[name].default for name in defaults}

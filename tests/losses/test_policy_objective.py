"""What a policy objective refuses when it is built, what it refuses when it is called, and what it tells a trainer."""

from __future__ import annotations

import pytest
import torch

from audiorl.losses import (
    POLICY_LOSSES,
    LossSettingError,
    PolicyMethod,
    PolicyObjective,
    policy_counts,
    policy_losses,
)
from audiorl.losses.policy_losses import PolicyTerms, Surrogate
from tests.losses.policy_examples import LONGEST, gradients_of, loss_of, objective_of, random_batch

INF, NAN = float("inf"), float("nan")
REFUSED = [
    ({"loss_type": "mwre"}, r"loss_type 'mwre' does not exist\. Did you mean 'mwer'\? Choose from: .*mwer"),
    ({"loss_type": ["grpo"]}, r"loss_type \['grpo'\] does not exist"),
    ({"epsilon": 0.0}, r"epsilon has to be above 0; got 0\.0"),
    ({"epsilon": -0.2}, r"epsilon has to be above 0"),
    ({"epsilon": NAN}, r"epsilon has to be a finite number"),
    ({"epsilon": "0.2"}, r"epsilon has to be a finite number; got '0\.2'"),
    ({"epsilon_high": 0.0}, r"epsilon_high has to be above 0"),
    ({"epsilon_high": INF}, r"epsilon_high has to be a finite number"),
    ({"delta": 1.2}, r"delta > 1 \+ epsilon_high = 1\.2; got 1\.2\. 4 is usual"),
    ({"delta": 1.25, "epsilon_high": 0.28}, r"delta > 1 \+ epsilon_high = 1\.28; got 1\.25"),
    ({"delta": NAN}, r"delta has to be a finite number"),
    ({"beta": -0.1}, r"beta has to be 0 or more; got -0\.1\. Set beta to 0 or above"),
    ({"beta": INF}, r"beta has to be a finite number"),
    ({"entropy_coef": -1e-3}, r"entropy_coef has to be 0 or more"),
    ({"entropy_coef": True}, r"entropy_coef has to be a finite number; got True"),
    ({"importance_sampling_level": "word"}, r"importance_sampling_level 'word' does not exist.*sequence, token"),
    ({"loss_type": "mwer", "importance_sampling_level": "sequence"}, r"would change nothing: mwer uses no ratio"),
    ({"loss_type": "mwer", "delta": 4.0}, r"delta=4\.0 would change nothing: mwer does not read it.*grpo, bnpo"),
    ({"loss_type": "mwer", "epsilon_high": 0.3}, r"epsilon_high=0\.3 would change nothing.*cispo"),
    ({"loss_type": "cispo"}, r"cispo caps the ratio at epsilon_high itself.*got None\. Set epsilon_high=5\.0"),
    ({"loss_type": "cispo", "epsilon_high": 0.28}, r"epsilon_high has to be 1 or more; got 0\.28"),
    ({"loss_type": "cispo", "epsilon_high": 5.0, "delta": 4.0}, r"delta=4\.0 would change nothing: cispo"),
    ({"loss_type": "dr_grpo"}, r"dr_grpo divides by max_completion_length; got None\. Set it"),
    ({"loss_type": "dr_grpo", "max_completion_length": 0}, r"max_completion_length has to be 1 or more; got 0"),
    ({"use_bias_correction_kl": "yes"}, r"use_bias_correction_kl is True or False; got 'yes'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_fault_is_refused_when_built_with_what_where_and_what_instead(arguments, message):
    with pytest.raises(LossSettingError, match=message) as caught:
        PolicyObjective(**arguments)
    assert str(caught.value).count(". ") >= 1


@pytest.mark.parametrize(
    ("settings", "missing", "message"),
    [
        ({"beta": 0.1}, "ref_logps", r"ref_logps is None.*or set beta=0"),
        ({"entropy_coef": 0.1}, "entropy", r"entropy is None.*or set entropy_coef=0"),
        ({"loss_type": "mwer"}, "copies", r"copies is None.*Pass count_copies"),
    ],
)
def test_a_batch_without_what_the_objective_reads_is_refused(settings, missing, message):
    batch = random_batch()
    with pytest.raises(ValueError, match=message):
        PolicyObjective(**settings)(batch._replace(**{missing: None}), policy_counts(batch.keep))


def test_an_entropy_without_graph_is_refused_since_its_bonus_would_do_nothing():
    batch, objective = random_batch(), objective_of("dapo", entropy_coef=0.1)
    without = batch._replace(entropy=batch.entropy.detach())
    with pytest.raises(ValueError, match=r"has no graph.*or set entropy_coef=0"):
        objective(without, policy_counts(batch.keep))
    evaluated = without._replace(logps=batch.logps.detach())
    expected = objective(batch, policy_counts(batch.keep)).loss.detach()
    assert torch.equal(objective(evaluated, policy_counts(batch.keep)).loss, expected)


@pytest.mark.parametrize("name", ["logps", "old_logps", "ref_logps", "entropy", "advantages", "copies"])
def test_a_tensor_of_another_shape_is_refused(name):
    batch = random_batch()
    turned = batch._replace(**{name: getattr(batch, name).transpose(0, 1)})
    objective = objective_of("mwer", beta=0.1, entropy_coef=0.1)
    with pytest.raises(ValueError, match=rf"keep is \(3, 4, 6\).*'{name}': \(4, 3"):
        objective(turned, policy_counts(batch.keep))


def test_advantages_of_tokens_are_refused_since_a_hypothesis_has_one():
    batch = random_batch()
    with pytest.raises(ValueError, match="'advantages'"):
        loss_of("grpo", batch._replace(advantages=batch.logps.detach()))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("grpo", {}, (False, False, False, False, True, "token")),
        ("dr_grpo", {}, (True, False, False, False, True, "token")),
        ("gspo", {}, (True, False, False, False, True, "sequence")),
        ("mwer", {}, (False, False, False, True, False, "token")),
        ("cispo", {"beta": 0.1}, (False, True, False, False, True, "token")),
        ("dapo", {"entropy_coef": 0.1}, (False, False, True, False, True, "token")),
        ("bnpo", {"importance_sampling_level": "sequence"}, (True, False, False, False, True, "sequence")),
    ],
)
def test_an_objective_tells_what_it_needs(name, settings, told):
    objective = objective_of(name, **settings)
    flags = (objective.needs_tokens, objective.uses_reference, objective.uses_entropy, objective.needs_copies)
    assert (*flags, objective.uses_ratio, objective.level) == told


def test_settings_of_a_loss_reach_its_function():
    """dr_grpo is in inverse proportion to the length; epsilon_high defaults to epsilon."""
    batch = random_batch()
    long, short = (gradients_of("dr_grpo", batch, {"max_completion_length": n})[0] for n in (4 * LONGEST, LONGEST))
    torch.testing.assert_close(4 * long, short)
    for epsilon in (0.05, 0.4):
        narrow, same = {"epsilon": epsilon}, {"epsilon": epsilon, "epsilon_high": epsilon}
        torch.testing.assert_close(gradients_of("dapo", batch, narrow), gradients_of("dapo", batch, same))


def test_max_completion_length_may_stand_where_it_is_not_read():
    """A trainer hands it to whatever loss it was asked for."""
    batch = random_batch()
    assert torch.equal(loss_of("dapo", batch, {"max_completion_length": 99}).loss, loss_of("dapo", batch).loss)


def test_a_loss_of_ones_own_joins_by_its_name(monkeypatch):
    def hinge_loss(terms: PolicyTerms, *, epsilon: float) -> Surrogate:
        loss = torch.relu(1 + epsilon - terms.ratio * terms.advantages)
        never = torch.zeros_like(loss, dtype=torch.bool)
        return Surrogate(loss, never, never)

    monkeypatch.setitem(POLICY_LOSSES, "hinge", PolicyMethod(hinge_loss, "tokens"))
    batch = random_batch(padding=0.0)
    ratio = (batch.logps - batch.old_logps).exp()
    expected = torch.relu(1.1 - ratio * batch.advantages[..., None])[batch.keep].mean()
    torch.testing.assert_close(PolicyObjective("hinge", epsilon=0.1)(batch, policy_counts(batch.keep)).loss, expected)


@pytest.mark.parametrize("settings", ["epsilon, margin", "margin", "delta"])
def test_a_setting_of_a_loss_of_ones_own_has_to_come_from_somewhere(monkeypatch, settings):
    scope = {}
    exec(f"def mine(terms, *, {settings}): return None", scope)
    monkeypatch.setitem(POLICY_LOSSES, "mine", PolicyMethod(scope["mine"], "tokens"))
    missing = settings.split(", ")[-1]
    with pytest.raises(LossSettingError, match=rf"loss_type 'mine' wants {missing}, which nothing sets: .*--loss"):
        PolicyObjective("mine")


def test_each_loss_has_a_source_and_the_clipped_ones_one_function():
    clipped = {name for name, method in POLICY_LOSSES.items() if method.function is policy_losses.clipped_loss}
    assert clipped == {"grpo", "bnpo", "dr_grpo", "dapo", "gspo"}
    for name, method in POLICY_LOSSES.items():
        assert "Source:" in method.function.__doc__ and getattr(policy_losses, f"{name}_loss") is method.function
        # what the docs say of the five tells them apart
        assert bool(method.summary and method.source) == (name in clipped)
    assert len({POLICY_LOSSES[name].summary for name in clipped}) == len(clipped)
    assert policy_losses.POLICY_LOSSES is POLICY_LOSSES

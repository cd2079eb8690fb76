"""Objectives: how terms add up, how batches split, and what is refused when an objective is built."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch

from audiorl.losses import (
    LOSS_PRESETS,
    PREFERENCE_LOSSES,
    CombinedObjective,
    LossSettingError,
    PairScores,
    PreferenceObjective,
    pair_scores,
    sequence_reduction,
)
from tests.losses.pair_examples import random_pairs

MIXES = [
    *(([name], [1.0]) for name, loss in PREFERENCE_LOSSES.items() if not loss.batch_wide),
    LOSS_PRESETS["mpo"],
    (["ipo", "sft"], [0.3, 2.0]),
]


def build(names: list[str], weights: list[float]) -> CombinedObjective:
    return CombinedObjective(names, weights, label_smoothing=1e-3 if "exo_pair" in names else 0.0)


@pytest.mark.parametrize(("names", "weights"), MIXES, ids=lambda value: "+".join(map(str, value)))
def test_parts_with_the_global_counts_add_up_to_the_whole_batch(names, weights):
    objective, pairs = build(names, weights), random_pairs(num_pairs=7)
    whole = objective(pairs).total()
    (expected_gradient,) = torch.autograd.grad(whole, pairs.logps)
    num_tokens = pairs.lengths[:, 0].sum()
    parts = [objective(pairs.select(torch.arange(7)[part])) for part in (slice(0, 2), slice(2, 3), slice(3, 7))]
    summed = sum(part.total(num_pairs=7, num_tokens=num_tokens) for part in parts)
    (gradient,) = torch.autograd.grad(summed, pairs.logps)
    torch.testing.assert_close(summed, whole)
    torch.testing.assert_close(gradient, expected_gradient)
    mean_of_means = sum(part.total() for part in parts) / 3
    assert not torch.allclose(mean_of_means, whole)


def test_total_is_the_weighted_sum_of_means_over_pairs_and_tokens():
    """sft is divided by the 3 + 5 chosen tokens, the others by the 2 pairs."""
    logps = torch.tensor([[-6.0, -9.0], [-10.0, -9.0]])
    pairs = PairScores(logps, torch.zeros(2, 2) - 8.0, torch.tensor([[3, 4], [5, 4]]))
    terms = CombinedObjective(["sigmoid", "hinge", "sft"], [0.5, 2.0, 3.0], beta=0.1)(pairs)
    sigmoid = (0.5543552 + 0.7443967) / 2  # log(1 + e^-0.3), log(1 + e^0.1)
    hinge = (0.7 + 1.1) / 2
    sft = (6.0 + 10.0) / 8
    assert terms.total().item() == pytest.approx(0.5 * sigmoid + 2 * hinge + 3 * sft, abs=1e-6)
    means = {term.name: term.mean(2, 8).item() for term in terms.terms}
    assert means == pytest.approx({"sigmoid": sigmoid, "hinge": hinge, "sft": sft}, abs=1e-6)
    assert terms.margin.tolist() == [3.0, -1.0]
    assert not terms.margin.requires_grad


def test_a_weight_of_zero_is_logged_and_takes_no_part_in_training():
    pairs = random_pairs()
    terms = CombinedObjective(["sigmoid", "sppo_hard"], [1.0, 0.0])(pairs)
    (gradient,) = torch.autograd.grad(terms.total(), pairs.logps)
    alone = CombinedObjective("sigmoid")(pairs).total()
    torch.testing.assert_close(gradient, torch.autograd.grad(alone, pairs.logps)[0])
    torch.testing.assert_close(terms.total(), alone)
    assert terms.terms[1].name == "sppo_hard" and (terms.terms[1].loss > 0).all()


def test_mpo_is_the_preset_of_the_paper():
    assert CombinedObjective("mpo").loss_types == ("sigmoid", "bco_pair", "sft")
    assert CombinedObjective(["mpo"]).loss_weights == (0.8, 0.2, 1.0)
    assert CombinedObjective("mpo", [1, 0, 2]).loss_weights == (1.0, 0.0, 2.0)
    pairs = random_pairs()
    spelt_out = CombinedObjective(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0])
    torch.testing.assert_close(CombinedObjective("mpo")(pairs).total(), spelt_out(pairs).total())


def test_sft_is_the_plain_likelihood_even_under_ld_alpha():
    token_logps, keep = -torch.rand(3, 2, 6), torch.ones(3, 2, 6, dtype=torch.bool)
    keep[:, 1, 2:] = False
    pairs = pair_scores(token_logps, keep, torch.zeros(3, 2), sum_tokens=sequence_reduction(0.0))
    torch.testing.assert_close(CombinedObjective("sft")(pairs).total(), -token_logps[:, 0].mean())


@pytest.mark.parametrize(
    ("loss_type", "batch_wide", "uses_reference"),
    [
        ("sft", False, False),
        ("aot", True, True),
        (["sigmoid", "aot_unpaired"], True, True),
        ("mpo", False, True),
    ],
)
def test_an_objective_tells_what_it_needs(loss_type, batch_wide, uses_reference):
    objective = CombinedObjective(loss_type)
    assert (objective.batch_wide, objective.uses_reference) == (batch_wide, uses_reference)


def test_a_loss_of_ones_own_joins_by_its_name(monkeypatch):
    def cubic_loss(pairs: PairScores, *, beta: float, power: int = 3) -> torch.Tensor:
        return (1 - beta * pairs.margin) ** power

    monkeypatch.setitem(PREFERENCE_LOSSES, "cubic", PreferenceObjective(cubic_loss))
    pairs = random_pairs()
    total = CombinedObjective("cubic", beta=0.5)(pairs).total()
    torch.testing.assert_close(total, ((1 - 0.5 * pairs.margin) ** 3).mean())


REFUSED = [
    ({"loss_type": "sigmod"}, r"'sigmod' does not exist\. Did you mean 'sigmoid'\? Choose from: .*sppo_hard"),
    ({"loss_type": "zzz"}, r"'zzz' does not exist\. Choose from: .*mpo"),
    ({"loss_type": []}, r"at least one loss.*got \[\]"),
    ({"loss_type": [None]}, r"None does not exist"),
    ({"loss_type": ["sft", "sft"]}, r"each named once.*sum of its weights"),
    ({"loss_type": ["mpo", "hinge"]}, r"'mpo' is a preset.*loss_weights=\[0\.8, 0\.2, 1\.0\]"),
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, r"got 1 for \['sigmoid', 'sft'\]\. Give 2"),
    ({"loss_type": "mpo", "loss_weights": [1.0]}, r"got 1 for .*Give 3"),
    (
        {"loss_type": "sigmoid", "loss_weights": [float("nan")]},
        r"loss_weights\[0\] has to be a finite number",
    ),
    ({"loss_type": "sigmoid", "loss_weights": [-1.0]}, r"loss_weights are >= 0.*swap chosen and rejected"),
    ({"loss_type": ["hinge", "sft"], "loss_weights": [0, 0]}, r"not all 0"),
    ({"loss_type": "sigmoid", "beta": 0}, r"beta has to be above 0; got 0"),
    ({"loss_type": "sigmoid", "beta": -0.1}, r"beta has to be above 0"),
    ({"loss_type": "sigmoid", "beta": float("inf")}, r"beta has to be a finite number"),
    ({"loss_type": "sigmoid", "beta": "0.1"}, r"beta has to be a finite number; got '0\.1'"),
    ({"loss_type": "discopop", "discopop_tau": 0.0}, r"discopop_tau has to be above 0"),
    ({"loss_type": "robust", "label_smoothing": 0.5}, r"label_smoothing < 0\.5; got 0\.5\. If most pairs"),
    ({"loss_type": "robust", "label_smoothing": -0.1}, r"0 <= label_smoothing"),
    ({"loss_type": "robust", "label_smoothing": float("nan")}, r"label_smoothing has to be a finite number"),
    ({"loss_type": "exo_pair"}, r"exo_pair is infinite at label_smoothing=0\. Set it to 1e-3"),
    ({"loss_type": ["sft", "exo_pair"]}, r"exo_pair is infinite"),
    (
        {"loss_type": "sigmoid", "label_smoothing": 0.1},
        r"change nothing.*choose from: robust, exo_pair, aot",
    ),
    ({"loss_type": "sigmoid", "f_divergence_type": "kl"}, r"f_divergence_type 'kl' does not exist"),
    (
        {"loss_type": "mpo", "f_divergence_type": "forward_kl"},
        r"bco_pair does not use that difference.*reverse_kl",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_fault_is_refused_when_built_with_what_where_and_what_instead(arguments, message):
    with pytest.raises(LossSettingError, match=message) as caught:
        CombinedObjective(**arguments)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).count(". ") >= 1


@pytest.mark.parametrize("default", [False, True])
def test_a_setting_of_a_loss_of_ones_own_has_to_come_from_somewhere(monkeypatch, default):
    def without(pairs, *, beta, gamma):
        return -beta * gamma * pairs.margin

    def with_default(pairs, *, beta, gamma=0.5):
        return without(pairs, beta=beta, gamma=gamma)

    monkeypatch.setitem(PREFERENCE_LOSSES, "mine", PreferenceObjective(with_default if default else without))
    if default:
        pairs = random_pairs()
        torch.testing.assert_close(CombinedObjective("mine")(pairs).total(), -0.05 * pairs.margin.mean())
        return
    with pytest.raises(LossSettingError, match=r"loss_type 'mine' wants gamma, which nothing sets: .*beta.*--loss"):
        CombinedObjective(["sigmoid", "mine"])
    bound = functools.partial(without, gamma=2.0)
    monkeypatch.setitem(PREFERENCE_LOSSES, "mine", PreferenceObjective(bound))
    CombinedObjective("mine")(random_pairs())


def test_label_smoothing_acts_on_the_losses_that_read_it_and_leaves_the_others_alone():
    pairs = random_pairs()
    sigmoid, robust = CombinedObjective(["sigmoid", "robust"], label_smoothing=0.2)(pairs).terms
    torch.testing.assert_close(sigmoid.loss, CombinedObjective("sigmoid")(pairs).terms[0].loss)
    assert not torch.isclose(robust.loss, sigmoid.loss).any()


def test_importing_the_losses_loads_torch_and_nothing_of_transformers():
    code = (
        "import sys, audiorl.losses; assert 'torch' in sys.modules; "
        "heavy = ('transformers', 'trl', 'accelerate', 'datasets'); "
        "print([name for name in sys.modules if name.split('.')[0] in heavy])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"

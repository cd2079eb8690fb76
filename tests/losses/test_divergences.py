"""Scores of the f-divergences against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from audiorl.losses import F_DIVERGENCES, LossSettingError, f_divergence_scores
from tests.losses.pair_examples import DIVERGENCES
from tests.oracles import divergence_score

LOG_RATIOS = [-25.0, -3.0, -0.5, -1e-4, 0.0, 1e-4, 0.5, 3.0, 25.0]
# Generators f whose derivative at t = exp(u), less a constant, is the score.
GENERATORS = {
    "reverse_kl": lambda t: t * math.log(t),
    "forward_kl": lambda t: -math.log(t),
    "js_divergence": lambda t: t * math.log(t) - (t + 1) * math.log((t + 1) / 2),
    "alpha_divergence": lambda t: (t**0.5 - 0.5 * t - 0.5) / (0.5 * (0.5 - 1)),
}


def scores(log_ratios: list[float], settings: dict) -> torch.Tensor:
    return f_divergence_scores(**settings)(torch.tensor(log_ratios, dtype=torch.float64))


@pytest.mark.parametrize("settings", DIVERGENCES, ids=lambda d: "-".join(map(str, d.values())))
def test_scores_equal_the_definition(settings):
    alpha = settings.get("f_alpha_divergence_coef", 0.5)
    expected = [divergence_score(settings["f_divergence_type"], u, alpha) for u in LOG_RATIOS]
    assert scores(LOG_RATIOS, settings).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(F_DIVERGENCES))
def test_score_differences_are_slopes_of_the_papers_generator(name):
    """f'(t) by central differences of f, between t = 2 and t = 1/3, for alpha = 1/2."""
    step = 1e-6

    def slope(t: float) -> float:
        return (GENERATORS[name](t + step) - GENERATORS[name](t - step)) / (2 * step)

    high, low = scores([math.log(2.0), math.log(1 / 3)], {"f_divergence_type": name}).tolist()
    assert high - low == pytest.approx(slope(2.0) - slope(1 / 3), rel=1e-6)


@pytest.mark.parametrize("settings", DIVERGENCES, ids=lambda d: "-".join(map(str, d.values())))
def test_scores_never_fall_as_the_log_ratio_rises(settings):
    rising = scores([u / 2 for u in range(-600, 601)], settings)
    assert (rising.diff() >= 0).all()
    # Float64 has room for every difference near zero: a flat function would pass the line above.
    assert (scores([u / 100 for u in range(-500, 501)], settings).diff() > 0).all()


def test_alpha_near_one_is_continuous_with_the_reverse_kl():
    for alpha in (1 - 1e-4, 1 + 1e-4, 1 + 1e-7):
        settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha}
        assert scores([-3.0, 2.0], settings).tolist() == pytest.approx([-3.0, 2.0], rel=1e-3)


def test_alpha_zero_is_the_forward_kl():
    alpha = scores(LOG_RATIOS, {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0})
    torch.testing.assert_close(alpha, scores(LOG_RATIOS, {"f_divergence_type": "forward_kl"}))


def test_a_misspelt_divergence_names_the_nearest_one():
    with pytest.raises(LossSettingError, match=r"'foward_kl'.*Did you mean 'forward_kl'\?.*js_divergence"):
        f_divergence_scores("foward_kl")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "0.5", None, True])
def test_an_alpha_that_is_no_finite_number_is_refused(alpha):
    with pytest.raises(LossSettingError, match="f_alpha_divergence_coef has to be a finite number"):
        f_divergence_scores("alpha_divergence", alpha)

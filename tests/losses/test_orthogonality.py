"""AdaLoRA's orthogonality term against loops, by hand, and against PEFT's own."""

from __future__ import annotations

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model

from audiorl.losses.added_terms import orthogonality
from tests.oracles_adapters import orthogonality_by_loops
from tests.tiny_models import tiny_whisper


def some_factors() -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in ((3, 5), (2, 7), (3, 5), (1, 4))]


def test_it_equals_loops_over_entries():
    factors = some_factors()
    assert orthogonality(factors).item() == pytest.approx(orthogonality_by_loops([f.tolist() for f in factors]))


def test_worked_values():
    """Orthonormal rows cost nothing; rows (2, 0), (0, 1): ||diag(3, 0)|| = 3; the mean of both is 1.5."""
    square = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert orthogonality([square[:2]]).item() == pytest.approx(0, abs=1e-12)
    stretched = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert orthogonality([stretched]).item() == pytest.approx(3)
    assert orthogonality([stretched, torch.eye(2, dtype=torch.float64)]).item() == pytest.approx(1.5)
    assert orthogonality([]).item() == 0


def test_gradients_are_right_and_finite_where_the_norm_is_zero():
    factors = [factor.requires_grad_() for factor in some_factors()]
    assert torch.autograd.gradcheck(lambda *given: orthogonality(given), factors)
    flat = torch.eye(3, 4).requires_grad_()
    orthogonality([flat]).backward()
    assert torch.equal(flat.grad, torch.zeros(3, 4))


def test_half_precision_factors_are_measured_in_float32():
    factors = [factor.to(torch.bfloat16) for factor in some_factors()]
    found = orthogonality(factors)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(orthogonality_by_loops([f.double().tolist() for f in factors]), rel=1e-5)


def test_it_is_what_peft_adds_to_a_loss_of_its_own():
    model, _ = tiny_whisper()
    config = AdaLoraConfig(init_r=4, target_r=2, target_modules=["q_proj", "fc1"], total_step=10, orth_reg_weight=0.7)
    adapted = get_peft_model(model, config)
    inputs = {"input_features": torch.randn(1, 80, 100), "labels": torch.tensor([[7, 5, 6]])}
    # AdaLoraModel adds it, which a PeftModel without a task type passes by
    with_term = adapted.base_model(**inputs).loss
    config.orth_reg_weight = 0.0
    without = adapted.base_model(**inputs).loss
    named = dict(adapted.named_parameters())
    factors = [p for name, p in named.items() if ".lora_A." in name]
    factors += [p.mT for name, p in named.items() if ".lora_B." in name]
    assert (with_term - without).item() == pytest.approx(0.7 * orthogonality(factors).item(), rel=1e-4)

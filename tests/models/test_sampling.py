"""Samplers against float64 loops and by hand; draws across blocks of the vocabulary; engines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from audiorl.batch import GroupBatch
from audiorl.models import grouped_attention, speech_family
from audiorl.models.sampling import BLOCK, Sampler, draw, prefix_lengths
from audiorl.testing.case import group_batch
from tests.oracles_decoding import sampler_logits
from tests.tiny_models import tiny_clips, tiny_whisper

CONTROLS = [
    {"top_k": 4},
    {"top_k": 100},
    {"top_p": 0.7},
    {"top_p": 0.01},
    {"min_p": 0.2},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"top_k": 6, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("control", CONTROLS, ids=str)
@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_sampler_equals_a_loop_over_tokens(control, length):
    logits = 2 * torch.randn(5, 12, dtype=torch.float64)
    drawn = torch.randint(0, 4, (5, length))  # few different ones, so that they repeat
    found = Sampler(**control)(drawn, logits.clone())
    for row, now, before in zip(found, logits.tolist(), drawn.tolist(), strict=True):
        np.testing.assert_allclose(row.numpy(), sampler_logits(now, before, **control), rtol=1e-12)


def test_sampler_by_hand():
    """Probabilities 0.5, 0.3, 0.15, 0.05: top-p 0.7 keeps two, min-p 0.25 keeps those of at least 0.125."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    nothing = torch.zeros((1, 0), dtype=torch.long)
    kept = {
        name: Sampler(**{name: value})(nothing, logits.clone())
        for name, value in (("top_k", 3), ("top_p", 0.7), ("min_p", 0.25))
    }
    assert {name: torch.isfinite(row).sum().item() for name, row in kept.items()} == {
        "top_k": 3,
        "top_p": 2,
        "min_p": 3,
    }
    again = Sampler(no_repeat_ngram_size=2)(torch.tensor([[1, 2, 3, 1]]), logits.clone())
    assert again[0].isinf().tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
        {"no_repeat_ngram_size": -2},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=rf"Sampler: {name}=.* out of its range\. Use a value"):
        Sampler(**wrong)


@pytest.mark.parametrize("vocabulary", [3, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_draws_from_what_is_no_number_stay_in_the_vocabulary_and_are_nan(vocabulary, value):
    logits = torch.randn(2, 3, vocabulary)
    logits[0, :, -1] = value
    token, logps = draw(logits, torch.full((2, 3), 0.99))
    assert (token < vocabulary).all() and (token >= 0).all()
    assert logps[0].isnan().all() and logps[1].isfinite().all()


@pytest.mark.parametrize("vocabulary", [BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 1000])
def test_draws_equal_a_search_in_the_whole_cumulative_distribution(vocabulary):
    """Some tokens impossible, whole blocks among them; the logits are left as they are."""
    logits = 3 * torch.randn(1, 1, vocabulary, dtype=torch.float64)
    logits[..., torch.rand(vocabulary) < 0.2] = -torch.inf
    logits[..., 300:700] = -torch.inf
    before = logits.clone()
    uniform = torch.rand(1, 400, dtype=torch.float64)
    token, logps = draw(logits.expand(1, 400, -1), uniform)
    assert torch.equal(logits, before)
    probabilities = logits[0, 0].softmax(-1).numpy()
    expected = np.searchsorted(np.cumsum(probabilities), uniform[0].numpy(), side="right")
    assert token[0].tolist() == expected.tolist()
    np.testing.assert_allclose(logps[0].numpy(), np.log(probabilities[expected]), rtol=1e-12)


def test_a_step_that_is_recorded_may_be_run_several_times(monkeypatch):
    """What a CUDA graph does to the step, without CUDA: warm-ups, tokens at a fixed address, an output that is
    overwritten."""

    class Repeated:
        def __init__(self, step, tokens: Tensor):
            self.step, self.tokens = step, tokens.clone()
            self.logits = step(self.tokens)
            step(self.tokens)

        def __call__(self, tokens: Tensor) -> Tensor:
            self.tokens.copy_(tokens)
            return self.logits.copy_(self.step(self.tokens))

    model, processor = tiny_whisper("english")
    family = speech_family(model, processor)
    batch = group_batch(family, tiny_clips(2), [["a fox"], ["dog"]])
    noise = torch.rand(2, 3, 9, dtype=torch.float64)
    expected = family.sample_groups(model, batch, noise)
    beams = family.beam_groups(model, batch, 3, max_tokens=9)
    monkeypatch.setattr(grouped_attention, "CapturedStep", Repeated)
    monkeypatch.setattr(grouped_attention, "refuse_capture", lambda device: None)
    family.set_engine("captured")
    found = family.sample_groups(model, batch, noise)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logps, expected.logps, rtol=1e-5, atol=1e-5)
    assert torch.equal(family.beam_groups(model, batch, 3, max_tokens=9).tokens, beams.tokens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
@pytest.mark.parametrize("engine", ["static", "captured"])
def test_engines_agree_on_cuda(engine):
    model, processor = tiny_whisper("english")
    family = speech_family(model.cuda(), processor)
    batch = group_batch(family, tiny_clips(2), [["a fox"], ["dog"]])
    batch = batch.replace(**{key: value.cuda() for key, value in batch.items()})
    noise = torch.rand(2, 3, 9, dtype=torch.float64).cuda()
    expected = family.sample_groups(model, batch, noise)
    beams = family.beam_groups(model, batch, 3, max_tokens=9)
    family.set_engine(engine)
    assert torch.equal(family.sample_groups(model, batch, noise).tokens, expected.tokens)
    assert torch.equal(family.beam_groups(model, batch, 3, max_tokens=9).tokens, beams.tokens)


def test_a_placeholder_has_the_shortest_prefix_of_the_others():
    keep = torch.zeros(3, 1, 6, dtype=torch.bool)
    keep[1, 0, 3:], keep[2, 0, 4:] = True, True
    batch = GroupBatch(
        input_values=torch.zeros(3, 1), tokens=torch.zeros(3, 1, 7), keep=keep, row_ids=torch.tensor([-1, 0, 1])
    )
    assert prefix_lengths(batch).tolist() == [4, 4, 5]
    assert prefix_lengths(batch.without(torch.tensor([True, True, True]))).tolist() == [1, 1, 1]

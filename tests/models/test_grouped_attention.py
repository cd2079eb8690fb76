"""Grouped attention against a float64 loop over hypotheses and positions, and against stock SDPA where it delegates."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import MoonshineConfig, MoonshineForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from audiorl.models.grouped_attention import (
    GROUPED_ATTENTION,
    GroupedCacheLayer,
    grouped_attention_forward,
    ignored_mask,
    use_grouped_attention,
)
from tests.tiny_models import tiny_whisper

CLIPS, HEADS, HYPOTHESES, LENGTH, WIDTH = 2, 4, 3, 5, 6
SCALING = 0.3


class Attention(nn.Module):
    def __init__(self, is_causal: bool = True, num_key_value_groups: int = 1):
        super().__init__()
        self.is_causal = is_causal
        self.num_key_value_groups = num_key_value_groups


def random_heads(heads: int, seed: int, length: int = LENGTH) -> torch.Tensor:
    """(B, H, K*T, d) float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CLIPS, heads, HYPOTHESES * length, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def attention_by_loops(query: np.ndarray, key: np.ndarray, value: np.ndarray, sharing: int) -> np.ndarray:
    """(B, K*T, H, d): each position of each hypothesis looks at itself and at what its own hypothesis said before."""
    out = np.zeros((CLIPS, HYPOTHESES * LENGTH, HEADS, WIDTH))
    for b in range(CLIPS):
        for h in range(HEADS):
            keys, values = key[b, h // sharing], value[b, h // sharing]
            for k in range(HYPOTHESES):
                for t in range(LENGTH):
                    here = k * LENGTH + t
                    seen = range(k * LENGTH, here + 1)
                    weights = np.exp([SCALING * query[b, h, here] @ keys[s] for s in seen])
                    weights /= weights.sum()
                    out[b, here, h] = sum(w * values[s] for w, s in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize("sharing", [1, 2, 4])
def test_grouped_attention_equals_a_loop_over_hypotheses_and_positions(sharing):
    query = random_heads(HEADS, 0)
    key, value = random_heads(HEADS // sharing, 1), random_heads(HEADS // sharing, 2)
    module = Attention(num_key_value_groups=sharing)
    out, weights = grouped_attention_forward(module, query, key, value, None, scaling=SCALING, group_size=HYPOTHESES)
    expected = attention_by_loops(query.numpy(), key.numpy(), value.numpy(), sharing)
    assert weights is None
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_grouped_attention_equal_finite_differences():
    inputs = [random_heads(HEADS, seed, length=2).requires_grad_() for seed in range(3)]
    module = Attention()

    def attend(*states: torch.Tensor) -> torch.Tensor:
        return grouped_attention_forward(module, *states, None, scaling=SCALING, group_size=HYPOTHESES)[0]

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("sharing", [1, 2])
@pytest.mark.parametrize("first", [1, 3, LENGTH])
def test_growing_cache_equals_all_positions_at_once(sharing, first):
    """`first` tokens of each hypothesis in one call, the rest one by one."""
    heads = HEADS // sharing
    module = Attention(num_key_value_groups=sharing)
    query, key, value = random_heads(HEADS, 0), random_heads(heads, 1), random_heads(heads, 2)
    expected, _ = grouped_attention_forward(module, query, key, value, None, scaling=SCALING, group_size=HYPOTHESES)
    cache = GroupedCacheLayer(HYPOTHESES)
    parts = []
    for start, stop in [(0, first), *((t, t + 1) for t in range(first, LENGTH))]:
        now = [
            states.unflatten(2, (HYPOTHESES, LENGTH))[:, :, :, start:stop].flatten(2, 3)
            for states in (query, key, value)
        ]
        keys, values = cache.update(now[1], now[2])
        assert keys.shape == (CLIPS, heads * HYPOTHESES, stop, WIDTH)
        out, _ = grouped_attention_forward(module, now[0], keys, values, None, scaling=SCALING, group_size=HYPOTHESES)
        parts.append(out.unflatten(1, (HYPOTHESES, stop - start)))
    assert cache.get_seq_length() == LENGTH
    torch.testing.assert_close(torch.cat(parts, 2).flatten(1, 2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("group_size, is_causal", [(None, True), (None, False), (HYPOTHESES, False)])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_not_grouped_and_causal_is_stock_sdpa_bit_for_bit(group_size, is_causal, masked):
    """(K, not causal) is cross-attention in a grouped call: K*T queries read one set of keys, under the clip's mask."""
    query, key, value = (random_heads(HEADS, seed) for seed in range(3))
    mask = torch.rand(CLIPS, 1, query.shape[2], key.shape[2]) > 0.3 if masked else None
    module = Attention(is_causal)
    given = {"scaling": SCALING, "output_attentions": False}
    found, _ = grouped_attention_forward(module, query, key, value, mask, group_size=group_size, **given)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, **given)
    assert torch.equal(found, expected)


def test_left_padded_decoder_calls_are_stock_sdpa_bit_for_bit():
    model, _ = tiny_whisper("english")
    features = torch.randn(2, 80, 100)
    ids = torch.randint(0, 200, (2, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    given = {"input_features": features, "decoder_input_ids": ids}
    with torch.no_grad():
        expected = model(**given, decoder_attention_mask=mask).logits
        use_grouped_attention(model)
        assert torch.equal(model(**given, decoder_attention_mask=mask).logits, expected)
        assert (model(**given).logits - expected)[0].abs().max() > 1e-3, "the mask does nothing here"


def tiny_moonshine() -> MoonshineForConditionalGeneration:
    config = MoonshineConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MoonshineForConditionalGeneration(config).eval()


def test_encoder_masks_are_kept_in_ordinary_and_in_grouped_calls():
    """Moonshine, whose audio is padded and masked: ordinary calls bit for bit, grouped ones as one call for each."""
    stock = tiny_moonshine()
    model = copy.deepcopy(stock)
    use_grouped_attention(model)
    audio = torch.randn(2, 4000)
    heard = torch.ones(2, 4000, dtype=torch.long)
    heard[1, 2000:] = 0
    tokens = torch.randint(0, 40, (2, 3, 5))
    states = torch.randn(2, 9, 32)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 4:] = 0
    with torch.no_grad():
        ordinary = {"input_values": audio, "attention_mask": heard, "decoder_input_ids": tokens[:, 0]}
        assert torch.equal(model(**ordinary).logits, stock(**ordinary).logits)
        positions = torch.arange(5).expand(2, 3, 5)
        grouped = model.get_decoder()(
            input_ids=tokens.flatten(1),
            position_ids=positions.flatten(1),
            attention_mask=ignored_mask(tokens.device),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
            group_size=3,
        ).last_hidden_state.unflatten(1, (3, 5))
        for k in range(3):
            alone = stock.get_decoder()(
                input_ids=tokens[:, k], encoder_hidden_states=states, encoder_attention_mask=mask
            ).last_hidden_state
            torch.testing.assert_close(grouped[:, k], alone, rtol=1e-5, atol=1e-5)


def test_switching_twice_is_switching_once():
    model, _ = tiny_whisper("english")
    use_grouped_attention(model)
    use_grouped_attention(model)
    assert model.config._attn_implementation == GROUPED_ATTENTION
    assert GROUPED_ATTENTION not in model.config.to_json_string()

"""The cache of grouped decoding against a list of tensors that is rebuilt at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from audiorl.models.grouped_attention import FIRST_ROOM, GroupedCacheLayer, StaticGroupedCacheLayer, cache_argument
from tests.tiny_models import tiny_whisper

CLIPS, HEADS, WIDTH, HYPOTHESES, PREFIX = 2, 3, 4, 3, 2


def random_states(hypotheses: int, length: int) -> Tensor:
    """(B, H, K*n, d), hypothesis after hypothesis, as a decoder's projection leaves them."""
    return torch.randn(CLIPS, HEADS, hypotheses * length, WIDTH)


def apart(states: Tensor, hypotheses: int) -> Tensor:
    """(B, H, K*n, d) or (B, H*K, n, d) -> (B, H, K, n, d)."""
    return states.reshape(CLIPS, HEADS, hypotheses, -1, WIDTH)


@pytest.mark.parametrize("static", [False, True])
def test_cache_equals_concatenation_with_spreading_and_reordering(static):
    """A shared prefix, tokens one by one past the room of the beginning, a reordering now and then."""
    layer = GroupedCacheLayer(1)
    keys, values = random_states(1, PREFIX), random_states(1, PREFIX)
    layer.update(keys, values)
    layer.spread(HYPOTHESES)
    expected = [apart(x, 1).repeat(1, 1, HYPOTHESES, 1, 1) for x in (keys, values)]
    steps = 2 * FIRST_ROOM + 3
    position = torch.tensor([PREFIX])
    if static:
        layer = StaticGroupedCacheLayer(layer, PREFIX + steps, position)
        address = layer.keys.data_ptr(), layer.values.data_ptr()
    for step in range(steps):
        new = random_states(HYPOTHESES, 1), random_states(HYPOTHESES, 1)
        held = layer.update(*new)
        expected = [torch.cat([old, apart(x, HYPOTHESES)], 3) for old, x in zip(expected, new, strict=True)]
        for found, wanted in zip(held, expected, strict=True):
            assert torch.equal(apart(found, HYPOTHESES)[:, :, :, : PREFIX + step + 1], wanted)
        if step % 5 == 1:
            parents = torch.randint(0, HYPOTHESES, (CLIPS, HYPOTHESES))
            layer.select(parents)
            expected = [torch.stack([x[b][:, parents[b]] for b in range(CLIPS)]) for x in expected]
        position.add_(1)
    if static:
        assert address == (layer.keys.data_ptr(), layer.values.data_ptr()), "a recorded step would read the old place"
    else:
        assert layer.get_seq_length() == PREFIX + steps


def test_a_cache_that_is_reset_begins_anew():
    layer = GroupedCacheLayer(HYPOTHESES)
    layer.update(random_states(HYPOTHESES, 2), random_states(HYPOTHESES, 2))
    layer.reset()
    keys = random_states(HYPOTHESES, 1)
    held, _ = layer.update(keys, keys)
    assert torch.equal(apart(held, HYPOTHESES), apart(keys, HYPOTHESES))


class TodaysDecoder(nn.Module):
    def forward(self, cache=None):
        return cache


class OlderDecoder(nn.Module):
    def forward(self, past_key_values=None):
        return past_key_values


@pytest.mark.parametrize("decoder", [TodaysDecoder(), OlderDecoder()])
def test_a_decoder_is_handed_its_cache_by_the_name_that_its_own_signature_has(decoder: nn.Module):
    cache = DynamicCache()
    assert decoder(**cache_argument(decoder, cache)) is cache


def test_the_installed_whisper_takes_its_cache_without_a_warning():
    model, _ = tiny_whisper()
    decoder = model.get_decoder()
    # `filterwarnings = error` turns a deprecation into a failure
    decoder(input_ids=torch.zeros((1, 1), dtype=torch.long), **cache_argument(decoder, None))

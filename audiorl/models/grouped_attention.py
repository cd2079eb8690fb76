"""Attention over groups: K hypotheses of one clip lie side by side on the token axis of a stock model.

A decoder is called with (B, K*T) tokens and `group_size=K`. Causal self-attention then treats each hypothesis on its
own, by a view that folds K into the head axis; cross-attention is left alone, so the K hypotheses of a clip share one
set of keys and values. Every other call goes to stock SDPA, so a user's own `generate` or a pipeline computes what it
always did.

From top to bottom: the attention function; cache layers that hold the keys and values of K hypotheses as
(B, H*K, T, d); `GroupedDecoder`, which runs K hypotheses of each clip step by step. It reads the prefix, which a clip's
hypotheses share, once per clip and then hands its keys and values to all K. Cross-attention keys and values are
projected once per clip, and every step reads them in place.

Engines of the decoder:
    dynamic    the cache grows with the hypotheses
    static     the cache has its full length from the beginning, and a mask says what is filled
    captured   static, and the step is recorded once per rollout as a CUDA graph and replayed for every token, so that
               launching kernels costs nothing. Written for CUDA and not yet run on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache as remembered
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_ATTENTION = "audiorl_grouped_sdpa"
ENGINES = ("dynamic", "static", "captured")
FIRST_ROOM = 32  # tokens that a growing cache has room for at first
# (tokens (B, K, n), positions (B, K, n), cache, attention mask) -> logits of the next token (B, K, V)
Predict = Callable[[Tensor, Tensor, Cache, Tensor], Tensor]


def grouped_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    group_size: int | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that keeps the hypotheses of a group apart.

    Args:
        query: (B, H, K*T, d), hypothesis after hypothesis.
        key, value: (B, H, K*T, d); or (B, H*K, T_past + T, d) when they come from a `GroupedCacheLayer`, T_past = 0 or
            T = 1. H may be a divisor of the query's, as in grouped-query attention.
        attention_mask: a grouped causal call ignores it, unless it is as long as the keys: then it says which of them
            count, for a cache with room for more than it holds. Otherwise hypotheses are padded on the right, and a
            causal query never sees what stands to its right.
        group_size: K; None for an ordinary call.

    Returns:
        (B, K*T, H, d) and None, as transformers expects.
    """
    if group_size is None or not module.is_causal:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    clips, heads, _, width = query.shape
    fold = (clips, heads * group_size, -1, width)
    shared = getattr(module, "num_key_value_groups", 1)
    if shared > 1:
        # in `fold` K comes after the head, so heads are repeated before K is folded in
        apart = (clips, heads // shared, group_size, -1, width)
        key = key.reshape(apart).repeat_interleave(shared, dim=1)
        value = value.reshape(apart).repeat_interleave(shared, dim=1)
    grouped_query, grouped_key = query.reshape(fold), key.reshape(fold)
    held = attention_mask is not None and attention_mask.shape[-1] == grouped_key.shape[2] > 1
    out = nn.functional.scaled_dot_product_attention(
        grouped_query,
        grouped_key,
        value.reshape(fold),
        attn_mask=attention_mask if held else None,
        dropout_p=dropout,
        scale=scaling,
        # one new token for each hypothesis sees all of its past; more of them start from an empty past; written as a
        # branch, because a comparison of sizes is no bool where torch.compile leaves them open
        is_causal=True if not held and grouped_query.shape[2] > 1 else False,
    )
    return out.reshape(query.shape).transpose(1, 2), None


def ignored_mask(device: torch.device) -> Tensor:
    """A 4-D mask that transformers passes through as it is.

    Without it, positions that restart for each hypothesis look like packed sequences, and transformers builds a
    (B, 1, K*T, K*T) mask that grouped attention has no use for.
    """
    return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Switch a stock model to grouped attention; saved configs and ordinary calls are not changed by it."""
    if GROUPED_ATTENTION not in AttentionInterface._global_mapping:
        AttentionInterface.register(GROUPED_ATTENTION, grouped_attention_forward)
        AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(GROUPED_ATTENTION)


# ---- the cache ----


def cache_argument(module: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """The keyword argument that gives `module` its cache.

    transformers 5.24 renamed `past_key_values` to `cache` and warns of the old name. A model from elsewhere may still
    use the old name, so the module's own signature decides.
    """
    return {_cache_name(type(module).forward): cache}


@remembered
def _cache_name(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


class GroupedCacheLayer(DynamicLayer):
    """A cache layer that takes the (B, H, K*n, d) of a grouped decoder call, n new tokens for each hypothesis.

    It writes them into room that doubles when it runs out, so that a step copies its own tokens and not all before.
    """

    is_initialized: bool

    def __init__(self, group_size: int):
        super().__init__()
        self.group_size = group_size

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        clips, heads, _, width = key_states.shape
        fold = (clips, heads * self.group_size, -1, width)
        new_keys, new_values = key_states.reshape(fold), value_states.reshape(fold)
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = new_keys.dtype, new_keys.device, True
            self.keys, self.values = new_keys[:, :, :0], new_values[:, :, :0]
            self._key_room, self._value_room = new_keys[:, :, :0], new_values[:, :, :0]
        held = self.get_seq_length()
        stop = held + new_keys.shape[2]
        if stop > self._key_room.shape[2]:
            room = max(FIRST_ROOM, 2 * stop)
            self._key_room = _with_room(self._key_room[:, :, :held], room)
            self._value_room = _with_room(self._value_room[:, :, :held], room)
        self._key_room[:, :, held:stop] = new_keys
        self._value_room[:, :, held:stop] = new_values
        self.keys, self.values = self._key_room[:, :, :stop], self._value_room[:, :, :stop]
        return self.keys, self.values

    def reset(self) -> None:
        # older releases of transformers fill the cache with zeros, and the next tokens would follow those
        self.is_initialized = False

    def spread(self, hypotheses: int) -> None:
        """From here on K = `hypotheses`, all with the past of the single one before."""
        self.group_size = hypotheses
        self.keys = self._key_room = self.keys.repeat_interleave(hypotheses, 1)
        self.values = self._value_room = self.values.repeat_interleave(hypotheses, 1)

    def select(self, parents: Tensor) -> None:
        """Hypothesis k of clip b goes on from the past of `parents[b, k]` (B, K)."""
        for states in (self.keys, self.values):
            apart = states.unflatten(1, (-1, self.group_size))  # (B, H, K, T, d)
            apart.copy_(apart.take_along_dim(parents[:, None, :, None, None], 2))


class StaticGroupedCacheLayer(GroupedCacheLayer):
    """The same with room for a fixed number of tokens: every step has the same shapes and the same addresses.

    Attention needs a mask of the places that are filled.

    Args:
        past: the layer that has read the tokens so far; they are copied.
        room: tokens of a hypothesis, the past included.
        position: (1,) long, on the device: where the next token goes. Whoever steps moves it, for all layers at once.
    """

    def __init__(self, past: GroupedCacheLayer, room: int, position: Tensor):
        super().__init__(past.group_size)
        self.dtype, self.device, self.is_initialized = past.dtype, past.device, True
        self.position = position
        self.keys, self.values = _with_room(past.keys, room), _with_room(past.values, room)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        clips, heads, _, width = key_states.shape
        fold = (clips, heads * self.group_size, -1, width)
        self.keys.index_copy_(2, self.position, key_states.reshape(fold))
        self.values.index_copy_(2, self.position, value_states.reshape(fold))
        return self.keys, self.values


def _with_room(states: Tensor, room: int) -> Tensor:
    """(B, H*K, room, d) with `states` at the front; zeros behind, since a masked NaN is still a NaN."""
    out = states.new_zeros((*states.shape[:2], room, states.shape[3]))
    out[:, :, : states.shape[2]] = states
    return out


# ---- the decoder, step by step ----


class GroupedDecoder:
    """Gives the logits of the next token to `sample_from` and `beam_search`; remembers what it has read.

    Args:
        predict: runs the decoder and the head.
        layers: of the decoder.
        hypotheses: K.
        room: tokens that a hypothesis may have, its prefix included.
        engine: one of `ENGINES`.
    """

    def __init__(self, predict: Predict, *, layers: int, hypotheses: int, room: int, engine: str = "dynamic"):
        self.predict, self.hypotheses, self.room, self.engine = predict, hypotheses, room, engine
        self._layers = [GroupedCacheLayer(1) for _ in range(layers)]
        self._cache = EncoderDecoderCache(Cache(layers=self._layers), Cache(layer_class_to_replicate=DynamicLayer))
        self._captured: CapturedStep | None = None

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        """(B, K, n) tokens, the first of them at position `start` -> (B, K, V).

        In the first call the tokens of a clip's hypotheses are the same; later n = 1. The result may be overwritten by
        the next call.
        """
        if start == 0:
            return self._read_prefix(tokens)
        if self.engine == "dynamic":
            positions = torch.full_like(tokens, start)
            return self.predict(tokens, positions, self._cache, ignored_mask(tokens.device))
        self._position.fill_(start)
        if self.engine == "static":
            return self._static_step(tokens)
        if self._captured is None:
            self._captured = CapturedStep(self._static_step, tokens)
        return self._captured(tokens)

    def reorder(self, parents: Tensor) -> None:
        """Hypothesis k of clip b goes on from what `parents[b, k]` has read; (B, K) long."""
        for layer in self._layers:
            layer.select(parents)

    def _read_prefix(self, tokens: Tensor) -> Tensor:
        shared = tokens[:, :1]
        positions = torch.arange(shared.shape[-1], device=tokens.device).expand_as(shared)
        logits = self.predict(shared, positions, self._cache, ignored_mask(tokens.device))
        for layer in self._layers:
            layer.spread(self.hypotheses)
        if self.engine == "captured":
            refuse_capture(tokens.device)
        if self.engine != "dynamic":
            self._position = torch.full((1,), shared.shape[-1], device=tokens.device)
            self._layers = [StaticGroupedCacheLayer(layer, self.room, self._position) for layer in self._layers]
            self._cache.self_attention_cache.layers = self._layers
        return logits.expand(-1, self.hypotheses, -1)

    def _static_step(self, tokens: Tensor) -> Tensor:
        places = torch.arange(self.room, device=tokens.device)
        mask = (places <= self._position)[None, None, None]
        return self.predict(tokens, self._position.expand(tokens.shape), self._cache, mask)


def refuse_capture(device: torch.device) -> None:
    """Raise ValueError on a device without CUDA graphs."""
    if device.type != "cuda":
        raise ValueError(
            f"The engine 'captured' replays a CUDA graph, and this model is on {device}. Move it to a CUDA device, or "
            "call set_engine('static') or set_engine('dynamic')."
        )


class CapturedStep:
    """A step as a CUDA graph, for tokens of one shape; everything else it reads has to stay at its address.

    Recording runs the step a few times, so the step must give the same when it is repeated.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], tokens: Tensor):
        self._tokens = tokens.clone()
        # autocast's copies of the weights and the libraries' workspaces are made here, outside of the recording
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(2):
                step(self._tokens)
        torch.cuda.current_stream().wait_stream(warm_up)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = step(self._tokens)

    def __call__(self, tokens: Tensor) -> Tensor:
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._logits

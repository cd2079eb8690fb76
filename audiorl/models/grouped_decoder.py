"""One step of K hypotheses per clip after the other, for decoders with grouped attention and a cross-attention.

The prefix, which the K hypotheses of a clip share, is read once per clip; then its keys and values are handed to all K.
Cross-attention keys and values are projected once per clip and read in place by every step.

Engines:
    dynamic    the cache grows with the hypotheses
    static     the cache has its full length from the beginning, and a mask says what is filled
    captured   static, and the step is recorded once per rollout as a CUDA graph and replayed for every token, so that
               launching kernels costs nothing. Written for CUDA and not yet run on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from audiorl.models.grouped_attention import ignored_mask
from audiorl.models.grouped_cache import GroupedCacheLayer, StaticGroupedCacheLayer

ENGINES = ("dynamic", "static", "captured")
# (tokens (B, K, n), positions (B, K, n), cache, attention mask) -> logits of the next token (B, K, V)
Predict = Callable[[Tensor, Tensor, Cache, Tensor], Tensor]


class GroupedDecoder:
    """Logits of the token that follows, for `sample_from` and `beam_search`; remembers what it has read.

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
    """Say that a CUDA graph needs CUDA, where there is none."""
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

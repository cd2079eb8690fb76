"""K continuations of one prefix in one pass of a decoder-only model, by positions and a mask of stock attention.

A row is laid out as

    [prefix of L tokens, padded to the longest | continuation 1 | ... | continuation K], each of C tokens

Positions go on from the prefix's own length in every continuation. A continuation sees its clip's prefix and its own
past, nothing else, so each of the K has the numbers of a forward of its own; the prefix is computed once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

# (embeddings (B, n, D), positions (B, n), mask (B, 1, n, keys), cache) -> hidden states (B, n, D)
ReadEmbeddings = Callable[[Tensor, Tensor, Tensor, "DynamicCache | None"], Tensor]


def prefix_positions(lengths: Tensor, longest: int) -> Tensor:
    """(B, L): places counted from 0; those of the padding count on."""
    return torch.arange(longest, device=lengths.device).expand(len(lengths), -1)


def prefix_mask(lengths: Tensor, longest: int) -> Tensor:
    """(B, 1, L, L) bool: causal, keys of the padding left out; padding still sees itself, for a softmax of nothing is
    NaN."""
    places = torch.arange(longest, device=lengths.device)
    causal = places[:, None] >= places
    heard = (places < lengths[:, None])[:, None] | torch.eye(longest, dtype=torch.bool, device=lengths.device)
    return (causal & heard)[:, None]


def group_positions(lengths: Tensor, longest: int, hypotheses: int, tokens: int) -> Tensor:
    """(B, L + K*C) positions of a whole row."""
    behind = lengths[:, None, None] + torch.arange(tokens, device=lengths.device)
    return torch.cat([prefix_positions(lengths, longest), behind.expand(-1, hypotheses, -1).flatten(1)], 1)


def group_mask(lengths: Tensor, longest: int, hypotheses: int, tokens: int) -> Tensor:
    """(B, 1, L + K*C, L + K*C) bool, True where a query sees a key.

    Args:
        lengths: (B,) tokens of each prefix.
        longest: L.
        hypotheses, tokens: K and C.
    """
    total = longest + hypotheses * tokens
    mask = torch.zeros((len(lengths), total, total), dtype=torch.bool, device=lengths.device)
    mask[:, :longest, :longest] = prefix_mask(lengths, longest)[:, 0]
    mask[:, longest:, :longest] = (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None]
    own_past = torch.ones((tokens, tokens), dtype=torch.bool, device=lengths.device).tril()
    mask[:, longest:, longest:] = torch.block_diag(*[own_past] * hypotheses).bool()
    return mask[:, None]


class PrefixDecoder:
    """One step of K continuations per clip after the other, for `sample_from` and `beam_search`.

    The prefixes are read when the decoder is made, once for each clip. Every step appends K tokens to the cache, and a
    mask keeps the continuations apart; the prefix's keys and values are held once.

    Args:
        read: runs the language model; see `ReadEmbeddings`.
        predict: hidden states (..., D) -> logits (..., V).
        embed: token ids -> embeddings.
        prefix: (B, L, D) embeddings, padded on the right.
        lengths: (B,) tokens of each prefix.
        starts: (B,) position among the batch's `tokens` at which a clip's continuation begins.
        cache: an empty cache of the language model.
    """

    def __init__(
        self,
        read: ReadEmbeddings,
        predict: Callable[[Tensor], Tensor],
        embed: Callable[[Tensor], Tensor],
        prefix: Tensor,
        lengths: Tensor,
        starts: Tensor,
        cache: DynamicCache,
    ):
        self._read, self._predict, self._embed = read, predict, embed
        self._lengths, self._starts, self._longest, self._cache = lengths, starts, prefix.shape[1], cache
        self._written: list[int] = []  # positions among `tokens` that were appended to the cache
        hidden = read(
            prefix, prefix_positions(lengths, self._longest), prefix_mask(lengths, self._longest), self._cache
        )
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        self._first_logits = predict(last)  # (B, V)

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        """(B, K, n) tokens, the first of them at position `start` -> (B, K, V) logits of the token that follows.

        Where a clip's prefix goes on behind them the result is of no use, and not used.
        """
        _, hypotheses, count = tokens.shape
        first = self._first_logits[:, None].expand(-1, hypotheses, -1)
        place = start + count - 1
        if not bool((place >= self._starts).any()):
            return first
        assert count == 1, "continuations grow token by token"
        logits = self._step(tokens.squeeze(-1), place)
        return torch.where((self._starts == place + 1)[:, None, None], first, logits)

    def _step(self, tokens: Tensor, place: int) -> Tensor:
        hypotheses = tokens.shape[1]
        self._written.append(place)
        positions = (self._lengths + place - self._starts).clamp(min=0)[:, None].expand(-1, hypotheses)
        hidden = self._read(self._embed(tokens), positions, self._mask(hypotheses), self._cache)
        return self._predict(hidden)

    def _mask(self, hypotheses: int) -> Tensor:
        """(B, 1, K, L + steps*K): the prefix, and of every step so far the hypothesis' own token."""
        device = self._lengths.device
        prefix = torch.arange(self._longest, device=device) < self._lengths[:, None]  # (B, L)
        # a step that falls into a clip's prefix has written what this clip must not see
        own = torch.tensor(self._written, device=device) >= self._starts[:, None]  # (B, steps)
        own[:, -1] = True  # a query sees itself at least
        same = torch.eye(hypotheses, dtype=torch.bool, device=device)
        steps = (own[:, None, :, None] & same[:, None, :]).flatten(2)  # (B, K, steps*K)
        return torch.cat([prefix[:, None].expand(-1, hypotheses, -1), steps], -1)[:, None]

    def reorder(self, parents: Tensor) -> None:
        """Hypothesis k of clip b goes on from what `parents[b, k]` has read; (B, K) long."""
        hypotheses = parents.shape[1]
        for layer in self._cache.layers:
            for states in (layer.keys, layer.values):
                grown = states[:, :, self._longest :].unflatten(2, (-1, hypotheses))  # (B, H, steps, K, d)
                grown.copy_(grown.take_along_dim(parents[:, None, None, :, None], 3))

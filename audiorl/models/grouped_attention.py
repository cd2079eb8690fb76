"""Attention over groups: K hypotheses of one clip side by side on the token axis of a stock model.

A decoder is called with (B, K*T) tokens and `group_size=K`. Causal self-attention then treats each hypothesis on its
own, by a view that folds K into the head axis; cross-attention is left alone, so the K hypotheses of a clip share one
set of keys and values. Whatever is not a grouped causal call goes to stock SDPA, so a user's own `generate` or a
pipeline computes what it always did.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_ATTENTION = "audiorl_grouped_sdpa"


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
        attention_mask: of a grouped causal call ignored, unless it is as long as the keys: then it says which of them
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
        # K stands behind the head in `fold`, so heads are repeated before it is folded in
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

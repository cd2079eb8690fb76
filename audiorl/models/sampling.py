"""Drawing hypotheses token by token, for any family that predicts the next token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiorl.batch import GroupBatch, GroupSamples

# (tokens (B, K, n), position of the first of them) -> logits of the token that follows, (B, K, V)
NextLogits = Callable[[Tensor, int], Tensor]


def sample_from(
    next_logits: NextLogits, batch: GroupBatch, noise: Tensor, *, end_token: int, max_tokens: int
) -> GroupSamples:
    """Sample token by token until every hypothesis of every clip has ended.

    Prefixes of unequal length are followed to their own end before a row's first token is drawn.

    Args:
        next_logits: called with the tokens that are new since its last call.
        batch: B clips; the prefix of each one's first hypothesis is where sampling starts.
        noise: (B, K, T) uniform in [0, 1); T limits the tokens drawn for each hypothesis.
        end_token: ends a hypothesis and fills up shorter ones.
        max_tokens: positions of the decoder.
    """
    keep = batch.keep[:, 0]
    prefix_lengths = torch.where(keep.any(-1), keep.int().argmax(-1) + 1, 1)  # (B,)
    clips, hypotheses, limit = noise.shape
    shortest, longest = int(prefix_lengths.min()), int(prefix_lengths.max())
    # the token that would fill the last position is predicted, never read, so `max_tokens` positions are enough
    length = min(longest + limit, max_tokens + 1)
    tokens = batch.tokens.new_full((clips, hypotheses, length), end_token)
    in_prefix = torch.arange(longest, device=tokens.device) < prefix_lengths[:, None, None]
    tokens[:, :, :longest] = torch.where(in_prefix, batch.tokens[:, :1, :longest], end_token)
    drawn = torch.zeros((clips, hypotheses, length - 1), dtype=torch.bool, device=tokens.device)
    logps = torch.zeros((clips, hypotheses, length - 1), device=tokens.device)
    # nothing is sampled for a placeholder
    finished = ~batch.valid[:, None].repeat(1, hypotheses)
    start, stop = 0, shortest
    while stop < length:
        logits = next_logits(tokens[:, :, start:stop], start)
        step = stop - prefix_lengths  # (B,) how many tokens each clip has drawn
        active = ~finished & ((step >= 0) & (step < limit))[:, None]
        uniform = noise.gather(2, step.clamp(0, limit - 1)[:, None, None].expand(-1, hypotheses, 1)).squeeze(-1)
        token, token_logps = draw(logits, uniform)
        tokens[:, :, stop] = torch.where(active, token, tokens[:, :, stop])
        logps[:, :, stop - 1] = torch.where(active, token_logps, 0.0)
        drawn[:, :, stop - 1] = active
        finished |= active & (token == end_token)
        start, stop = stop, stop + 1
        if bool((finished | (step >= limit - 1)[:, None]).all()):
            break
    return GroupSamples(tokens[..., :stop], drawn[..., : stop - 1], logps[..., : stop - 1], finished)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds `uniform`.

    Args:
        logits: (B, K, V).
        uniform: (B, K) in [0, 1).

    Returns:
        (B, K) token ids and their log-probabilities.
    """
    log_probabilities = torch.log_softmax(logits, -1)
    # float64: at 50,000 entries a float32 running sum is off by more than a rare token's probability
    cumulative = log_probabilities.double().exp().cumsum(-1)
    total = cumulative[..., -1]
    # below the total whatever the rounding, so that what is found has a probability above zero
    target = torch.minimum(uniform.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    token = torch.searchsorted(cumulative, target[..., None], right=True).squeeze(-1)
    return token, log_probabilities.gather(-1, token[..., None]).squeeze(-1)

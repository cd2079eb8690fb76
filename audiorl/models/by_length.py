"""Encoders whose result moves with padding, run without any: equally long clips together, each clip once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def encode_by_length(
    encode: Callable[[Tensor], Tensor], audio: Tensor, lengths: Sequence[int], *, together: bool = True
) -> Tensor:
    """States of clips of unequal lengths, as each clip alone would have them.

    Args:
        encode: (n, length, ...) -> (n, S', D), for n equally long clips.
        audio: (B, L, ...), padded on the right.
        lengths: of each clip, in steps of L.
        together: equally long clips in one call; else each clip in a call of its own. Processes that gather sharded
            weights in each call must make as many calls as the others: they have as many clips, not as many lengths.

    Returns:
        (B, S, D), zero behind each clip's own states.
    """
    if together:
        places = [[b for b, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))]
    else:
        places = [[b] for b in range(len(lengths))]
    parts = [encode(audio[rows, : lengths[rows[0]]]) for rows in places]
    longest = max(part.shape[1] for part in parts)
    padded = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    order = torch.tensor([b for rows in places for b in rows], device=padded.device)
    return padded[order.argsort()]

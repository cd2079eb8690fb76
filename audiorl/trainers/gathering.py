"""The pairs of all processes, for losses whose value belongs to the whole batch."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from audiorl.losses import PairScores


def gathered_pairs(pairs: PairScores, accelerator: Accelerator) -> PairScores:
    """The pairs of all processes in process order; those of this process keep their graph.

    Source: the sum over processes of a function of the gathered batch, differentiated where each process stands.
    """
    size = torch.tensor([len(pairs.logps)], device=pairs.logps.device)
    sizes = accelerator.gather(size).tolist()

    def gather(own: Tensor) -> Tensor:
        padded = nn.functional.pad(own.detach(), (0, 0, 0, max(sizes) - len(own)))
        parts = list(accelerator.gather(padded).split(max(sizes)))
        parts = [part[:n] for part, n in zip(parts, sizes, strict=True)]
        parts[accelerator.process_index] = own
        return torch.cat(parts)

    unweighted = pairs.unweighted_logps
    logps, ref_logps, lengths = (gather(field) for field in pairs[:3])
    return PairScores(logps, ref_logps, lengths, None if unweighted is None else gather(unweighted))

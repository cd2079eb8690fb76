"""What is computed over all processes: pairs of losses that belong to the whole batch, rows of a step's rollouts."""

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


def gathered_rows(own: Tensor, accelerator: Accelerator) -> tuple[Tensor, int]:
    """The rows of all processes in process order, and where this process's own begin; no gradient.

    Args:
        own: (n, ...); n may differ from process to process, the other sizes may not.
    """
    sizes = accelerator.gather(torch.tensor([len(own)], device=accelerator.device)).tolist()
    padded = own.detach().new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = accelerator.gather(padded.to(accelerator.device)).to(own.device).split(max(sizes))
    start = sum(sizes[: accelerator.process_index])
    return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)]), start

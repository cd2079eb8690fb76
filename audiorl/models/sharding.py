"""Weights that are spread over processes and gathered, layer by layer, in each call (FSDP2).

A call is then a call of all processes: one that samples a token more than the others waits for them for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from audiorl.models.beam_search import BeamDecoder


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter lies spread over several processes."""
    return any(isinstance(p, DTensor) and p.device_mesh.size() > 1 for p in model.parameters())


@contextlib.contextmanager
def calls_in_step(model: nn.Module, decoder: BeamDecoder) -> Iterator[BeamDecoder]:
    """Let every process make as many calls of a sharded model as the one whose hypotheses are the longest.

    Each call is announced; a process that has finished listens, and repeats its last position, which no result
    depends on, for as long as another one calls. The decoder of a model in one piece is handed back as it is.

    Args:
        model: looked at for sharded parameters, which some of its layers have during its forward.
        decoder: used up when the context ends; called at least once by every process.

    Raises:
        ValueError: an engine that cannot gather weights.
    """
    if not is_sharded(model):
        yield decoder
        return
    if getattr(decoder, "engine", None) == "captured":
        raise ValueError(
            "A CUDA graph cannot gather sharded weights. Choose another engine, for example set_engine('static')."
        )
    paced = PacedDecoder(decoder, next(model.parameters()).device)
    yield paced
    paced.wait_for_others()


class PacedDecoder:
    """A decoder whose calls the other processes know of."""

    def __init__(self, decoder: BeamDecoder, device: torch.device):
        self.decoder, self.device = decoder, device
        self._last: tuple[Tensor, int] | None = None

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        # position 0 would begin a hypothesis
        self._last = tokens[:, :, -1:], max(start + tokens.shape[-1] - 1, 1)
        self._callers(1)
        return self.decoder(tokens, start)

    def reorder(self, parents: Tensor) -> None:
        self.decoder.reorder(parents)

    def wait_for_others(self) -> None:
        while int(self._callers(0)):
            if self._last is None:
                raise RuntimeError("This process has no token to draw and others have. Give each of them at least one.")
            self.decoder(*self._last)

    def _callers(self, calls: int) -> Tensor:
        """How many processes are about to call; only those that have finished wait for the answer."""
        count = torch.tensor(calls, device=self.device)
        distributed.all_reduce(count)
        return count

"""Who samples the hypotheses of a rollout: the library's own sampler, or an engine beside it.

native   `sample_groups`: every clip encoded once, K hypotheses from shared keys and values, exact and resumable
vllm     vLLM with the policy's weights (`audiorl.models.engines.vllm`); experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from audiorl.batch import GroupBatch, GroupSamples
from audiorl.models.family import SpeechFamily
from audiorl.models.sampling import Sampler, rollout_noise

ROLLOUT_ENGINES = ("native", "vllm")


class Draw(NamedTuple):
    """What is to be sampled for a batch."""

    num_generations: int  # K
    max_tokens: int
    temperature: float
    sampler: Sampler | None  # None for the policy as it is
    seed: int
    step: int  # with the seed and a row's number, where its randomness comes from


class RolloutEngine(Protocol):
    """Samples hypotheses for batches."""

    def sync(self, model: nn.Module) -> None:
        """Take over the policy's weights, before a step's batches are sampled."""
        ...

    def sample(
        self, model: nn.Module, batches: Sequence[GroupBatch], states: Sequence[Tensor], draw: Draw
    ) -> list[GroupSamples]:
        """K hypotheses for each clip of the batches; placeholders get none.

        Args:
            model: the policy, in evaluation mode.
            states: what `encode` returned for each batch.
        """
        ...


class NativeEngine:
    """`family.sample_groups`, its noise drawn from (seed, step, row)."""

    def __init__(self, family: SpeechFamily):
        self.family = family

    def sync(self, model: nn.Module) -> None:
        """Nothing to do: it samples from the policy itself."""

    def sample(
        self, model: nn.Module, batches: Sequence[GroupBatch], states: Sequence[Tensor], draw: Draw
    ) -> list[GroupSamples]:
        return [self._sample(model, batch, own, draw) for batch, own in zip(batches, states, strict=True)]

    def _sample(self, model: nn.Module, batch: GroupBatch, states: Tensor, draw: Draw) -> GroupSamples:
        noise = rollout_noise(
            batch.row_ids.tolist(),
            seed=draw.seed,
            step=draw.step,
            num_generations=draw.num_generations,
            max_tokens=self.family.noise_length(batch, draw.max_tokens),
        )
        return self.family.sample_groups(
            model,
            batch,
            noise.to(batch.tokens.device),
            states,
            temperature=draw.temperature,
            sampler=draw.sampler,
        )


def row_seeds(row_ids: Sequence[int], seed: int, step: int) -> list[int]:
    """A seed of 31 bits for each row, drawn from (seed, step, row)."""
    noise = rollout_noise(row_ids, seed=seed, step=step, num_generations=1, max_tokens=1)
    return [int(value * 2**31) for value in noise[:, 0, 0].tolist()]

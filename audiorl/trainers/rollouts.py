"""Rollouts of one optimizer step: K sampled hypotheses of each clip and their rewards.

1. Every clip is encoded once, without a graph.
2. K hypotheses of each are sampled, their randomness drawn from (seed, step, row).
3. All hypotheses of the step are rewarded in one call.
4. Groups whose rewards do not vary teach nothing; they are sampled again as often as is allowed, the randomness then
   drawn from (seed, step, row, try).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerState

from audiorl.batch import GroupBatch, GroupSamples, pad_to
from audiorl.datasets.rows import OURS
from audiorl.losses import zero_variance
from audiorl.models import SpeechFamily
from audiorl.rewards import RewardSet
from audiorl.rollout import rollout_noise


@dataclass
class Rollout:
    """What was sampled for one micro-batch; a placeholder's entries have no kept token, no text and NaN rewards."""

    batch: GroupBatch  # the clips, with their transcripts as the only hypothesis
    samples: GroupSamples  # tokens (B, K, T + 1), keep (B, K, T), logps (B, K, T), finished (B, K)
    states: Tensor  # what the encoder said of the clips, no graph
    texts: list[list[str]]  # B lists of K hypotheses
    rewards: Tensor  # (B, K) float64; NaN where no reward scored the hypothesis
    parts: Tensor  # (B, K, R) float64, each reward by itself; NaN where it abstained
    resampled: Tensor  # (B,) bool, sampled again because the group did not vary

    @property
    def varies(self) -> Tensor:
        """(B,) bool: the clips whose group can teach something."""
        return ~zero_variance(self.rewards, ~self.rewards.isnan())

    @property
    def flat(self) -> Tensor:
        """(B,) bool: the clips that were scored and whose rewards are all equal."""
        return ~self.varies & ~self.rewards.isnan().all(-1)

    def take_over(self, other: Rollout, clips: Tensor, pad: int) -> None:
        """Exchange the groups of some clips, (B,) bool, for those of another rollout of the same batch."""
        self.samples = merge_samples(self.samples, other.samples, clips, pad)
        for b in clips.nonzero().flatten().tolist():
            self.texts[b] = other.texts[b]
        self.rewards = torch.where(clips[:, None], other.rewards, self.rewards)
        self.parts = torch.where(clips[:, None, None], other.parts, self.parts)


class Sampling(NamedTuple):
    """How hypotheses are drawn."""

    num_generations: int  # K
    max_tokens: int
    temperature: float
    sampler: Any  # what `sample_groups` takes: top-k, top-p, min-p, repetition; None for the policy as it is
    seed: int


class RolloutMaker:
    """Micro-batches -> `Rollout`s; every process calls it with as many micro-batches.

    Args:
        tries: how often a group without variance may be sampled again, 0 for never.
    """

    def __init__(
        self, family: SpeechFamily, rewards: RewardSet, accelerator: Accelerator, sampling: Sampling, tries: int = 0
    ):
        self.family = family
        self.rewards = rewards
        self.accelerator = accelerator
        self.sampling = sampling
        self.tries = tries

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, batches: Sequence[GroupBatch], step: int, **reward_arguments: Any
    ) -> list[Rollout]:
        """Sample and reward; the model is in evaluation mode, so that caches work and nothing is dropped.

        Args:
            model: the policy, wrapped as it is trained.
            batches: from `RolloutCollator`.
            step: >= 0, the optimizer step, from which the randomness is drawn.
            reward_arguments: handed on to every reward, beside the columns.
        """

        def roll_out(states: Sequence[Tensor], attempt: int, wanted: Sequence[Tensor]) -> list[Rollout]:
            drawn = [
                self._sample(model, batch.without(~clips), s, step, attempt)
                for batch, s, clips in zip(batches, states, wanted, strict=True)
            ]
            return self._reward(batches, drawn, states, wanted, reward_arguments)

        states = [self.family.encode(model, batch) for batch in batches]
        rollouts = roll_out(states, 0, [batch.valid.cpu() for batch in batches])
        for attempt in range(1, self.tries + 1):
            flat = [rollout.flat for rollout in rollouts]
            # all processes or none: a sharded model's forward is a collective call
            if not self._anywhere(flat):
                break
            for rollout, again, clips in zip(rollouts, roll_out(states, attempt, flat), flat, strict=True):
                rollout.resampled |= clips
                rollout.take_over(again, clips & again.varies, self.family.end_token)
        return rollouts

    def _anywhere(self, flat: Sequence[Tensor]) -> bool:
        count = torch.stack([clips.sum() for clips in flat]).sum().to(self.accelerator.device)
        return bool(self.accelerator.reduce(count, reduction="sum") > 0)

    def _sample(self, model: nn.Module, batch: GroupBatch, states: Tensor, step: int, attempt: int) -> GroupSamples:
        how = self.sampling
        noise = rollout_noise(
            batch.row_ids.tolist(),
            seed=how.seed,
            # numpy splits a large seed into words of 32 bits, so this is the seed (seed, step, attempt, row)
            step=step + (attempt << 32),
            num_generations=how.num_generations,
            max_tokens=self.family.noise_length(batch, how.max_tokens),
        )
        return self.family.sample_groups(
            model, batch, noise.to(batch.tokens.device), states, temperature=how.temperature, sampler=how.sampler
        )

    def _reward(
        self,
        batches: Sequence[GroupBatch],
        drawn: Sequence[GroupSamples],
        states: Sequence[Tensor],
        wanted: Sequence[Tensor],
        reward_arguments: Mapping[str, Any],
    ) -> list[Rollout]:
        """One call of the rewards for the wanted clips of all micro-batches."""
        texts = [self.family.text(samples.tokens, samples.keep) for samples in drawn]
        places = [(i, b) for i, clips in enumerate(wanted) for b in clips.nonzero().flatten().tolist()]
        count = self.sampling.num_generations
        total, parts = reward_completions(
            self.rewards,
            self.family,
            [batches[i].rows[b] for i, b in places],
            [texts[i][b] for i, b in places],
            [kept_tokens(drawn[i], b) for i, b in places],
            reward_arguments,
        )
        rollouts = []
        for i, (batch, samples, clips) in enumerate(zip(batches, drawn, wanted, strict=True)):
            mine = torch.tensor([place for place, (where, _) in enumerate(places) if where == i], dtype=torch.long)
            rewards = torch.full((len(clips), count), torch.nan, dtype=torch.float64)
            each = torch.full((len(clips), count, len(self.rewards.names)), torch.nan, dtype=torch.float64)
            if len(mine):
                rewards[clips], each[clips] = total[mine], parts[mine]
            rollouts.append(Rollout(batch, samples, states[i], texts[i], rewards, each, torch.zeros_like(clips)))
        return rollouts


def reward_completions(
    rewards: RewardSet,
    family: SpeechFamily,
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[str]],
    completion_ids: Sequence[Sequence[list[int]]],
    reward_arguments: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """Rewards of K hypotheses for each of n rows; of a timed transcript they get the words, as of the hypotheses.

    Returns:
        (n, K) totals and (n, K, R) parts, float64; NaN where nothing scored a hypothesis.
    """
    count = len(completions[0]) if completions else 0
    if not count:
        return torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, 0, len(rewards.names), dtype=torch.float64)
    names = dict.fromkeys(name for row in rows for name in row if name not in OURS)
    columns = {name: [row.get(name) for row in rows for _ in range(count)] for name in names}
    table = rewards(
        [text for group in completions for text in group],
        [ids for group in completion_ids for ids in group],
        {**columns, "text": [family.words(row["text"]) for row in rows for _ in range(count)]},
        [row["where"] for row in rows for _ in range(count)],
        **reward_arguments,
    )

    def as_tensor(values: Sequence[float | None]) -> Tensor:
        filled = [torch.nan if value is None else value for value in values]
        return torch.tensor(filled, dtype=torch.float64).reshape(len(rows), count)

    return as_tensor(table.total), torch.stack([as_tensor(table.parts[name]) for name in rewards.names], -1)


def reward_texts(
    rewards: RewardSet, family: SpeechFamily, rows: Dataset, texts: Sequence[str], state: TrainerState
) -> tuple[Tensor, Tensor]:
    """Rewards of one decoded hypothesis for each row, (n, 1) and (n, 1, R) as in `reward_completions`."""
    ids = [[_text_tokens(family, text, row)] for text, row in zip(texts, rows, strict=True)]
    return reward_completions(rewards, family, list(rows), [[text] for text in texts], ids, {"trainer_state": state})


def _text_tokens(family: SpeechFamily, text: str, row: Mapping[str, Any]) -> list[int]:
    """Token ids of a decoded text; of a loop that needs more of them than the decoder has, a beginning that fits."""
    while True:
        try:
            tokens = family.tokenize_row(text, row)
            return tokens.ids[tokens.first_kept :]
        except ValueError:
            if not text:
                raise
            text = text[: len(text) // 2]


def kept_tokens(samples: GroupSamples, clip: int) -> list[list[int]]:
    """The K lists of sampled token ids of one clip, end token included."""
    tokens, keep = samples.tokens[clip, :, 1:].cpu(), samples.keep[clip].cpu()
    return [ids[kept].tolist() for ids, kept in zip(tokens, keep, strict=True)]


def merge_samples(ours: GroupSamples, theirs: GroupSamples, clips: Tensor, pad: int) -> GroupSamples:
    """Samples of two rounds in one, those of `clips` (B,) bool from the second.

    Args:
        pad: the token written behind the shorter ones.
    """
    length = max(ours.tokens.shape[-1], theirs.tokens.shape[-1])
    chosen = clips.to(ours.tokens.device)[:, None]

    def choose(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(chosen[..., None], second, first)

    whole = ours.logps.shape != ours.keep.shape  # a family that scores a hypothesis as one has T = 1
    size = 1 if whole else length - 1
    return GroupSamples(
        choose(pad_to(ours.tokens, length, pad), pad_to(theirs.tokens, length, pad)),
        choose(pad_to(ours.keep, length - 1, False), pad_to(theirs.keep, length - 1, False)),
        choose(pad_to(ours.logps, size, 0.0), pad_to(theirs.logps, size, 0.0)),
        torch.where(chosen, theirs.finished, ours.finished),
    )

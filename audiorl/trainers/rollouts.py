"""Rollouts of one optimizer step: K sampled hypotheses of each clip and their rewards.

1. Batches carry their rows, since rewards read columns.
2. Every clip is encoded once, without a graph.
3. K hypotheses of each clip are sampled, with randomness from (seed, step, row).
4. All hypotheses of the step are rewarded in one call.
5. Groups whose rewards do not vary teach nothing. They are sampled again, up to the number of tries allowed, with
   randomness from (seed, step, row, try).
6. What the steps learn from is kept in tensors that fit into a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerState

from audiorl.batch import AUDIO_COMPANIONS, BatchRows, GroupBatch, GroupSamples, pad_to
from audiorl.collator import SpeechCollator, UsableRow
from audiorl.datasets.storage import OURS
from audiorl.losses import zero_variance
from audiorl.models import SpeechFamily
from audiorl.models.engines import Draw, RolloutEngine
from audiorl.rewards import RewardSet
from audiorl.trainers.distributed import gathered_rows


class RolloutCollator(SpeechCollator):
    """`SpeechCollator` whose batches also carry their rows, for rewards that read columns.

    Args:
        max_tokens: where rollouts stop; a row with a longer transcript is a bad row.
        text_optional: whether rows may come without a transcript, as none is learnt from and no reward needs one. Their
            tokens are prefix and end: what a hypothesis goes on from.

    The other arguments are those of `SpeechCollator`.
    """

    def __init__(self, family: SpeechFamily, *, max_tokens: int, text_optional: bool = False, **kwargs: Any):
        super().__init__(family, **{"text_columns": ("text",), **kwargs})
        self.text_optional = text_optional
        # where a hypothesis is drawn as a whole, no number of tokens limits it
        self.max_tokens = max_tokens if family.token_level else None

    def _batch(self, usable: list[UsableRow]) -> GroupBatch:
        return super()._batch(usable).replace(rows=BatchRows([found.row for found in usable]))

    def _placeholder(self) -> GroupBatch:
        return super()._placeholder().replace(rows=BatchRows([{}]))


def require_rows(collator: Any) -> None:
    """Refuse a collator whose batches do not carry their rows."""
    if not isinstance(collator, RolloutCollator):
        raise ValueError(
            f"Rewards read the columns of the rows, which only RolloutCollator passes on; data_collator is a "
            f"{type(collator).__name__}. Leave it out, or derive it from RolloutCollator."
        )


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
    sampler: Any  # what `sample_groups` takes: top-k, top-p, min-p, repetition; None for the policy as it is
    seed: int
    engine: RolloutEngine  # who draws them


class RolloutMaker:
    """Micro-batches -> `Rollout`s; every process calls it with as many micro-batches.

    Args:
        tries: how often a group without variance may be sampled again, 0 for never.
        during: context managers by name, "rollout" and "rewards", in which the two are done; they measure time.
    """

    def __init__(
        self,
        family: SpeechFamily,
        rewards: RewardSet,
        accelerator: Accelerator,
        sampling: Sampling,
        tries: int = 0,
        *,
        during: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ):
        self.family = family
        self.rewards = rewards
        self.accelerator = accelerator
        self.sampling = sampling
        self.tries = tries
        self.during = during

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        batches: Sequence[GroupBatch],
        step: int,
        *,
        temperature: float,
        **reward_arguments: Any,
    ) -> list[Rollout]:
        """Sample and reward; the model is in evaluation mode, so that caches work and nothing is dropped.

        Args:
            model: the policy, wrapped as it is trained.
            batches: from `RolloutCollator`.
            step: >= 0, the optimizer step, from which the randomness is drawn.
            temperature: > 0, that logits are divided by.
            reward_arguments: handed on to every reward, beside the columns.
        """

        def roll_out(states: Sequence[Tensor], attempt: int, wanted: Sequence[Tensor]) -> list[Rollout]:
            how = self.sampling
            # numpy splits a large seed into words of 32 bits, so this is the seed (seed, step, attempt, row)
            numbered = step + (attempt << 32)
            draw = Draw(how.num_generations, how.max_tokens, temperature, how.sampler, how.seed, numbered)
            asked = [batch.without(~clips) for batch, clips in zip(batches, wanted, strict=True)]
            drawn = how.engine.sample(model, asked, states, draw)
            return self._reward(batches, drawn, states, wanted, reward_arguments)

        with self.during("rollout"):
            return self._in_tries(model, batches, roll_out)

    def _in_tries(
        self,
        model: nn.Module,
        batches: Sequence[GroupBatch],
        roll_out: Callable[[Sequence[Tensor], int, Sequence[Tensor]], list[Rollout]],
    ) -> list[Rollout]:
        """Roll out all clips, then those without variance again.

        Args:
            roll_out: (states of all clips, try, which clips of each batch) -> rollouts.
        """
        self.sampling.engine.sync(model)
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
        ids = [kept_tokens(drawn[i], b) for i, b in places]
        logps = [drawn[i].logps[b].double().sum(-1).tolist() for i, b in places]
        rows, said = [batches[i].rows[b] for i, b in places], [texts[i][b] for i, b in places]
        with self.during("rewards"):
            total, parts = reward_completions(self.rewards, self.family, rows, said, ids, reward_arguments, logps)
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
    logps: Sequence[Sequence[float]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rewards of K hypotheses for each of n rows; of a timed transcript they get the words, as of the hypotheses.

    Args:
        logps: n lists of K log-probabilities; None where nobody knows them.

    Returns:
        (n, K) totals and (n, K, R) parts, float64; NaN where nothing scored a hypothesis.
    """
    count = len(completions[0]) if completions else 0
    if not count:
        return torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, 0, len(rewards.names), dtype=torch.float64)
    names = dict.fromkeys(name for row in rows for name in row if name not in OURS)
    columns = {name: [row.get(name) for row in rows for _ in range(count)] for name in names}
    if "text" in columns:
        columns["text"] = [None if text is None else family.words(text) for text in columns["text"]]
    table = rewards(
        [text for group in completions for text in group],
        [ids for group in completion_ids for ids in group],
        columns,
        [row["where"] for row in rows for _ in range(count)],
        group=[(i, k) for i in range(len(rows)) for k in range(count)],
        completion_logps=None if logps is None else [logp for own in logps for logp in own],
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
    """Token ids of a decoded text. Of a text too long for the decoder, the beginning that fits."""
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
    """The samples of two rounds in one; those of `clips`, (B,) bool, come from the second round.

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
        None
        if ours.engine_logps is None or theirs.engine_logps is None
        else choose(pad_to(ours.engine_logps, length - 1, 0.0), pad_to(theirs.engine_logps, length - 1, 0.0)),
    )


class Learnt(NamedTuple):
    """What a method makes of one rollout."""

    tensors: dict[str, Tensor]  # tokens (B, H, T+1) and keep (B, H, T) of H hypotheses, and what its loss reads beside
    counts: Tensor  # (n,) what its losses are divided by, of this micro-batch


class StepData(NamedTuple):
    """Everything sampled that the inner updates read. The loader brings the audio again."""

    step: int  # the optimizer step that sampled
    batches: list[dict[str, Tensor]]  # of each micro-batch: row_ids and the tensors of `Learnt`
    counts: Tensor  # (n,) over micro-batches and processes
    states: list[Tensor | None]  # of a frozen encoder; None: every step encodes

    def save(self, path: str) -> None:
        """Write all but the encoder's states, which are computed again."""
        batches = [{name: tensor.cpu() for name, tensor in tensors.items()} for tensors in self.batches]
        torch.save({"step": self.step, "batches": batches, "counts": self.counts.cpu()}, path)

    def check_rows(self, batches: Sequence[GroupBatch]) -> None:
        """Whether this was sampled for these micro-batches.

        Raises:
            ValueError: a resumed run goes on with other rows than it stopped with.
        """
        if [tensors["row_ids"].tolist() for tensors in self.batches] != [b.row_ids.tolist() for b in batches]:
            raise ValueError(
                f"The saved rollouts of step {self.step} belong to other rows than those of the loader. Resume with "
                "the batch size, accumulation, seed, num_iterations and number of processes of the interrupted run."
            )


def rollouts_file(checkpoint: str, process_index: int) -> str:
    """Where a process saves its rollouts, in a checkpoint that falls between two updates on them."""
    return os.path.join(checkpoint, f"rollouts_{process_index}.pt")


def load_step_data(path: str, device: torch.device, num_iterations: int) -> StepData:
    """What `StepData.save` wrote.

    Raises:
        ValueError: there is no such file.
    """
    if not os.path.exists(path):
        raise ValueError(
            f"The checkpoint falls between the {num_iterations} updates on one round of rollouts, but there is no "
            f"{path}. Resume with the num_iterations and the number of processes of the interrupted run."
        )
    saved = torch.load(path, weights_only=True)
    states: list[Tensor | None] = [None] * len(saved["batches"])
    return StepData(saved["step"], saved["batches"], saved["counts"].to(device), states)


class HeldRollouts:
    """The samples that the inner updates of a step read. They are saved in checkpoints that fall between two updates.

    Args:
        trainer: a `RolloutTrainer`.

    Attributes:
        data: None before the first step.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.data: StepData | None = None

    def get(self) -> StepData:
        assert self.data is not None, "sampled in the first of the inner updates, or read from the checkpoint"
        return self.data

    @property
    def _between(self) -> bool:
        return bool(self.trainer.state.global_step % self.trainer.args.num_iterations)

    def save(self, checkpoint: str) -> None:
        if self.data is not None and self._between:
            self.data.save(rollouts_file(checkpoint, self.trainer.args.process_index))

    def load(self, checkpoint: str) -> None:
        args, self.data = self.trainer.args, None
        if self._between:
            path = rollouts_file(checkpoint, args.process_index)
            self.data = load_step_data(path, args.device, args.num_iterations)


def audio_of(batch: GroupBatch) -> dict[str, Tensor]:
    """The audio tensors of a batch."""
    return {key: batch.tensors[key] for key in (batch.audio_key, *AUDIO_COMPANIONS) if key in batch}


def with_transcript(tensors: dict[str, Tensor], batch: GroupBatch, pad: int) -> dict[str, Tensor]:
    """The tensors with the row's transcript after the H hypotheses: `tokens` and `keep` (B, H + 1, ...).

    Args:
        tensors: what lies beside the tokens of the H hypotheses, (B, H, T), is made as long as these become.
        batch: as it came from the collator, the transcript its only hypothesis.
        pad: the token written behind the shorter ones.
    """
    tokens, keep = tensors["tokens"], tensors["keep"]
    length = max(tokens.shape[-1], batch.tokens.shape[-1])

    beside = {
        name: pad_to(values, length - 1)
        for name, values in tensors.items()
        if name not in ("tokens", "keep") and values.shape == keep.shape
    }
    return {
        **tensors,
        **beside,
        "tokens": torch.cat([pad_to(tokens, length, pad), pad_to(batch.tokens, length, pad)], 1),
        "keep": torch.cat([pad_to(keep, length - 1), pad_to(batch.keep, length - 1)], 1),
    }


def each_row_once(batches: Sequence[GroupBatch], accelerator: Accelerator) -> list[GroupBatch]:
    """Turn rows that come twice among the micro-batches of all processes into placeholders; the first one stays."""
    sizes = [len(batch.row_ids) for batch in batches]
    everywhere, start = gathered_rows(torch.cat([batch.row_ids for batch in batches]), accelerator)
    ids = everywhere.tolist()
    repeated = torch.tensor([row in ids[:i] for i, row in enumerate(ids)], device=everywhere.device)
    parts = repeated[start : start + sum(sizes)].split(sizes)
    return [batch.without(part) for batch, part in zip(batches, parts, strict=True)]

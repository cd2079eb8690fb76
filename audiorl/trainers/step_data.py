"""What the optimizer steps of one round of rollouts learn from: tensors that fit into a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from audiorl.batch import AUDIO_COMPANIONS, GroupBatch, pad_to
from audiorl.trainers.gathering import gathered_rows


class Learnt(NamedTuple):
    """What a method makes of one rollout."""

    tensors: dict[str, Tensor]  # tokens (B, H, T+1) and keep (B, H, T) of H hypotheses, and what its loss reads beside
    counts: Tensor  # (n,) what its losses are divided by, of this micro-batch


class StepData(NamedTuple):
    """Everything sampled that the inner updates read; the audio comes from the loader again."""

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
                f"The rollouts of step {self.step} are of other rows than the loader brings. Resume with the batch "
                "size, accumulation, seed, num_iterations and number of processes of the interrupted run."
            )


def rollouts_file(checkpoint: str, process_index: int) -> str:
    """Where a process keeps its rollouts in a checkpoint that falls between two updates on them."""
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
    """What the inner updates of a step read; written into checkpoints that fall between two of them.

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
    """The tensors with the row's transcript behind the H hypotheses: `tokens` and `keep` (B, H + 1, ...).

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

"""Learning from rewarded hypotheses: rows, rewards and evaluation that every such trainer shares.

1. Rows need `audio`, `text` and what the rewards read; that is checked before anything is spent.
2. `roll_out` samples K hypotheses of each clip from one encoder pass and rewards them (`rollouts.py`).
3. Evaluation decodes the rows and rewards what was decoded; a rollout has no evaluation loss.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

from datasets import Dataset
from torch import nn
from transformers.trainer_utils import EvalLoopOutput

from audiorl.collator import SpeechCollator
from audiorl.datasets import RowFault, speech_rows
from audiorl.datasets.rows import OURS
from audiorl.evaluation import Decoded
from audiorl.rewards import RewardSet
from audiorl.trainers.base import SpeechTrainer, TrainerArguments
from audiorl.trainers.rollout_collator import RolloutCollator, length_fault, require_rows
from audiorl.trainers.rollout_config import SamplingConfig
from audiorl.trainers.rollouts import RolloutMaker, Sampling, reward_texts


class RewardedTrainer(SpeechTrainer):
    """Base of the trainers that learn from hypotheses of their own, by what rewards say of them.

    Args:
        model: id or path of a checkpoint, or a model.
        reward_funcs: one reward or several: names, dotted paths, callables with TRL's signature.
        args: the subclass's config.
        num_hypotheses: K, sampled for each clip.
        tries: how often a group without variance may be sampled again.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("text",)
    args: SamplingConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        reward_funcs: Any,
        args: SamplingConfig,
        *,
        num_hypotheses: int,
        tries: int = 0,
        **kwargs: Unpack[TrainerArguments],
    ):
        self.rewards = RewardSet(reward_funcs, args.reward_weights, args.reward_timeout)
        super().__init__(model, args, **kwargs)
        require_rows(self.data_collator)
        sampling = Sampling(num_hypotheses, args.max_completion_length, args.temperature, args.sampler(), args.seed)
        self.roll_out = RolloutMaker(self.family, self.rewards, self.accelerator, sampling, tries)

    # ---- rows ----

    def _default_collator(self, args: Any) -> SpeechCollator:
        return RolloutCollator(
            self.family,
            text_columns=self.text_columns,
            skipped=self.skipped if args.on_bad_rows == "skip" else None,
            silence=args.allow_silence,
            max_tokens=args.max_completion_length,
        )

    def _faults(self, rows: Dataset) -> list[RowFault]:
        faults = super()._faults(rows)
        faulty = {fault.row_id for fault in faults}
        texts = rows.remove_columns([name for name in rows.column_names if name == "audio"])
        longer = (
            length_fault(self.family, row, self._max_tokens)
            for row in (texts if "text" in rows.column_names else [])
            if row["row_id"] not in faulty
        )
        return faults + [fault for fault in longer if fault is not None]

    def _checked_rows(self, source: Any, args: Any, name: str) -> Any:
        self._max_tokens = args.max_completion_length
        rows = super()._checked_rows(source, args, name)
        if isinstance(rows, Dataset):
            self.rewards.check_columns([column for column in rows.column_names if column not in OURS])
        return rows

    # ---- evaluation ----

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Decode, reward, count errors; nothing is scored."""
        rows = speech_rows(dataloader.dataset)
        decoded = self.decode(rows)
        self._reward_decoded(rows, decoded)
        found = {**self.metrics.drain("eval"), **self.decoder.measure(decoded)}
        metrics = {f"{kwargs.get('metric_key_prefix', 'eval')}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))

    def _reward_decoded(self, rows: Dataset, decoded: Decoded) -> None:
        """Each process rewards its share of the hypotheses."""
        places = range(self.args.process_index, len(rows), self.args.world_size)
        texts = [decoded.hypotheses[i] for i in places]
        total, parts = reward_texts(self.rewards, self.family, rows.select(places), texts, self.state)
        names = ["reward", *(f"rewards/{name}/mean" for name in self.rewards.names)]
        for name, values in zip(names, [total, *parts.unbind(-1)], strict=True):
            self.metrics.add("eval", name, values.to(self.args.device), ~values.isnan().to(self.args.device))

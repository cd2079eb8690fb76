"""Kahneman-Tversky optimisation on speech (Ethayarajh et al. 2024, arXiv:2402.01306): transcripts judged one by one.

1. A batch holds B clips with one transcript each, and whether it is desirable: a thumb up or down.
2. The policy and the frozen policy score it.
3. Both also score each clip with the transcript of the clip before it. The mean log-ratio of these mismatched pairs,
   not below 0, is the reference point: an estimate of the divergence of the two policies.
4. The loss makes a desirable transcript more valuable than the reference point, an undesirable one less
   (`audiorl.losses.unpaired`).

Deviations from the paper:
1. The reference point is taken over the mismatched pairs of the whole optimizer step, over micro-batches and processes,
   not of each micro-batch. A mismatched pair has the clip's own prefix (language, task, a prompt). Pairs that the
   model cannot write (too long for its decoder or, with CTC, for the clip) are left out. A step of one clip has no
   such pair, and its reference point is 0.
2. `loss_type="apo_zero_unpaired"` is offered too, as in TRL.
3. The mean is over the clips of the whole step. The end token counts in a transcript, its prefix does not.
4. With `sft_weight` the desirable transcripts are learnt by their likelihood as well.

The policy scores all transcripts of a clip from one encoder pass. With `gradient_accumulation_steps` above 1 the
reference point is needed before the first micro-batch learns, so the policy encodes twice unless its encoder is frozen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from audiorl.batch import GroupBatch, GroupScores, pad_to, pad_tokens
from audiorl.losses import (
    UNPAIRED_LOSSES,
    UnpairedObjective,
    UnpairedScores,
    balanced_weights,
    loss_name,
    mismatched_kl,
    supervised_loss,
)
from audiorl.losses.reductions import pair_mean
from audiorl.losses.settings import number_not_below, read_loss_settings
from audiorl.trainers.base import Collate, ComputeMetrics, Optimizers, SpeechTrainer
from audiorl.trainers.config import LOSS_SETTINGS_HELP, SpeechConfig, SyncedReferenceFields
from audiorl.trainers.loading import default_output_dir

logger = logging.get_logger(__name__)

# In a batch: the frozen policy's (B, K) log-probabilities, and the policy's encoder states, where both are known.
REF_LOGPS, STATES = "ref_logps", "states"


@dataclass
class KTOConfig(SyncedReferenceFields, SpeechConfig):
    """Arguments of `KTOTrainer`, named as in TRL; settings of the loss are checked by `UnpairedObjective`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    loss_type: str = field(
        default="kto",
        metadata={
            "help": f"{', '.join(UNPAIRED_LOSSES)}, or a loss of your own by its dotted path, my_module.my_loss; in "
            "Python also the function itself."
        },
    )
    loss_settings: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036
        default=None, metadata={"help": LOSS_SETTINGS_HELP}
    )
    beta: float = field(default=0.1, metadata={"help": "Above 0: the cost of leaving the frozen policy."})
    desirable_weight: float = field(
        default=1.0, metadata={"help": "Weight of desirable transcripts, >= 0; lambda_D in the paper."}
    )
    undesirable_weight: float = field(
        default=1.0, metadata={"help": "Weight of undesirable transcripts, >= 0; lambda_U in the paper."}
    )
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight >= 0 of the negative log-likelihood (mean over tokens) of the desirable transcripts. KTO "
            "alone is content once a transcript is above the reference point; this term goes on."
        },
    )
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Score all rows with the frozen policy once before training, so that no second model stays in "
            "memory. Only with apo_zero_unpaired: kto makes new mismatched pairs in each step."
        },
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "Clips in a batch of that pass; unset: the training batch size."}
    )

    def __post_init__(self):
        super().__post_init__()
        number_not_below("sft_weight", self.sft_weight, 0)
        self.check_synced_reference()
        self.loss_settings = read_loss_settings(self.loss_settings) or None
        objective = self.objective()
        if self.sync_ref_model and self.precompute_ref_log_probs:
            raise ValueError(
                "sync_ref_model changes the reference during training, precompute_ref_log_probs fixes it. Choose one."
            )
        if objective.uses_kl and self.precompute_ref_log_probs:
            raise ValueError(
                "precompute_ref_log_probs scores what is known before training, and loss_type "
                f"{loss_name(self.loss_type)!r} compares each clip with a transcript of its step. Train an adapter, "
                "which needs no second model, or set loss_type to 'apo_zero_unpaired'."
            )

    def objective(self) -> UnpairedObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, or a value out of its range.
        """
        return UnpairedObjective(
            self.loss_type,
            self.beta,
            self.desirable_weight,
            self.undesirable_weight,
            self.loss_settings,  # type: ignore[arg-type]
        )


class KTOTrainer(SpeechTrainer):
    """Tune a speech model on transcripts that were judged alone; rows need `audio`, `completion`, `label`.

    Args:
        model: id or path of a checkpoint, or a model.
        ref_model: the frozen policy; default the model as it is handed in, or, with an adapter, the model without it.
        args: `KTOConfig`; default one that writes to `<model name>-KTO`.

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("completion",)
    flag_columns = ("label",)
    args: KTOConfig

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        ref_model: str | os.PathLike | nn.Module | None = None,
        args: KTOConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Collate | None = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
    ):
        args = args or KTOConfig(output_dir=default_output_dir(model, "KTO"))
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
            quantization_config=quantization_config,
        )
        self.objective = args.objective()
        self._tell_balance()
        self.set_reference(ref_model, new_adapter=peft_config is not None)
        self.metrics.add_difference("rewards/margins", "rewards/chosen", "rewards/rejected")
        self._step_kl = torch.zeros((), device=self.accelerator.device)
        self._step_desirable = torch.ones((), device=self.accelerator.device)  # tokens, over all processes

    def _tell_balance(self) -> None:
        """Say so where one kind of row outweighs the other."""
        if not isinstance(self.train_dataset, Dataset):
            return
        labels = self.train_dataset.with_format("arrow")[:]["label"].to_pylist()
        counts = sum(map(bool, labels)), sum(not label for label in labels)
        found = balanced_weights(*counts, self.args.desirable_weight, self.args.undesirable_weight)
        if found is not None:
            logger.warning(
                f"{counts[0]} rows are desirable and {counts[1]} are not; with these weights one kind outweighs the "
                f"other. The paper advises desirable_weight (--desirable_weight) from {found[0]:.3g} to {found[1]:.3g}."
            )

    # ---- one optimizer step ----

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.args.sft_weight > 0:
            mine = torch.stack([desirable_tokens(batch).sum() for batch in batches]).sum()
            self._step_desirable = self.accelerator.reduce(mine.to(device), reduction="sum")
        if not batches or not self.objective.uses_kl:
            return batches, num_items
        batches = with_mismatched(batches, self.accelerator, self.family.end_token)
        if len(batches) > 1:
            with torch.no_grad(), self.compute_loss_context_manager():
                batches = self._measure(batches)
        return batches, num_items

    def _measure(self, batches: Sequence[GroupBatch]) -> list[GroupBatch]:
        """Find the reference point of a step of several micro-batches; they keep what was found on the way."""
        model, sums, measured = self.model_wrapped, torch.zeros(2, device=self.accelerator.device), []
        keeps_states = self.family.encoder_is_frozen(model)
        for batch in batches:
            states = self.family.encode(model, batch)
            batch = self._fitting(model, batch, states)
            ref_logps = self._ref_logps(model, batch, states)
            sums += self._mismatched_sums(model, batch, states, ref_logps)
            known = {REF_LOGPS: ref_logps, **({STATES: states} if keeps_states else {})}
            measured.append(batch.replace(**known))
        self._step_kl = mismatched_kl(*self.accelerator.reduce(sums, reduction="sum"))
        return measured

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        if self.objective.uses_kl:
            (inputs,) = with_mismatched([self._without_repeats(inputs)], self.accelerator, self.family.end_token)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def transcript_column(self, columns: Sequence[str]) -> str:
        if "text" in columns:
            return "text"
        if "completion" not in columns:
            return super().transcript_column(columns)
        raise ValueError(
            "Errors are counted against true transcripts, and these rows have no column 'text', only completions "
            "that may be wrong. Add it, measure on other rows, or leave eval_wer and compute_metrics out."
        )

    # ---- the loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch, training = GroupBatch(inputs), model.training
        scores = self.family.score_groups(model, batch.hypothesis(0), batch.tensors.get(STATES))
        batch = self._fitting(model, batch, scores.states)
        ref_logps = self._ref_logps(model, batch, scores.states)
        judged = UnpairedScores(scores.logps.sum(-1)[:, 0], ref_logps[:, 0], batch.tensors["label"]).select(batch.valid)
        kl = self._reference_point(model, batch, scores.states, ref_logps)
        loss = pair_mean(self.objective(judged, kl), self.counts_of(batch, training).clips)
        if self.args.sft_weight > 0:
            loss = loss + self.args.sft_weight * self._likelihood(batch, scores, training)
        loss = self.scale_for_step(loss, training)
        if training:
            self.check_finite(loss, batch)
        self._log_judged(batch, judged, kl, scores, "train" if training else "eval")
        return (loss, scores) if return_outputs else loss

    def _likelihood(self, batch: GroupBatch, scores: GroupScores, training: bool) -> Tensor:
        """Nats for a token of the desirable transcripts, over the tokens of the whole step."""
        kept = scores.keep & batch.tensors["label"][:, None, None]
        own = desirable_tokens(batch).sum()
        loss = supervised_loss(scores.logps, kept, self._step_desirable if training else own)
        mode = "train" if training else "eval"
        self.metrics.add_ratio(mode, "loss/sft", torch.where(kept, -scores.logps, 0.0).sum(), own)
        return loss

    def _reference_point(self, model: nn.Module, batch: GroupBatch, states: Tensor, ref_logps: Tensor) -> Tensor:
        """The step's estimate: measured before it, or here where the step is this batch."""
        if not self.objective.uses_kl:
            return ref_logps.new_zeros(())
        if batch.num_hypotheses == 1 or (model.training and self.current_gradient_accumulation_steps > 1):
            return self._step_kl
        sums = self._mismatched_sums(model, batch, states, ref_logps)
        return mismatched_kl(*self.accelerator.reduce(sums, reduction="sum"))

    def _fitting(self, model: nn.Module, batch: GroupBatch, states: Tensor) -> GroupBatch:
        """Mismatched transcripts that are too long for the decoder behind another clip's prefix do not count."""
        room = self.family.positions(model, states)
        if room is None or batch.num_hypotheses == 1 or batch.keep.shape[-1] <= room:
            return batch
        own = batch.keep[:, 0].any(0).nonzero().flatten().tolist()
        room = max([room, *(last + 1 for last in own[-1:])])
        keep = batch.keep.clone()
        keep[:, 1] &= ~keep[:, 1, room:].any(-1, keepdim=True)
        return batch.replace(tokens=batch.tokens[..., : room + 1], keep=keep[..., :room])

    def _ref_logps(self, model: nn.Module, batch: GroupBatch, states: Tensor) -> Tensor:
        """(B, K) nats of the frozen policy."""
        assert self.frozen is not None
        known = batch.tensors.get(REF_LOGPS)
        return self.frozen.token_logps(model, batch, states).sum(-1) if known is None else known

    @torch.no_grad()
    def _mismatched_sums(self, model: nn.Module, batch: GroupBatch, states: Tensor, ref_logps: Tensor) -> Tensor:
        """(2,): log-ratios of the mismatched pairs of this batch, summed, and their number."""
        other = batch.hypothesis(1)
        scores = self.family.score_groups(model, other, states.detach())
        ratios = scores.logps.sum(-1)[:, 0] - ref_logps[:, 1]
        # CTC: a clip may have too few frames for another one's transcript
        counted = other.keep.any(-1)[:, 0] & torch.isfinite(ratios)
        return torch.stack([torch.where(counted, ratios, 0.0).sum(), counted.sum()])

    def _log_judged(
        self, batch: GroupBatch, judged: UnpairedScores, kl: Tensor, scores: GroupScores, mode: str
    ) -> None:
        """TRL's metrics; means over transcripts and tokens of all micro-batches and processes since the last log."""
        if self.objective.uses_kl:
            self.metrics.add(mode, "kl", kl)
        kept = scores.keep & batch.tensors["label"][:, None, None]
        for name, these, tokens in (
            ("chosen", judged.desirable, kept),
            ("rejected", ~judged.desirable, scores.keep & ~kept),
        ):
            self.metrics.add(mode, f"rewards/{name}", self.args.beta * judged.log_ratios, these)
            self.metrics.add(mode, f"logps/{name}", judged.logps, these)
            self.metrics.add(mode, f"logits/{name}", scores.mean_logits, tokens)
        self.metrics.add(mode, "entropy", scores.entropy, scores.keep)


def desirable_tokens(batch: GroupBatch) -> Tensor:
    """(B, T) bool: the kept tokens of each clip's own transcript where it is desirable."""
    return batch.keep[:, 0] & batch.tensors["label"].to(batch.keep.device)[:, None]


# ---- mismatched pairs ----


def with_mismatched(batches: Sequence[GroupBatch], accelerator: Accelerator, end_token: int) -> list[GroupBatch]:
    """Add a second hypothesis to each clip: the transcript of the clip before it in the step, behind its own prefix.

    The step goes round: the first clip gets the last one's transcript. A placeholder gets nothing, and a clip that is
    alone in its step nothing that counts. The order is that of the rows, however they are spread over processes.

    Args:
        batches: the micro-batches of this process, K = 1.
        end_token: the id written behind the end.
    """
    mine = [_completions(batch) for batch in batches]
    spread = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    # rows go round the processes: micro-batch after micro-batch, process after process
    several = [ids for turn in zip(*spread, strict=True) for part in turn for ids in part if ids is not None]
    before, found = several[-1] if len(several) > 1 else None, []
    for batch, turn in zip(batches, zip(*spread, strict=True), strict=True):
        others: list[list[int] | None] = []
        for process, part in enumerate(turn):
            for ids in part:
                if process == accelerator.process_index:
                    others.append(None if ids is None else before)
                before = ids if ids is not None and len(several) > 1 else before
        found.append(_with_other(batch, others, end_token))
    return found


def _completions(batch: GroupBatch) -> list[list[int] | None]:
    """The ids of each transcript, end token included; None for placeholders."""
    return [
        ids[kept].tolist() if there else None
        for ids, kept, there in zip(batch.tokens[:, 0, 1:].cpu(), batch.keep[:, 0].cpu(), batch.valid, strict=True)
    ]


def _with_other(batch: GroupBatch, others: Sequence[list[int] | None], end_token: int) -> GroupBatch:
    """K = 2: the clip's own transcript, and another behind the same prefix; for None its own again, uncounted."""
    sequences, starts = [], []
    first_kept = (batch.keep[:, 0].int().argmax(-1) + 1).tolist()
    for ids, start, other in zip(batch.tokens[:, 0].tolist(), first_kept, others, strict=True):
        sequences.append([ids if other is None else ids[:start] + other])
        starts.append([len(ids) if other is None else start])
    tokens, keep = (part.to(batch.tokens.device) for part in pad_tokens(sequences, starts, end_token))
    length = max(batch.keep.shape[-1], keep.shape[-1])
    return batch.replace(
        tokens=torch.cat([pad_to(part, length + 1, end_token) for part in (batch.tokens, tokens)], 1),
        keep=torch.cat([pad_to(part, length) for part in (batch.keep, keep)], 1),
    )

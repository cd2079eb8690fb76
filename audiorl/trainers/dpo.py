"""Direct preference optimisation on speech (Rafailov et al. 2023, arXiv:2305.18290), every clip encoded once.

1. A batch holds B clips with two transcripts each, chosen and rejected.
2. The policy scores both from one encoder pass over B clips.
3. The frozen policy scores both: a copy, the policy with its adapter off, or a table made before the first step. Where
   nothing trainable sits in the encoder, it gets the policy's encoder states and encodes nothing.
4. The objective turns the four log-probabilities of each pair into a loss (`audiorl.losses.preference`).

Deviations from the paper:
1. Losses other than eq. 7 are offered, alone or summed, as in TRL.
2. Means are over the pairs of the whole optimizer step, not of each micro-batch.
3. The prefix tokens (language, task) are conditions and do not count as transcript; the end token does.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from trl.trainer.callbacks import SyncRefModelCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.collator import SpeechCollator
from audiorl.losses import CombinedObjective, PairScores, pair_scores, sequence_reduction
from audiorl.models import base_model, disable_dropout
from audiorl.reference import (
    AdapterOff,
    FrozenCopy,
    check_same_tokens,
    frozen_copy,
    keep_adapter_as_reference,
)
from audiorl.trainers.base import SpeechTrainer, StepCounts
from audiorl.trainers.config import SpeechConfig
from audiorl.trainers.gathering import gathered_pairs
from audiorl.trainers.loading import load_model

REF_LOGPS = "ref_logps"
SYNCED_REFERENCE = "ref_model.pt"


@dataclass
class DPOConfig(SpeechConfig):
    """Arguments of `DPOTrainer`, named as in TRL; settings of the losses are checked by `CombinedObjective`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={"help": "One or several of audiorl.losses.PREFERENCE_LOSSES, or a preset: mpo."},
    )
    loss_weights: list[float] | None = field(
        default=None,
        metadata={"help": "A weight >= 0 for each loss; 1 each where left out. 0 only logs a loss."},
    )
    beta: float = field(default=0.1, metadata={"help": "Above 0: the cost of leaving the frozen policy; tau of IPO."})
    label_smoothing: float = field(
        default=0.0,
        metadata={"help": "Share of pairs whose order is wrong, 0 to below 0.5; robust, exo_pair, aot."},
    )
    f_divergence_type: str = field(
        default="reverse_kl",
        metadata={"help": "reverse_kl, forward_kl, js_divergence or alpha_divergence between policy and reference."},
    )
    f_alpha_divergence_coef: float = field(default=0.5, metadata={"help": "Alpha of alpha_divergence."})
    discopop_tau: float = field(default=0.05, metadata={"help": "Temperature of discopop, above 0."})
    ld_alpha: float | None = field(
        default=None,
        metadata={"help": "LD-DPO: weight in 0 to 1 of the tokens by which one transcript is longer; unset: 1."},
    )
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={"help": "Score the data with the frozen policy once before training and keep no second model."},
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "Clips in a batch of that pass; default the training batch."}
    )
    sync_ref_model: bool = field(
        default=False, metadata={"help": "TR-DPO: move the reference towards the policy now and then."}
    )
    ref_model_mixup_alpha: float = field(
        default=0.6, metadata={"help": "TR-DPO: share of the policy in the new reference, above 0 to 1."}
    )
    ref_model_sync_steps: int = field(
        default=512, metadata={"help": "TR-DPO: optimizer steps between two moves of the reference."}
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        self.objective()
        sequence_reduction(self.ld_alpha)
        if self.sync_ref_model and self.precompute_ref_log_probs:
            raise ValueError(
                "sync_ref_model changes the reference during training, precompute_ref_log_probs fixes it. Choose one."
            )
        if not 0 < self.ref_model_mixup_alpha <= 1 or self.ref_model_sync_steps < 1:
            raise ValueError(
                f"TR-DPO takes ref_model_mixup_alpha in (0, 1] and ref_model_sync_steps >= 1; got "
                f"{self.ref_model_mixup_alpha} and {self.ref_model_sync_steps}. The paper uses 0.6 and 512."
            )

    def objective(self) -> CombinedObjective:
        """The objective these arguments describe.

        Raises:
            ValueError: an unknown loss, or a value out of its range.
        """
        return CombinedObjective(
            self.loss_type,
            self.loss_weights,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            f_divergence_type=self.f_divergence_type,
            f_alpha_divergence_coef=self.f_alpha_divergence_coef,
            discopop_tau=self.discopop_tau,
        )


class DPOTrainer(SpeechTrainer):
    """Tune a speech model on pairs of transcripts; rows need `audio`, `chosen`, `rejected`.

    Args:
        model: id or path of a checkpoint, or a model.
        ref_model: the frozen policy; default the model as it is handed in, or, with an adapter, the model without it.
        args: `DPOConfig`; default one that writes to "<model name>-DPO".

    The other arguments are those of `SpeechTrainer`.
    """

    text_columns = ("chosen", "rejected")
    distinct_texts = True

    def __init__(
        self,
        model: str | os.PathLike | nn.Module,
        ref_model: str | os.PathLike | nn.Module | None = None,
        args: DPOConfig | None = None,
        **kwargs: Any,
    ):
        if args is None:
            name = base_model(model).config._name_or_path if isinstance(model, nn.Module) else model
            args = DPOConfig(output_dir=f"{os.path.basename(str(name)) or 'model'}-DPO")
        super().__init__(model, args, **kwargs)
        self.objective = args.objective()
        self.sum_tokens = sequence_reduction(args.ld_alpha)
        self.reference: FrozenCopy | AdapterOff | None = None
        if self.objective.uses_reference:
            self.reference = self._build_reference(ref_model, new_adapter=kwargs.get("peft_config") is not None)
            if args.precompute_ref_log_probs:
                self._precompute_all()

    # ---- the frozen policy ----

    def _build_reference(
        self, ref_model: str | os.PathLike | nn.Module | None, new_adapter: bool
    ) -> FrozenCopy | AdapterOff:
        if ref_model is self.model:
            raise ValueError("ref_model is the model that is trained, so it would not stay fixed. Leave it out.")
        if ref_model is not None:
            return self._frozen(frozen_copy(load_model(ref_model, self.args), share_frozen=False))
        if is_peft_model(self.model):
            if self.args.sync_ref_model:
                raise ValueError(
                    "sync_ref_model needs a reference of its own, and that of an adapter is the same model without it. "
                    "Pass ref_model, or train without an adapter."
                )
            if not new_adapter:
                keep_adapter_as_reference(self.model)
            return AdapterOff(self.family, self.model)
        if self.args.precompute_ref_log_probs:
            return FrozenCopy(self.family, self.model, self.model)
        return self._frozen(frozen_copy(self.model, share_frozen=not self.args.sync_ref_model))

    def _frozen(self, ref_model: nn.Module) -> FrozenCopy:
        check_same_tokens(self.model, ref_model)
        self.family.install(ref_model)
        disable_dropout(ref_model)
        reference = FrozenCopy(self.family, ref_model, self.model)
        reference.ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        if self.args.sync_ref_model:
            self.add_callback(SyncRefModelCallback(reference.ref_model, self.accelerator))
        return reference

    def _precompute_all(self) -> None:
        """Score all rows now, while the policy is what was handed in, and let go of the reference."""
        if not isinstance(self.data_collator, SpeechCollator):
            raise ValueError(
                "precompute_ref_log_probs hands its table over in a column for SpeechCollator; data_collator is a "
                f"{type(self.data_collator).__name__}. Leave data_collator out, or precompute_ref_log_probs off."
            )
        self.data_collator.tensor_columns = (*self.data_collator.tensor_columns, REF_LOGPS)
        self.train_dataset = self._with_ref_logps(self.train_dataset, "training")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {name: self._with_ref_logps(rows, name) for name, rows in self.eval_dataset.items()}
        else:
            self.eval_dataset = self._with_ref_logps(self.eval_dataset, "evaluation")
        if not isinstance(self.reference, AdapterOff):
            self.reference = None

    @torch.no_grad()
    def _with_ref_logps(self, rows: Any, name: str) -> Any:
        if rows is None:
            return None
        if not isinstance(rows, Dataset):
            raise ValueError(
                "precompute_ref_log_probs scores every row once before training, which a stream cannot offer. "
                "Load the rows as a Dataset, or leave it off."
            )
        batch_size = self.args.precompute_ref_batch_size or self.args.per_device_train_batch_size
        collate = copy.copy(self.data_collator)
        collate.tensor_columns = tuple(column for column in collate.tensor_columns if column != REF_LOGPS)
        loader = self.accelerator.prepare_data_loader(
            DataLoader(rows, batch_size, collate_fn=collate, num_workers=self.args.dataloader_num_workers)
        )
        found: dict[int, list[float]] = {}
        reference = self._required_reference()
        self.model.eval()
        for inputs in tqdm(loader, desc=f"Reference of the {name} rows", disable=self.args.disable_tqdm):
            batch = GroupBatch(self._prepare_inputs(inputs))
            with self.accelerator.autocast():
                logps = self.sum_tokens(reference.token_logps(self.model, batch, None), batch.keep)
            found.update(zip(batch.row_ids.tolist(), logps.tolist(), strict=True))
        if self.args.world_size > 1:
            found = {row_id: logps for part in gather_object([found]) for row_id, logps in part.items()}
        nothing = [0.0] * len(self.text_columns)  # a row that broke on decoding; it will break again and not count
        return rows.add_column(REF_LOGPS, [found.get(row_id, nothing) for row_id in rows["row_id"]])

    def prepare_rows(self, source: Any, name: str) -> Any:
        rows = super().prepare_rows(source, name)
        if not self.args.precompute_ref_log_probs or not self.objective.uses_reference:
            return rows
        if self.reference is None:
            raise ValueError(
                "With precompute_ref_log_probs the reference is gone after the first pass, so new rows cannot be "
                "scored with it. Pass them as eval_dataset when the trainer is built, or leave the option off."
            )
        return self._with_ref_logps(rows, name)

    # ---- the loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, GroupScores]:
        batch, training = GroupBatch(inputs), model.training
        scores = self.family.score_groups(model, batch)
        pairs = pair_scores(
            scores.logps, scores.keep, self._ref_logps(model, batch, scores), sum_tokens=self.sum_tokens
        ).select(batch.valid)
        counts = self.counts_of(batch, training)
        if self.objective.batch_wide and training and self.accelerator.num_processes > 1:
            loss = self._batch_wide_loss(pairs, counts)
        else:
            loss = self.objective(pairs).total(counts.clips, counts.tokens)
            loss = self.scale_for_step(loss, training)
        if training:
            self.check_finite(loss, batch)
        self._log_pairs(pairs, scores, "train" if training else "eval")
        return (loss, scores) if return_outputs else loss

    def _ref_logps(self, model: nn.Module, batch: GroupBatch, scores: GroupScores) -> Tensor:
        """(B, 2); where the encoder is frozen the reference reads the policy's states and encodes nothing."""
        if not self.objective.uses_reference:
            return torch.zeros(scores.logps.shape[:2], device=scores.logps.device)
        if self.args.precompute_ref_log_probs:
            return batch[REF_LOGPS]
        # what no gradient reaches is the same for policy and reference: one encoder pass serves both
        reference = self._required_reference()
        share = reference.same_encoder and self.family.encoder_is_frozen(model)
        states = scores.states.detach() if share else None
        return self.sum_tokens(reference.token_logps(model, batch, states), scores.keep)

    def _required_reference(self) -> FrozenCopy | AdapterOff:
        if self.reference is None:
            raise ValueError("There is no reference to score with. Build the trainer with a loss that uses one.")
        return self.reference

    def _batch_wide_loss(self, pairs: PairScores, counts: StepCounts) -> Tensor:
        """A loss over the pairs of all processes; gradients reach this process's own.

        Every process computes the same number. DDP averages gradients, each of which is one process's share of the sum,
        so the gradient is scaled up by the number of processes and the value is not.
        """
        loss = self.objective(gathered_pairs(pairs, self.accelerator)).total(counts.clips, counts.tokens)
        loss = loss * self.current_gradient_accumulation_steps
        return loss + (self.accelerator.num_processes - 1) * (loss - loss.detach())

    def _log_pairs(self, pairs: PairScores, scores: GroupScores, mode: str) -> None:
        """TRL's metrics; means over pairs and tokens of all micro-batches and processes since the last log."""

        def add(name: str, values: Tensor, keep: Tensor | None = None) -> None:
            self.metrics.add(mode, name, values, keep)

        if self.objective.uses_reference:
            rewards = self.args.beta * pairs.log_ratios
            add("rewards/chosen", rewards[:, 0])
            add("rewards/rejected", rewards[:, 1])
            add("rewards/margins", rewards[:, 0] - rewards[:, 1])
            add("rewards/accuracies", rewards[:, 0] > rewards[:, 1])
        for k, name in enumerate(self.text_columns):
            add(f"logps/{name}", pairs.logps[:, k])
            add(f"logits/{name}", scores.mean_logits[:, k], scores.keep[:, k])
        add("entropy", scores.entropy, scores.keep)
        add("mean_token_accuracy", scores.is_top1[:, 0], scores.keep[:, 0])

    # ---- resuming ----

    def save_extra_state(self, checkpoint: str) -> None:
        if isinstance(self.reference, FrozenCopy) and self.args.sync_ref_model and self.args.should_save:
            torch.save(base_model(self.reference.ref_model).state_dict(), os.path.join(checkpoint, SYNCED_REFERENCE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.reference, FrozenCopy) and self.args.sync_ref_model:
            state = torch.load(os.path.join(resume_from_checkpoint, SYNCED_REFERENCE), weights_only=True)
            base_model(self.reference.ref_model).load_state_dict(state)

"""A trainer that compares its policy with a frozen one: builds it, asks it, precomputes it, resumes it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
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
from audiorl.losses import sequence_sum
from audiorl.models import base_model, disable_dropout
from audiorl.reference import AdapterOff, FrozenCopy, check_same_tokens, frozen_copy, keep_adapter_as_reference
from audiorl.trainers.base import SpeechTrainer
from audiorl.trainers.loading import load_model
from audiorl.trainers.parallel import is_fsdp, prepare_frozen

REF_LOGPS = "ref_logps"
SYNCED_REFERENCE = "ref_model.pt"


class ReferenceTrainer(SpeechTrainer):
    """Base of the trainers with a frozen policy; their config has TRL's fields for it.

    Attributes:
        reference: the frozen policy; None where there is none, or where its scores were computed beforehand.
        precomputed: whether the rows carry the frozen policy's scores.
        sum_tokens: (logps (B, K, T), keep (B, K, T)) -> (B, K), how both policies' tokens become transcripts.
    """

    reference: FrozenCopy | AdapterOff | None = None
    precomputed = False
    sum_tokens: Callable[[Tensor, Tensor], Tensor] = staticmethod(sequence_sum)

    def set_reference(self, ref_model: str | os.PathLike | nn.Module | None, *, new_adapter: bool) -> None:
        """Find the frozen policy, now, while the policy is what was handed in.

        Args:
            ref_model: id, path or model; None for the policy itself as it is now.
            new_adapter: whether the policy's adapter, if it has one, was made by this trainer.
        """
        self.reference = self._build_reference(ref_model, new_adapter)
        if self.args.precompute_ref_log_probs:
            self._precompute_all()

    def ref_logps(self, model: nn.Module, batch: GroupBatch, scores: GroupScores) -> Tensor:
        """(B, K) nats under the frozen policy, summed over tokens, no graph.

        Args:
            model: the policy, wrapped as it is trained.
            scores: what the policy said of the batch; where its encoder is frozen the reference reads its states.
        """
        if self.precomputed:
            return batch.tensors[REF_LOGPS]
        # what no gradient reaches is the same for policy and reference: one encoder pass serves both
        reference = self._required_reference()
        share = reference.same_encoder and self.family.encoder_is_frozen(model)
        states = scores.states.detach() if share else None
        return self.sum_tokens(reference.token_logps(model, batch, states), scores.keep)

    def _build_reference(
        self, ref_model: str | os.PathLike | nn.Module | None, new_adapter: bool
    ) -> FrozenCopy | AdapterOff:
        if ref_model is self.model:
            raise ValueError("ref_model is the model that is trained, so it would not stay fixed. Leave it out.")
        if ref_model is not None:
            return self._frozen(load_model(ref_model, self.args).requires_grad_(False).eval())
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
        check_same_tokens(self.model, ref_model, self.family.labels)
        if self.args.sync_ref_model and is_fsdp(self.accelerator):
            raise ValueError(
                "sync_ref_model moves a whole reference towards a whole policy, and FSDP shards both. Train with DDP, "
                "or leave it off."
            )
        self.family.install(ref_model)
        disable_dropout(ref_model)
        reference = FrozenCopy(self.family, ref_model, self.model)
        reference.ref_model = prepare_frozen(ref_model, self.accelerator)
        if self.args.sync_ref_model:
            self.add_callback(SyncRefModelCallback(reference.ref_model, self.accelerator))
        return reference

    def _precompute_all(self) -> None:
        """Score all rows now, while the policy is what was handed in, and let go of the reference."""
        if self.augmentation is not None:
            raise ValueError(
                "precompute_ref_log_probs scores every clip once as it is, and augmentation changes it in each epoch. "
                "Turn one of them off."
            )
        self.precomputed = True
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
        # FSDP and DeepSpeed leave the model where it was loaded until training starts
        if not getattr(base_model(self.model), "is_quantized", False):
            self.model.to(self.args.device)
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
        if not self.precomputed:
            return rows
        if self.reference is None:
            raise ValueError(
                "With precompute_ref_log_probs the reference is gone after the first pass, so new rows cannot be "
                "scored with it. Pass them as eval_dataset when the trainer is built, or leave the option off."
            )
        return self._with_ref_logps(rows, name)

    def _required_reference(self) -> FrozenCopy | AdapterOff:
        if self.reference is None:
            raise ValueError("There is no reference to score with. Build the trainer with a loss that uses one.")
        return self.reference

    # ---- resuming ----

    def save_extra_state(self, checkpoint: str) -> None:
        super().save_extra_state(checkpoint)
        if isinstance(self.reference, FrozenCopy) and self.args.sync_ref_model and self.args.should_save:
            torch.save(base_model(self.reference.ref_model).state_dict(), os.path.join(checkpoint, SYNCED_REFERENCE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if isinstance(self.reference, FrozenCopy) and self.args.sync_ref_model:
            state = torch.load(os.path.join(resume_from_checkpoint, SYNCED_REFERENCE), weights_only=True)
            base_model(self.reference.ref_model).load_state_dict(state)

"""The frozen policy that preference losses and KL terms compare with.

There are four ways to have one. Each answers `token_logps(model, batch, states)`, the log-probabilities of a batch.

    FrozenCopy    a second model; frozen parameters are shared with the policy, not copied
    AdapterOff    the policy itself with its adapter switched off, or with the adapter it came with
    a table       made once, before the first step (`precompute_ref_log_probs`)
    None          for objectives that need none
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from peft import AdaLoraConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from trl.trainer.callbacks import SyncRefModelCallback

from audiorl.batch import GroupBatch, GroupScores
from audiorl.collator import SpeechCollator
from audiorl.losses import sequence_sum
from audiorl.models import SpeechFamily, base_model, disable_dropout
from audiorl.models.forward import is_sharded
from audiorl.trainers.distributed import prepare_frozen, sharded_by
from audiorl.trainers.loading import fill_encoder_cache, load_model

REF_LOGPS = "ref_logps"
SYNCED_REFERENCE = "ref_model.pt"
# The frozen copy of an adapter that a policy came with.
REFERENCE_ADAPTER = "ref"


class FrozenPolicy:
    """The frozen policy of a trainer, whose config has TRL's fields for it.

    Args:
        trainer: a `SpeechTrainer` whose model is as it was handed in.
        ref_model: id, path or model; None for the policy itself as it is now.
        new_adapter: whether the policy's adapter, if it has one, was made by this trainer.
        sum_tokens: (logps (B, K, T), keep (B, K, T)) -> (B, K), how both policies' tokens become transcripts.

    Attributes:
        scorer: what scores; None where all scores were computed beforehand.
        precomputed: whether the rows carry the frozen policy's scores.
    """

    def __init__(
        self,
        trainer: Any,
        ref_model: str | os.PathLike | nn.Module | None,
        *,
        new_adapter: bool,
        sum_tokens: Callable[[Tensor, Tensor], Tensor] = sequence_sum,
    ):
        self.trainer, self.sum_tokens, self.precomputed = trainer, sum_tokens, False
        self.scorer: FrozenCopy | AdapterOff | None = self._build(ref_model, new_adapter)
        if trainer.family.encoder_cache is not None and not self.scorer.same_encoder:
            raise ValueError(
                "encoder_cache keeps what the policy's encoder says of a clip, and the frozen policy has another "
                "encoder, which needs the audio. Leave encoder_cache or ref_model out."
            )
        if trainer.args.precompute_ref_log_probs:
            self._precompute_all()

    def sums(self, model: nn.Module, batch: GroupBatch, scores: GroupScores) -> Tensor:
        """(B, K) nats under the frozen policy, summed over tokens, no graph.

        Args:
            model: the policy, wrapped as it is trained.
            scores: what the policy said of the batch; where its encoder is frozen the reference reads its states.
        """
        if self.precomputed:
            return batch.tensors[REF_LOGPS]
        return self.sum_tokens(self.token_logps(model, batch, scores.states), scores.keep)

    def token_logps(self, model: nn.Module, batch: GroupBatch, policy_states: Tensor) -> Tensor:
        """(B, K, T) nats under the frozen policy, no graph.

        Args:
            policy_states: the policy's encoder states of these clips; read where they are the frozen policy's too.
        """
        # what no gradient reaches is the same for policy and reference: one encoder pass serves both
        reference = self._required()
        share = reference.same_encoder and self.trainer.family.encoder_is_frozen(model)
        return reference.token_logps(model, batch, policy_states.detach() if share else None)

    def _build(self, ref_model: str | os.PathLike | nn.Module | None, new_adapter: bool) -> FrozenCopy | AdapterOff:
        if ref_model is self.trainer.model:
            raise ValueError("ref_model is the model that is trained, so it would not stay fixed. Leave it out.")
        if ref_model is not None:
            given = load_model(ref_model, self.trainer.args).requires_grad_(False).eval()
            self.trainer.saver.fingerprint.frozen("the frozen policy", given)
            return self._frozen(given)
        if is_peft_model(self.trainer.model):
            if self.trainer.args.sync_ref_model:
                raise ValueError(
                    "sync_ref_model needs a separate reference, but an adapter's reference is the same model with "
                    "the adapter off. "
                    "Pass ref_model, or train without an adapter."
                )
            if not new_adapter:
                keep_adapter_as_reference(self.trainer.model)
            return AdapterOff(self.trainer.family, self.trainer.model)
        if self.trainer.args.precompute_ref_log_probs:
            return FrozenCopy(self.trainer.family, self.trainer.model, self.trainer.model)
        # two engines of ZeRO 3 cannot both gather a parameter
        apart = self.trainer.args.sync_ref_model or sharded_by(self.trainer.accelerator) == "ZeRO 3"
        return self._frozen(frozen_copy(self.trainer.model, share_frozen=not apart))

    def _frozen(self, ref_model: nn.Module) -> FrozenCopy:
        self.trainer.family.check_same_answers(self.trainer.model, ref_model)
        if self.trainer.args.sync_ref_model and (by := sharded_by(self.trainer.accelerator)):
            raise ValueError(
                f"sync_ref_model moves a whole reference towards a whole policy, and {by} shards both. Train with DDP, "
                "or leave it off."
            )
        self.trainer.family.install(ref_model)
        disable_dropout(ref_model)
        reference = FrozenCopy(self.trainer.family, ref_model, self.trainer.model)
        reference.ref_model = prepare_frozen(ref_model, self.trainer.accelerator)
        if self.trainer.args.sync_ref_model:
            self.trainer.add_callback(SyncRefModelCallback(reference.ref_model, self.trainer.accelerator))
        return reference

    def _precompute_all(self) -> None:
        """Score all rows now, while the policy is as it was handed in, and release the reference."""
        if self.trainer.augmentation:
            raise ValueError(
                "precompute_ref_log_probs scores every clip once as it is, but augmentation or changed hot words "
                "change it in each epoch. Turn one of them off."
            )
        self.precomputed = True
        trainer, collator = self.trainer, self.trainer.data_collator
        if not isinstance(collator, SpeechCollator):
            raise ValueError(
                "precompute_ref_log_probs puts its scores into a column that SpeechCollator reads; data_collator is a "
                f"{type(collator).__name__}. Leave data_collator out, or precompute_ref_log_probs off."
            )
        collator.tensor_columns = (*collator.tensor_columns, REF_LOGPS)
        trainer.train_dataset = self._with_ref_logps(trainer.train_dataset, "training")
        if isinstance(trainer.eval_dataset, dict):
            trainer.eval_dataset = {n: self._with_ref_logps(rows, n) for n, rows in trainer.eval_dataset.items()}
        else:
            trainer.eval_dataset = self._with_ref_logps(trainer.eval_dataset, "evaluation")
        if not isinstance(self.scorer, AdapterOff):
            self.scorer = None

    @torch.no_grad()
    def _with_ref_logps(self, rows: Any, name: str) -> Any:
        if rows is None:
            return None
        if not isinstance(rows, Dataset):
            raise ValueError(
                "precompute_ref_log_probs scores every row once before training, which a stream cannot offer. "
                "Load the rows as a Dataset, or leave it off."
            )
        trainer, reference = self.trainer, self._required()
        fill_encoder_cache(trainer, rows)
        batch_size = trainer.args.precompute_ref_batch_size or trainer.args.per_device_train_batch_size
        collate = copy.copy(trainer.data_collator)
        collate.tensor_columns = tuple(column for column in collate.tensor_columns if column != REF_LOGPS)
        loader = trainer.accelerator.prepare_data_loader(
            DataLoader(rows, batch_size, collate_fn=collate, num_workers=trainer.args.dataloader_num_workers)
        )
        found: dict[int, list[float]] = {}
        # FSDP and DeepSpeed leave the model where it was loaded until training starts
        if not getattr(base_model(trainer.model), "is_quantized", False):
            trainer.model.to(trainer.args.device)
        trainer.model.eval()
        for inputs in tqdm(loader, desc=f"Reference of the {name} rows", disable=trainer.args.disable_tqdm):
            batch = GroupBatch(trainer._prepare_inputs(inputs))
            with trainer.accelerator.autocast():
                logps = self.sum_tokens(reference.token_logps(trainer.model, batch, None), batch.keep)
            found.update(zip(batch.row_ids.tolist(), logps.tolist(), strict=True))
        if trainer.args.world_size > 1:
            found = {row_id: logps for part in gather_object([found]) for row_id, logps in part.items()}
        nothing = [0.0] * len(trainer.text_columns)  # a row that broke on decoding; it will break again and not count
        return rows.add_column(REF_LOGPS, [found.get(row_id, nothing) for row_id in rows["row_id"]])

    def complete(self, rows: Any, name: str) -> Any:
        """Add the frozen policy's scores to rows that come after the trainer was built, if all rows carry them.

        Raises:
            ValueError: the frozen policy is gone.
        """
        if not self.precomputed:
            return rows
        if self.scorer is None:
            raise ValueError(
                "With precompute_ref_log_probs the reference is gone after the first pass, so new rows cannot be "
                "scored with it. Pass them as eval_dataset when the trainer is built, or leave the option off."
            )
        return self._with_ref_logps(rows, name)

    def _required(self) -> FrozenCopy | AdapterOff:
        if self.scorer is None:
            raise ValueError("There is no reference to score with. Build the trainer with a loss that uses one.")
        return self.scorer

    # ---- resuming ----

    def save(self, checkpoint: str) -> None:
        """Save the reference in the checkpoint, if it moves."""
        if (moving := self._moving()) is not None and self.trainer.args.should_save:
            torch.save(moving.state_dict(), os.path.join(checkpoint, SYNCED_REFERENCE))

    def load(self, checkpoint: str) -> None:
        if (moving := self._moving()) is not None:
            moving.load_state_dict(torch.load(os.path.join(checkpoint, SYNCED_REFERENCE), weights_only=True))

    def _moving(self) -> nn.Module | None:
        """The model that `sync_ref_model` moves towards the policy."""
        if not isinstance(self.scorer, FrozenCopy) or not self.trainer.args.sync_ref_model:
            return None
        return base_model(self.scorer.ref_model)


# ---- what scores ----


class Scorer(Protocol):
    """Scores a batch under the frozen policy.

    Attributes:
        same_encoder: whether its encoder computes what the policy's computes as long as that is not trained.
    """

    same_encoder: bool

    def token_logps(
        self, model: nn.Module, batch: GroupBatch, states: Tensor | None, *, temperature: float = 1.0
    ) -> Tensor:
        """(B, K, T) log-probabilities in nats, no graph.

        Args:
            model: the policy, wrapped as it is trained.
            states: the policy's encoder states where they are the reference's too, else None.
            temperature: > 0, the policy's own, so that the two are compared at the same one.
        """
        ...


class FrozenCopy:
    """A separate model that is never trained."""

    def __init__(self, family: SpeechFamily, ref_model: nn.Module, policy: nn.Module):
        self.family = family
        self.ref_model = ref_model
        mine, theirs = family.encoder_parameters(ref_model), family.encoder_parameters(policy)
        self.same_encoder = len(mine) == len(theirs) and all(
            a is b or (a.shape == b.shape and torch.equal(a.to(b.device), b)) for a, b in zip(mine, theirs, strict=True)
        )

    @torch.no_grad()
    def token_logps(
        self, model: nn.Module, batch: GroupBatch, states: Tensor | None, *, temperature: float = 1.0
    ) -> Tensor:
        return self.family.score_groups(self.ref_model, batch, states, temperature=temperature).logps


class AdapterOff:
    """The policy without its adapter, or with the adapter it came with: no second model in memory."""

    def __init__(self, family: SpeechFamily, policy: PeftModel):
        self.family = family
        encoder = {id(parameter) for parameter in family.encoder_parameters(policy)}
        named = policy.named_parameters()
        adapted = any(_of_adapter(name, policy.active_adapter) for name, p in named if id(p) in encoder)
        self.same_encoder = not adapted

    @torch.no_grad()
    def token_logps(
        self, model: nn.Module, batch: GroupBatch, states: Tensor | None, *, temperature: float = 1.0
    ) -> Tensor:
        with adapter_off(model):
            return self.family.score_groups(model, batch, states, temperature=temperature).logps


def frozen_copy(model: nn.Module, *, share_frozen: bool = True) -> nn.Module:
    """A copy of a model in which nothing is trainable.

    Args:
        share_frozen: parameters of `model` that are frozen already are shared instead of copied; False where the copy
            is going to be updated in place (a synced reference).

    Raises:
        ValueError: the model is sharded already.
    """
    if is_sharded(model):
        raise ValueError(
            "A model whose parameters are sharded cannot be copied. Make its frozen copy first and shard both, as the "
            "trainers do."
        )
    shared = {id(p): p for p in model.parameters() if not p.requires_grad} if share_frozen else {}
    duplicate = copy.deepcopy(model, dict(shared))
    for parameter in duplicate.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    return duplicate.eval()


def keep_adapter_as_reference(model: PeftModel) -> None:
    """Add a frozen copy of the adapter that the policy came with: the reference is the policy as it was handed in."""
    active = model.active_adapter
    config = copy.deepcopy(model.peft_config[active])
    config.inference_mode = True
    if getattr(config, "ensure_weight_tying", False):
        # of a second adapter PEFT no longer sees what is tied; each of the frozen copies gets the values
        config.ensure_weight_tying = False
    allocated, frozen = None, _frozen_parts(model, active)
    if isinstance(config, AdaLoraConfig):
        # PEFT would take AdaLoRA's rank_pattern for LoRA's
        allocated, config.rank_pattern = config.rank_pattern, None
    model.add_adapter(REFERENCE_ADAPTER, config)
    own = {name: p for name, p in model.named_parameters(remove_duplicate=False) if _of_adapter(name, active)}
    copies = {name: _renamed(name, active) for name in own}
    if any(model.get_parameter(twin).shape != own[name].shape for name, twin in copies.items()):
        # an AdaLoRA adapter from a file, from which the ranks that were cut are gone
        model.base_model.resize_modules_by_rank_pattern(allocated, REFERENCE_ADAPTER)
    if allocated is not None:
        config.rank_pattern = allocated
    with torch.no_grad():
        for name, twin in copies.items():
            model.get_parameter(twin).copy_(own[name])
    _activate(model, active, frozen)


def _of_adapter(parameter: str, adapter: str) -> bool:
    """LoRA's parameters are called ...lora_A.default.weight, AdaLoRA's ...lora_A.default."""
    return f".{adapter}." in f"{parameter}."


def _renamed(parameter: str, adapter: str) -> str:
    return f"{parameter}.".replace(f".{adapter}.", f".{REFERENCE_ADAPTER}.").removesuffix(".")


def _frozen_parts(model: PeftModel, adapter: str) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if _of_adapter(name, adapter) and not p.requires_grad]


def _activate(model: PeftModel, adapter: str, frozen: list[nn.Parameter]) -> None:
    """Make an adapter active and trainable, except for its parts in a frozen encoder. `set_adapter` would train those
    too.
    """
    model.set_adapter(adapter)
    for parameter in frozen:
        parameter.requires_grad_(False)


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Run a PEFT policy, wrapped or not, as its own reference."""
    adapted: Any = model
    while not hasattr(adapted, "peft_config"):
        adapted = adapted.module
    if REFERENCE_ADAPTER not in adapted.peft_config:
        with adapted.disable_adapter():
            yield
        return
    active = adapted.active_adapter
    frozen = _frozen_parts(adapted, active)
    adapted.set_adapter(REFERENCE_ADAPTER, inference_mode=True)
    try:
        yield
    finally:
        _activate(adapted, active, frozen)

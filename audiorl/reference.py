"""The frozen policy that preference losses and KL terms compare with.

Four ways to have it, one question: `token_logps(model, batch, states)`, the log-probabilities of a batch under it.

    FrozenCopy    a second model; frozen parameters are shared with the policy, not copied
    AdapterOff    the policy itself with its adapter switched off, or with the adapter it came with
    Precomputed   a table made once, before the first step
    None          for objectives that need none
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from peft import AdaLoraConfig, PeftModel
from torch import Tensor, nn

from audiorl.batch import GroupBatch
from audiorl.models import SpeechFamily, base_model
from audiorl.models.forward import is_sharded

# The frozen copy of an adapter that a policy came with.
REFERENCE_ADAPTER = "ref"


class Reference(Protocol):
    """Anything that scores a batch under the frozen policy.

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
    """A model of its own that is never trained."""

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
    """Add a frozen copy of the adapter a policy came with, so that the reference is the policy as it was handed in."""
    active = model.active_adapter
    config = copy.deepcopy(model.peft_config[active])
    config.inference_mode = True
    allocated, frozen = None, _frozen_parts(model, active)
    if isinstance(config, AdaLoraConfig):
        # PEFT would take AdaLoRA's rank_pattern for LoRA's
        allocated, config.rank_pattern = config.rank_pattern, None
    model.add_adapter(REFERENCE_ADAPTER, config)
    own = {name: p for name, p in model.named_parameters() if _of_adapter(name, active)}
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
    """`set_adapter` makes all of an adapter trainable, its part in a frozen encoder too; that stays frozen here."""
    model.set_adapter(adapter)
    for parameter in frozen:
        parameter.requires_grad_(False)


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Run a PEFT policy, wrapped or not, as its reference."""
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


def check_same_tokens(model: nn.Module, ref_model: nn.Module, labels: Sequence[str] | None = None) -> None:
    """A reference with another vocabulary, or with other labels, would score other words.

    Args:
        labels: of the policy's family, where it answers with labels.
    """
    configs = [base_model(m).config for m in (model, ref_model)]
    if labels is not None:
        theirs = [configs[1].id2label[i] for i in range(configs[1].num_labels)]
        if theirs != list(labels):
            raise ValueError(
                f"ref_model has the labels {theirs[:8]}, the policy {list(labels[:8])}, so their log-probabilities "
                "cannot be compared. Pass a ref_model with the policy's own labels in the same order, or none."
            )
        return
    sizes = [getattr(config.get_text_config(), "vocab_size", None) for config in configs]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"ref_model has a vocabulary of {sizes[1]}, the policy one of {sizes[0]}, so their log-probabilities "
            "cannot be compared. Pass a ref_model with the policy's own tokenizer, or none."
        )

"""What a run does for an adapter: say what is trained, follow AdaLoRA's ranks, keep PEFT to the adapter's files."""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from peft.utils.warning import PeftWarning
from torch import nn
from transformers import TrainerCallback

from audiorl.adapters.vocabulary import embedding_layers, vocabulary_changed
from audiorl.models import base_model
from audiorl.models.footprint import footprint
from audiorl.trainers.adalora import RankSchedule, uses_adalora
from audiorl.trainers.reference import REFERENCE_ADAPTER


class Footprint(TrainerCallback):
    """Says in one line what is trained and what the weights take, where a choice was made about either."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and model is not None:
            print(footprint(model), flush=True)


def follow_adapter(trainer: Any) -> RankSchedule | None:
    """Add the callbacks that an adapter or a quantised base wants.

    Returns:
        AdaLoRA's schedule, where the model's adapter is one.

    Raises:
        ValueError: AdaLoRA where gradients are not whole, or where it reaches into a frozen encoder.
    """
    model = trainer.model
    if isinstance(model, PeftModel) or getattr(base_model(model), "is_quantized", False):
        trainer.add_callback(Footprint())
    if not uses_adalora(model):
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "AdaLoRA compares whole gradients after each optimizer step, which FSDP and DeepSpeed do not leave "
            "behind. Use DDP, or LoRA."
        )
    active = f".{model.active_adapter}"
    frozen = [
        name
        for name, parameter in model.named_parameters()
        if name.endswith(active) and "lora_" in name and not parameter.requires_grad
    ]
    if frozen:
        raise ValueError(
            f"AdaLoRA shares its ranks out among all layers of the adapter, but {len(frozen)} of its matrices are "
            f"frozen, {frozen[0]} among them. Adapt other layers only "
            '(target_modules="decoder-linear" where the encoder is frozen), or leave freeze_encoder off.'
        )
    ranks = RankSchedule(trainer)
    trainer.add_callback(ranks)
    if trainer.args.max_steps > 0 and not ranks.fixed:
        ranks.tell_total(trainer.args.max_steps)
    return ranks


@contextmanager
def adapter_files(model: nn.Module, folder: str, *, keep_reference: bool, cut_ranks: bool) -> Iterator[None]:
    """While a model is saved into `folder`, keep PEFT to the files of the trained adapter.

    Embeddings and head are written beside it where the vocabulary was enlarged before, and only there: left to itself,
    PEFT also writes them where a layer called lm_head has an adapter, and fails on Wav2Vec2, which has no embeddings.

    Args:
        keep_reference: whether the frozen adapter that is the reference is saved too, as a checkpoint wants.
        cut_ranks: whether a layer may have lost all its ranks; PEFT takes it for a shard and warns.
    """
    if not isinstance(model, PeftModel):
        yield
        return
    base = base_model(model)
    embeddings = bool(embedding_layers(base)) and vocabulary_changed(base)
    vars(model)["save_pretrained"] = functools.partial(model.save_pretrained, save_embedding_layers=embeddings)
    try:
        with warnings.catch_warnings():
            if cut_ranks:
                warnings.filterwarnings("ignore", "(?s).*have invalid shape", PeftWarning)
            yield
    finally:
        del vars(model)["save_pretrained"]
    if not keep_reference and REFERENCE_ADAPTER in model.peft_config:
        shutil.rmtree(os.path.join(folder, REFERENCE_ADAPTER), ignore_errors=True)

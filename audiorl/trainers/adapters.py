"""What a trainer does for the model it was handed: AdaLoRA's schedule, footprint, files of an adapter, compiling."""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from peft import PeftModel
from peft.utils.warning import PeftWarning
from torch import nn
from transformers import TrainerCallback

from audiorl.models import base_model
from audiorl.models.footprint import footprint
from audiorl.reference import REFERENCE_ADAPTER
from audiorl.trainers.adalora import RankSchedule, uses_adalora
from audiorl.trainers.checkpoints import WholeCheckpoints

RANK_SCHEDULE = "adalora.pt"


class Footprint(TrainerCallback):
    """Says in one line what is trained and what the weights take, where a choice was made about either."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and model is not None:
            print(footprint(model), flush=True)


class AdapterTrainer(WholeCheckpoints):
    """A trainer whose model may be a `PeftModel`. `save_extra_state` of a subclass calls this one."""

    ranks: RankSchedule | None = None
    compute_loss: Any

    def follow_adapter(self) -> None:
        """To be called once the trainer is built.

        Raises:
            ValueError: AdaLoRA where gradients are not whole, or where it reaches into a frozen encoder.
        """
        if isinstance(self.model, PeftModel) or getattr(base_model(self.model), "is_quantized", False):
            self.add_callback(Footprint())
        if not uses_adalora(self.model):
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "AdaLoRA compares whole gradients after each optimizer step, which FSDP and DeepSpeed do not leave "
                "behind. Use DDP, or LoRA."
            )
        active = f".{self.model.active_adapter}"
        frozen = [
            name
            for name, parameter in self.model.named_parameters()
            if name.endswith(active) and "lora_" in name and not parameter.requires_grad
        ]
        if frozen:
            raise ValueError(
                f"AdaLoRA shares its ranks out among all layers of the adapter, but {len(frozen)} of its matrices are "
                f"frozen, {frozen[0]} among them. Adapt other layers only "
                '(target_modules="decoder-linear" where the encoder is frozen), or leave freeze_encoder off.'
            )
        self.ranks = RankSchedule(self)
        self.add_callback(self.ranks)
        if self.args.max_steps > 0 and not self.ranks.fixed:
            self.ranks.tell_total(self.args.max_steps)
        # the instance's, so that a subclass's own loss gets the term whatever it calls
        self.compute_loss = self._with_orthogonality(self.compute_loss)

    def _with_orthogonality(self, compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        """Add AdaLoRA's term to each training loss; `Trainer` and DDP average it, so it counts once a step."""

        @functools.wraps(compute_loss)
        def with_orthogonality(model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            found = compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
            if not model.training or self.ranks is None:
                return found
            penalty = self.ranks.penalty()
            self.metrics.add("train", "loss/orthogonality", penalty)
            return (found[0] + penalty, *found[1:]) if return_outputs else found + penalty

        return with_orthogonality

    # ---- files ----

    def save_extra_state(self, checkpoint: str) -> None:
        super().save_extra_state(checkpoint)
        if self.ranks is not None and self.args.should_save:
            torch.save(self.ranks.state(), os.path.join(checkpoint, RANK_SCHEDULE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.ranks is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_ranks(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.ranks is None:
            super()._load_best_model()
        else:
            self._load_ranks(self.state.best_model_checkpoint)

    def _load_ranks(self, checkpoint: str) -> None:
        """Instead of PEFT's loading, for which the shapes in a checkpoint with ranks cut are wrong."""
        path = os.path.join(checkpoint, RANK_SCHEDULE)
        if not os.path.exists(path):
            raise ValueError(
                f"{checkpoint} has no {RANK_SCHEDULE}, without which AdaLoRA's ranks cannot go on: PEFT saves neither "
                "their importance nor the ranks that were cut. Resume from a checkpoint of this library, or pass the "
                "adapter as the model and start a new run, in which its ranks stay as they are."
            )
        assert self.ranks is not None
        self.ranks.load_state(torch.load(path, map_location="cpu", weights_only=True))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The trained adapter alone; a checkpoint also keeps the frozen one that is its reference."""
        with warnings.catch_warnings(), _adapter_alone(self.model):
            if self.ranks is not None:
                # a layer that lost all its ranks; PEFT takes it for a shard, but AdaLoRA does not run on shards
                warnings.filterwarnings("ignore", "(?s).*have invalid shape", PeftWarning)
            super()._save(output_dir, state_dict)
        if (
            self.checkpoints.staging is None
            and isinstance(self.model, PeftModel)
            and REFERENCE_ADAPTER in self.model.peft_config
        ):
            shutil.rmtree(os.path.join(output_dir or self.args.output_dir, REFERENCE_ADAPTER), ignore_errors=True)

    # ---- torch.compile ----

    def create_accelerator_and_postprocess(self) -> None:
        """Keep torch_compile from accelerate: the family compiles its backbone, accelerate would compile the head and
        whatever a call does inside the forward, anew for each call."""
        backend, self.args.torch_compile_backend = self.args.torch_compile_backend, None
        super().create_accelerator_and_postprocess()
        self.args.torch_compile_backend = backend
        if self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            raise ValueError(
                "accelerate was told to compile the whole forward (--dynamo_backend or its config file), which breaks "
                "at the head and is compiled anew for each call. Set it to no and pass torch_compile=True instead."
            )


@contextmanager
def _adapter_alone(model: nn.Module) -> Iterator[None]:
    """Keep PEFT from writing a whole head beside its adapter, as it does where a layer called lm_head has one: for a
    resized vocabulary, which nothing here resizes, and it fails on Wav2Vec2, which has no input embeddings."""
    if not isinstance(model, PeftModel):
        yield
        return
    vars(model)["save_pretrained"] = functools.partial(model.save_pretrained, save_embedding_layers=False)
    try:
        yield
    finally:
        del vars(model)["save_pretrained"]

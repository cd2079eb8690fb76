"""What a run does for its adapter: report what is trained, save only the adapter's own files, cut AdaLoRA's ranks.

AdaLoRA (Zhang et al. 2023, arXiv:2303.10512):

1. The schedule is told how many optimizer steps there are.
2. After each optimizer step, while its gradients are still there, the importance of every rank is updated; every
   `deltaT` steps the least important ranks of all layers together are set to zero, down to the schedule's budget.
3. The loss of each optimizer step gets `orth_reg_weight` times the orthogonality of the factors
   (`audiorl.losses.added_terms`).
4. After step total_step - tfinal the ranks are fixed, `target_r` for each layer on average.

Deviations from the paper: those of PEFT, whose allocator this drives (norms instead of squared norms, ranks that were
cut may come back until the end of the schedule). Steps are counted from 1, so that with tfinal = 0 the last step is
the one that reaches the target; counted from 0, as in PEFT's example, the last cut would never come.
"""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from peft.utils.warning import PeftWarning
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from audiorl.adapters import TOLD_BY_TRAINER, embedding_layers, vocabulary_changed
from audiorl.losses.added_terms import orthogonality
from audiorl.models import base_model
from audiorl.models.forward import footprint
from audiorl.terminal import wrapped
from audiorl.trainers.reference import REFERENCE_ADAPTER


class Footprint(TrainerCallback):
    """Logs what is trained and how much memory the weights take, if there is an adapter or quantization."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and model is not None:
            tqdm.write(wrapped(footprint(model)))  # above the bar


def follow_adapter(trainer: Any) -> RankSchedule | None:
    """Add the callbacks that an adapter or a quantised base needs.

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
            "AdaLoRA compares whole gradients after each optimizer step, which FSDP and DeepSpeed do not keep. Use "
            "DDP, or LoRA."
        )
    active = f".{model.active_adapter}"
    frozen = [
        name
        for name, parameter in model.named_parameters()
        if name.endswith(active) and "lora_" in name and not parameter.requires_grad
    ]
    if frozen:
        raise ValueError(
            f"AdaLoRA distributes its ranks over all layers of the adapter, but {len(frozen)} of its matrices are "
            f"frozen, for example {frozen[0]}. Adapt only layers that are trained "
            '(target_modules="decoder-linear" if the encoder is frozen), or leave freeze_encoder off.'
        )
    ranks = RankSchedule(trainer)
    trainer.add_callback(ranks)
    if trainer.args.max_steps > 0 and not ranks.fixed:
        ranks.tell_total(trainer.args.max_steps)
    return ranks


@contextmanager
def adapter_files(model: nn.Module, folder: str, *, keep_reference: bool, cut_ranks: bool) -> Iterator[None]:
    """While a model is saved into `folder`, let PEFT write only the files of the trained adapter.

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


RANK_SCHEDULE = "adalora.pt"
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
SETTINGS = ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "total_step")


def uses_adalora(model: nn.Module) -> bool:
    return isinstance(model, PeftModel) and isinstance(model.peft_config[model.active_adapter], AdaLoraConfig)


def adapter_ranks(model: PeftModel) -> dict[str, int]:
    """Layer -> how many of its ranks are not zero, for the active AdaLoRA adapter."""
    place = f".lora_E.{model.active_adapter}"
    return {
        name.removesuffix(place): int((values != 0).sum())
        for name, values in model.get_base_model().named_parameters()
        if name.endswith(place)
    }


class RankSchedule(TrainerCallback):
    """Drives PEFT's allocator from a trainer's steps, and keeps its state across a resume.

    Attributes:
        fixed: the adapter came with ranks that had been allocated before; they stay as they are.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.config: AdaLoraConfig = trainer.model.peft_config[trainer.model.active_adapter]
        self.fixed = self.config.rank_pattern is not None
        self._given = {name: getattr(self.config, name) for name in ("total_step", "tinit", "tfinal")}
        self._resumed = False

    @property
    def tuner(self) -> Any:
        return self.trainer.model.base_model

    # ---- the schedule ----

    def tell_total(self, steps: int) -> None:
        """Fill in what depends on the number of optimizer steps.

        Raises:
            ValueError: the run is too short for the schedule, or the schedule longer than the run.
        """
        config, given = self.config, self._given
        config.total_step = steps if given["total_step"] == TOLD_BY_TRAINER else given["total_step"]
        if config.total_step > steps:
            raise ValueError(
                f"AdaLoraConfig.total_step is {config.total_step}, but this run takes {steps} optimizer steps, so the "
                f"ranks would never come down to target_r. Pass total_step={steps}, or audiorl.adapters."
                "TOLD_BY_TRAINER to have it filled in."
            )
        for name in ("tinit", "tfinal"):
            share = 0 < given[name] < 1
            setattr(config, name, int(given[name] * config.total_step) if share else int(given[name]))
        last_cut = config.total_step - config.tfinal
        if last_cut < 2 or config.tinit >= last_cut:
            raise ValueError(
                f"AdaLoRA cannot cut ranks in {config.total_step} optimizer steps of which tinit={config.tinit} come "
                f"before the first cut and tfinal={config.tfinal} after the last. Train longer, lower the two, or use "
                "LoRA."
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.fixed:
            return
        resumed, self._resumed = self._resumed, False
        if resumed:
            if self.config.total_step > state.max_steps:
                raise ValueError(
                    f"The checkpoint's ranks are cut over {self.config.total_step} optimizer steps, this run ends "
                    f"after {state.max_steps}. Resume with the settings that the checkpoint was trained with."
                )
            return
        self.tell_total(state.max_steps)
        self.config.rank_pattern = None
        self.tuner.rankallocator.reset_ipt()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Between `optimizer.step()`, which would move ranks that were cut before it, and `zero_grad()`."""
        step = state.global_step + 1
        if self.fixed:
            self._mask_again()
        # fp16: a step that the scaler skipped has no usable gradients; the last cut does not need them
        elif step >= self._last_cut() or not self.trainer.accelerator.optimizer_step_was_skipped:
            self._fill_missing_gradients()
            self.tuner.update_and_allocate(step)
        self._log()

    def _last_cut(self) -> int:
        return self.config.total_step - self.config.tfinal

    def _mask_again(self) -> None:
        """Keep ranks at zero that were cut before; an adapter loaded from a file no longer has them."""
        pattern = self.config.rank_pattern
        kept = {
            name: pattern[key]
            for name, values in self.tuner.model.named_parameters()
            if (key := _key_in(pattern, name, self.trainer.model.active_adapter)) and len(pattern[key]) == len(values)
        }
        with torch.no_grad():
            for name, keep in kept.items():
                values = self.tuner.model.get_parameter(name)
                values[~torch.tensor(keep, device=values.device)] = 0.0

    def _fill_missing_gradients(self) -> None:
        """Give layers that took no part in this step (layerdrop) a gradient of zero."""
        active = f".{self.trainer.model.active_adapter}"
        for name, parameter in self.tuner.model.named_parameters():
            if "lora_" in name and name.endswith(active) and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _log(self) -> None:
        pattern = self.config.rank_pattern
        ranks = [sum(keep) for keep in pattern.values()] if pattern else [self.config.init_r]
        self.trainer.metrics.add("train", "adalora/mean_rank", torch.tensor(ranks))

    # ---- the loss ----

    def add_penalty(self) -> Tensor:
        """Add the gradient of the orthogonality term to the gradients of the step's losses.

        To be called once an optimizer step, before gradients are clipped. All processes hold the same factors, so the
        gradient needs no averaging.

        Returns:
            The term, a scalar.
        """
        penalty = self.penalty()
        factors = [p for name, p in self._factors()]
        for factor, gradient in zip(factors, torch.autograd.grad(self._scaled(penalty), factors), strict=True):
            factor.grad = gradient if factor.grad is None else factor.grad + gradient
        return penalty.detach()

    def _scaled(self, penalty: Tensor) -> Tensor:
        """The term scaled as the losses were before their backward pass: fp16 unscales all gradients together."""
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        return penalty if scaler is None else scaler.scale(penalty)

    def penalty(self) -> Tensor:
        """Scalar: `orth_reg_weight` times the orthogonality of all factors of the active adapter."""
        factors = [p.mT if ".lora_B." in name else p for name, p in self._factors()]
        with torch.autocast(self.trainer.args.device.type, enabled=False):
            return self.config.orth_reg_weight * orthogonality(factors)

    def _factors(self) -> list[tuple[str, nn.Parameter]]:
        """Both matrices of every layer of the active adapter."""
        active = self.trainer.model.active_adapter
        ends = (f".lora_A.{active}", f".lora_B.{active}")
        return [(name, p) for name, p in self.tuner.model.named_parameters() if name.endswith(ends)]

    # ---- resuming ----

    def save(self, checkpoint: str) -> None:
        if self.trainer.args.should_save:
            torch.save(self.state(), os.path.join(checkpoint, RANK_SCHEDULE))

    def load(self, checkpoint: str) -> None:
        """Load a checkpoint in place of PEFT, which cannot load one whose ranks were cut.

        Raises:
            ValueError: the checkpoint does not say where the ranks stood.
        """
        path = os.path.join(checkpoint, RANK_SCHEDULE)
        if not os.path.exists(path):
            raise ValueError(
                f"{checkpoint} has no {RANK_SCHEDULE}, without which AdaLoRA cannot resume: PEFT saves neither the "
                "importance of the ranks nor which were cut. Resume from a checkpoint of this library, or pass the "
                "adapter as the model and start a new run, in which its ranks stay as they are."
            )
        self.load_state(torch.load(path, map_location="cpu", weights_only=True))

    def state(self) -> dict[str, Any]:
        """What a resume needs and PEFT's checkpoint lacks: the allocator's averages and the cut ranks."""
        allocator = self.tuner.rankallocator
        return {
            "settings": {name: getattr(self.config, name) for name in SETTINGS},
            "rank_pattern": self.config.rank_pattern,
            "importance": {name: getattr(allocator, name) for name in IMPORTANCE},
            "parameters": {name: values.detach() for name, values in self._own_parameters().items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state`.

        Raises:
            ValueError: the adapter was built in another way than the checkpoint's.
        """
        own, theirs = self._own_parameters(), state["parameters"]
        if {name: p.shape for name, p in own.items()} != {name: p.shape for name, p in theirs.items()}:
            raise ValueError(
                "The checkpoint's AdaLoRA adapter has other layers or ranks than this run's. Resume with the model, "
                "init_r and target_modules that the checkpoint was trained with."
            )
        with torch.no_grad():
            for name, values in theirs.items():
                own[name].copy_(values)
        self.config.rank_pattern = state["rank_pattern"]
        for name, value in state["settings"].items():
            setattr(self.config, name, value)
        allocator = self.tuner.rankallocator
        for name, averages in state["importance"].items():
            setattr(allocator, name, {key: value.to(self.trainer.args.device) for key, value in averages.items()})
        self._resumed = True

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        reference = f".{REFERENCE_ADAPTER}"
        return {
            name: parameter
            for name, parameter in self.trainer.model.named_parameters()
            if parameter.requires_grad or name.endswith(reference)
        }


def _key_in(pattern: dict[str, list[bool]], name: str, adapter: str) -> str | None:
    """The key of a parameter in a rank pattern. PEFT drops the adapter's name from it when it saves."""
    return next((key for key in (name, name.removesuffix(f".{adapter}")) if key in pattern), None)

"""How calls reach a model's weights: through the one forward, compiled or not, in one piece or sharded.

DDP and FSDP hook the forward of the model that they wrap. `run_inside` therefore runs a function of ours inside that
forward, and everything that touches weights goes through it. The rest of this module is what such a call may need:
no dropout, evaluation mode for a while, a compiled encoder and decoder (`Backbone`), and the same number of calls in
every process where weights are sharded (`calls_in_step`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from audiorl.models.beam_search import BeamDecoder

Result = TypeVar("Result")
SpeechCall = Callable[[PreTrainedModel], Result]

# Probabilities of random silence, by the names transformers' speech models give them.
DROPOUT_ATTRIBUTES = (
    "dropout",
    "activation_dropout",
    "attention_dropout",
    "layerdrop",
    "hidden_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "dropout_positions",
    "drop_prob",
)


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside DDP, FSDP, torch.compile and PEFT wrappers."""
    inner: Any = model
    while True:
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        else:
            return inner


def run_inside(model: nn.Module, call: SpeechCall[Result]) -> Result:
    """Run `call(base model)` inside the forward of a possibly wrapped model."""
    return model(speech_call=call)


def install_speech_call(model: PreTrainedModel) -> None:
    """Teach a stock model's forward the keyword `speech_call`; without it the forward is the class's own.

    The patch looks the class up at call time and holds no reference to this instance, so a deep copy of the model runs
    its own weights.
    """
    if getattr(model.forward, "takes_speech_call", False):
        return

    # generate() validates its keywords against this signature
    @functools.wraps(type(model).forward)
    def forward(self, *args, speech_call: SpeechCall | None = None, **kwargs):
        if speech_call is not None:
            return speech_call(self)
        return type(self).forward(self, *args, **kwargs)

    forward.takes_speech_call = True  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def disable_dropout(model: nn.Module) -> None:
    """Set dropout, layerdrop and SpecAugment of every submodule to 0 for this run; the saved config keeps its values.

    Wav2Vec2 and its relatives read their config in every call, so their submodules get a copy of it. The vector that
    SpecAugment writes over masked frames is no longer used, so it is frozen: DDP would wait for its gradient.
    """
    _silence_configs(base_model(model))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in DROPOUT_ATTRIBUTES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _silence_configs(base: nn.Module) -> None:
    silent: dict[int, Any] = {}
    for module in base.modules():
        if isinstance(getattr(module, "masked_spec_embed", None), nn.Parameter):
            module.masked_spec_embed.requires_grad_(False)
        config = getattr(module, "config", None)
        if module is base or not (getattr(config, "layerdrop", 0) or getattr(config, "apply_spec_augment", False)):
            continue
        if id(config) not in silent:
            silent[id(config)] = copy.deepcopy(config)
            silent[id(config)].update({"layerdrop": 0.0, "apply_spec_augment": False})
        module.config = silent[id(config)]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and afterwards back into its own.

    In training mode, layers with gradient checkpointing drop their cache, with a graph or without.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# ---- torch.compile ----


def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


class Backbone:
    """Runs a model's encoder and decoder when hypotheses are scored: as they are, or compiled after `compile`.

    The head stays outside, because its custom autograd function breaks the graph. So do sampling and `generate`, whose
    cache grows with every token. What is compiled are two functions that call a stock module, not the module itself: a
    copy of the model, a checkpoint and a user's own calls do not see it, and policy and reference share the two.

    A pickled backbone is not compiled: a data loader's worker gets one with its family and never runs a model.
    """

    def __init__(self) -> None:
        self.encoder: Callable[..., Any] = call_module
        self.decoder: Callable[..., Any] = call_module

    def compile(self, **options: Any) -> None:
        """Compile from the next call on.

        Args:
            options: of `torch.compile`: `backend`, `mode`, `fullgraph`.
        """
        self.encoder, self.decoder = (_compiled(name, options) for name in ("run_encoder", "run_decoder"))

    def __reduce__(self) -> tuple[type[Backbone], tuple[()]]:
        return Backbone, ()


def _compiled(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    # torch counts compiled variants for each code object and gives up at eight: encoder and decoder, with gradient and
    # without, trained and frozen, have room if each backbone has code objects of its own
    own = types.FunctionType(call_module.__code__.replace(co_name=name), call_module.__globals__, name)
    # the number of clips and the length of transcripts differ from batch to batch
    return torch.compile(own, dynamic=True, **options)


# ---- weights spread over processes (FSDP2, DeepSpeed ZeRO 3) ----


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter is spread over several processes, which gather it layer by layer in each call."""
    return any((p.device_mesh.size() > 1 if isinstance(p, DTensor) else is_partitioned(p)) for p in model.parameters())


def is_partitioned(parameter: Tensor) -> bool:
    """Whether DeepSpeed ZeRO 3 has spread a parameter, which is then empty outside of the forward."""
    return hasattr(parameter, "ds_tensor") and distributed.is_initialized() and distributed.get_world_size() > 1


def own_part(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter: under ZeRO 3 its part, else the parameter as it is."""
    return getattr(parameter, "ds_tensor", parameter)


@contextlib.contextmanager
def calls_in_step(model: nn.Module, decoder: BeamDecoder) -> Iterator[BeamDecoder]:
    """Let every process call a sharded model as often as the process with the longest hypotheses does.

    A call of sharded weights needs all processes: one that samples a token more than the others would wait for them
    forever. So each call is announced, and a process that has finished repeats its last position, which changes no
    result, for as long as another one calls. The decoder of a model in one piece is returned unchanged.

    Args:
        model: some of its layers have sharded parameters during its forward.
        decoder: used up when the context ends; every process calls it at least once.

    Raises:
        ValueError: the decoder's engine cannot gather weights.
    """
    if not is_sharded(model):
        yield decoder
        return
    if getattr(decoder, "engine", None) == "captured":
        raise ValueError(
            "A CUDA graph cannot gather sharded weights. Choose another engine, for example set_engine('static')."
        )
    paced = PacedDecoder(decoder, next(model.parameters()).device)
    yield paced
    paced.wait_for_others()


class PacedDecoder:
    """A decoder that announces its calls to the other processes."""

    def __init__(self, decoder: BeamDecoder, device: torch.device):
        self.decoder, self.device = decoder, device
        self._last: tuple[Tensor, int] | None = None

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        # position 0 would begin a hypothesis
        self._last = tokens[:, :, -1:], max(start + tokens.shape[-1] - 1, 1)
        self._callers(1)
        return self.decoder(tokens, start)

    def reorder(self, parents: Tensor) -> None:
        self.decoder.reorder(parents)

    def wait_for_others(self) -> None:
        while int(self._callers(0)):
            if self._last is None:
                raise RuntimeError(
                    "This process has no token to draw, but others have. Give every process at least one."
                )
            self.decoder(*self._last)

    def _callers(self, calls: int) -> Tensor:
        """How many processes are about to call; only those that have finished wait for the answer."""
        count = torch.tensor(calls, device=self.device)
        distributed.all_reduce(count)
        return count


# ---- what weights take in memory, quantised or not ----


def footprint(model: nn.Module) -> str:
    """One line: how many parameters are trained, and how much memory all weights take."""
    trained, total = parameter_counts(model)
    base = base_model(model)
    bits = "8 bit" if getattr(base, "is_loaded_in_8bit", False) else "4 bit"
    quantised = f", linear layers in {bits}" if getattr(base, "is_quantized", False) else ""
    return (
        f"{type(base).__name__}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%}); the weights "
        f"take {weight_bytes(model) / 1e6:,.1f} MB{quantised}"
    )


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are; quantised ones count as what they stand for."""
    sizes = [(_true_size(p), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers and the scales that bitsandbytes keeps beside quantised weights."""
    stored = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        stored += _scales(module)
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def _scales(module: nn.Module) -> Iterator[Tensor]:
    weight = module._parameters.get("weight")
    # 8 bit: one for each row, with the weight until the first forward and with the module's state after it
    for holder in (weight, getattr(module, "state", None)):
        if isinstance(scales := getattr(holder, "SCB", None), Tensor):
            yield scales
    # 4 bit: one for each block, quantised once more with double quantisation
    state = getattr(weight, "quant_state", None)
    while state is not None:
        yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, Tensor))
        state = state.state2


def _true_size(parameter: Tensor) -> int:
    if hasattr(parameter, "ds_numel"):  # ZeRO 3 leaves it empty
        return parameter.ds_numel
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()

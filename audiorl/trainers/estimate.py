"""What a run will take in memory and time, from a model's config alone.

1. The model is built without weights: its tensors have shapes and no data (torch's FakeTensorMode).
2. One micro-batch goes through the same code as in training, forward and backward. Every tensor that is made is counted
   for as long as it lives, and every matrix product, those of attention and of an LSTM too, by its operations.
3. Memory is weights + gradients + optimizer + the highest sum of those tensors. Time is operations over the device's
   rate, and for sampling the decoder's weights, read once for each token, over its bandwidth.

What it cannot know: memory between blocks that the allocator keeps, what CUDA itself takes (about 0.5 GiB), how far a
kernel stays behind the rate, and how long the sampled hypotheses get. Where the weights decide which parts of a batch
are computed, all of them are counted. `benchmarks/estimate.py` compares predictions with measurements.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoConfig

from audiorl.adapters import checked_adapter
from audiorl.batch import GroupBatch, pad_tokens
from audiorl.models import SpeechFamily, disable_dropout, model_class, registered_family, speech_family
from audiorl.models.forward import parameter_counts
from audiorl.models.whisper import shorten_window
from audiorl.trainers.loading import add_adapter

GIB = 2**30
AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# bytes an optimizer keeps for each trained weight in float32
OPTIMIZER_BYTES = {"adamw": 8, "8bit": 2, "adafactor": 0.1, "sgd": 0, "lion": 4, "adagrad": 4}


class Device(NamedTuple):
    """How fast a device is, by its maker or measured."""

    name: str
    operations: float  # of dense matrix products in a second, in the precision that is asked for
    bandwidth: float  # bytes of weights in a second that a product with few rows reads
    share: float  # of the rate that training reaches


# Dense bf16 or fp16 rates and memory bandwidth by their makers' data sheets. The share is a guess for speech models; no
# measurement on these cards stands behind it.
CARDS = {
    "a100": Device("A100 80 GB", 312e12, 2.0e12, 0.35),
    "h100": Device("H100 SXM", 989e12, 3.35e12, 0.35),
    "h200": Device("H200 SXM", 989e12, 4.8e12, 0.35),
    "l4": Device("L4", 121e12, 0.3e12, 0.35),
    "l40s": Device("L40S", 362e12, 0.864e12, 0.35),
    "t4": Device("T4 (fp16)", 65e12, 0.32e12, 0.35),
    "v100": Device("V100 (fp16)", 125e12, 0.9e12, 0.35),
    "4090": Device("RTX 4090", 165e12, 1.0e12, 0.35),
}


@dataclass(frozen=True)
class Work:
    """One optimizer step of a method.

    Attributes:
        clips: of a micro-batch.
        hypotheses: K, scored with a graph for each clip.
        tokens: T, of each hypothesis, prefix and end token included.
        seconds: of each clip.
        micro_batches: of a step.
        reference: a frozen policy scores the hypotheses too.
        reference_copy: it is a second model.
        rollouts: how often a step samples its hypotheses; below 1 where several steps learn from the same.
    """

    clips: int
    hypotheses: int
    tokens: int
    seconds: float
    micro_batches: int = 1
    reference: bool = False
    reference_copy: bool = False
    rollouts: float = 0.0


class Counted(NamedTuple):
    """One pass over a micro-batch."""

    operations: float
    peak_bytes: int  # of tensors beyond the weights, gradients of a backward pass included


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds of one device; seconds of an optimizer step."""

    parameters: int
    trained: int
    weight_bytes: float
    reference_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    activation_bytes: float
    operations: float
    rollout_seconds: float
    scoring_seconds: float
    audio_seconds: float

    @property
    def peak_bytes(self) -> float:
        """The most memory of the step: the optimizer's state is there from the second step on."""
        kept = self.weight_bytes + self.reference_bytes + self.gradient_bytes + self.optimizer_bytes
        return kept + self.activation_bytes

    @property
    def step_seconds(self) -> float:
        return self.rollout_seconds + self.scoring_seconds

    def as_record(self) -> dict[str, float]:
        return {**asdict(self), "peak_bytes": self.peak_bytes, "step_seconds": self.step_seconds}


# ---- counting without data ----


class _Counter(TorchDispatchMode):
    """Counts operations and the bytes of tensors that are alive, and lets tensors with data keep it.

    What decides the way through a model (lengths, masks, token ids) has data; weights and what follows from them have
    none. Choosing by a mask is turned into choosing by its places, whose number is known; of a mask without data all
    places are chosen, which is the most that it can be.

    Attributes:
        operations: of matrix products.
        peak_bytes: the most that was alive after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.peak_bytes = self._bytes = 0
        self._known: set[int] = set()
        # torch's counter itself, around a pass, keeps what checkpointing computes again alive
        self._formulas = product_counter().flop_registry

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(isinstance(x, FakeTensor) for x in given):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        if function is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
            if not any(isinstance(x, FakeTensor) for x in tree_leaves(args)):
                with unset_fake_temporarily():
                    return function(*args, **kwargs)
        storages = {x.untyped_storage()._cdata for x in given}
        known = WITHOUT_DATA.get(function.overloadpacket)
        result = function(*args, **kwargs) if known is None else known(*args)
        if (formula := self._formulas.get(function.overloadpacket)) is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), storages)
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        return result

    def _see(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._bytes += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def _ctc_loss(frame_logps: Tensor, targets: Tensor, frames: Any, symbols: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    """Of log-probabilities (S, N, V): losses (N,), and a table (N, S, 2 U + 1), U symbols in the longest text."""
    length, clips, _ = frame_logps.shape
    with unset_fake_temporarily():
        longest = int(symbols.max()) if isinstance(symbols, Tensor) else max(symbols)
    return frame_logps.new_empty(clips), frame_logps.new_empty(clips, length, 2 * longest + 1)


# Operations whose results torch cannot give without data. A number that nobody knows (the most probable token, for a
# figure that is only logged) is 0.
WITHOUT_DATA: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._local_scalar_dense: lambda number: False if number.dtype == torch.bool else 0,
    torch.ops.aten._ctc_loss: _ctc_loss,
    torch.ops.aten._ctc_loss_backward: lambda grad, frame_logps, *rest: torch.empty_like(frame_logps),
}


# Products that torch's own counter passes over on a CPU, by the shapes of their inputs. Causal attention is
# counted as if it were not.
def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _lstm_layer(steps: Any, from_input: Any, from_hidden: Any, *rest: Any, **kwargs: Any) -> int:
    """(T, N, C) steps, (4 D, C) and (4 D, D) weights."""
    return 2 * steps[0] * steps[1] * from_input[0] * (from_input[1] + from_hidden[1])


def _lstm_layer_backward(*shapes: Any, **kwargs: Any) -> int:
    return 2 * _lstm_layer(*shapes)


UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_layer,
    torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_layer_backward,
}


def product_counter() -> FlopCounterMode:
    """A context whose `get_total_flops()` are the operations of all matrix products in it."""
    return FlopCounterMode(display=False, custom_mapping=UNCOUNTED)


def _places(index: Tensor | None) -> list[Tensor | None]:
    if index is None or index.dtype != torch.bool:
        return [index]
    with unset_fake_temporarily():
        chosen = torch.ones(index.shape, dtype=torch.bool) if isinstance(index, FakeTensor) else index
        return list(chosen.nonzero(as_tuple=True))


def without_data() -> FakeTensorMode:
    """A context in which models are built that have shapes and no weights."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def count_pass(
    family: SpeechFamily,
    model: nn.Module,
    batch: GroupBatch,
    mode: FakeTensorMode,
    *,
    precision: str = "float32",
    backward: bool = True,
) -> Counted:
    """Operations and memory of scoring a micro-batch.

    Args:
        model: built under `without_data()`, whose context `mode` is.
        batch: with data; the audio's does not matter.
        precision: a key of `AUTOCAST`.
        backward: with a graph, and the way back.

    Raises:
        ValueError: how much is computed depends on the weights.
    """
    dtype = AUTOCAST[precision]
    cast = nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    counter = _Counter()
    quiet = warnings.catch_warnings()
    try:
        with quiet, cast, mode, counter, torch.set_grad_enabled(backward):
            # torch looks at the gradient of each tensor with data that meets one without
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            scores = family.score_groups(model, batch)
            if backward:
                scores.logps.sum().backward()
    except (DynamicOutputShapeException, DataDependentOutputException) as error:
        raise ValueError(
            f"What {type(family).__name__} computes depends on what its weights say ({error}), so it cannot be counted "
            "without them. Train one step instead (--max_steps 1): its log has memory/peak_gib and train_runtime."
        ) from error
    model.zero_grad(set_to_none=True)
    return Counted(float(counter.operations), counter.peak_bytes)


# ---- what a run takes ----


class Prepared(NamedTuple):
    """A model without weights, as a trainer would have it."""

    model: nn.Module
    family: SpeechFamily
    mode: FakeTensorMode


def prepare(
    name: str,
    *,
    freeze_encoder: bool = False,
    checkpointing: bool = False,
    adapter: PeftConfig | None = None,
    window_seconds: int | None = None,
    language: str | None = None,
) -> Prepared:
    """Build a model from its config, and read its processor.

    Args:
        name: a Hub name or a folder; no weights are read.
        checkpointing: activations are computed again in the backward pass.
        adapter: trained in the place of the model.
        language: of the transcripts, for models that have to be told.
        window_seconds: what Whisper hears of a clip, as --audio_window_seconds; None for all of its window.

    Raises:
        ValueError: there is no such model, or no family knows it.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"No config could be read from {name!r}: {error}. Check --model_name_or_path; a folder has to hold "
            "config.json."
        ) from error
    kind = model_class(config)
    family_kind = registered_family(kind, config.model_type)
    if family_kind is None:
        raise ValueError(f"No family knows models of type {config.model_type!r}. Name a speech model.")
    processor = family_kind.load_processor(name)
    with torch.device("meta"):
        model: Any = kind._from_config(config, dtype=torch.float32).train()
        if window_seconds is not None:
            shorten_window(model, processor, window_seconds)
        planned = checked_adapter(model, adapter)
        if planned is not None:
            model = add_adapter(model, planned, seed=0)
        else:
            model.requires_grad_(True)  # from_pretrained leaves nothing frozen
    disable_dropout(model)
    mode = without_data()
    fill(model, mode)
    family = speech_family(model, processor)
    family.set_defaults(language=language)
    family.install(model)
    if freeze_encoder:
        family.freeze_encoder(model)
    if checkpointing:
        base = getattr(model, "base_model", model)
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return Prepared(model, family, mode)


def fill(model: nn.Module, mode: FakeTensorMode) -> None:
    """Give a model on torch's meta device, in place, tensors that count as the CPU's and still have no data."""
    made: dict[int, Tensor] = {}  # tied ones stay one
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _empty(tensor, mode)
                held[name] = made[id(tensor)]  # type: ignore[assignment]


def _empty(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def batch_of(family: SpeechFamily, work: Work) -> GroupBatch:
    """A micro-batch of noise, whose hypotheses all have the same number of tokens."""
    rate = family.sampling_rate
    noise = np.random.default_rng(0).standard_normal(round(work.seconds * rate)).astype(np.float32) * 0.01
    row = {"row_id": 0, "where": "the estimate"}
    labels = getattr(family, "labels", [])
    framed = family.tokenize_row(labels[0] if labels else "", row)
    prefix, end = framed.ids[: framed.first_kept], framed.ids[framed.first_kept :]
    free = 0 if labels else max(work.tokens - len(prefix) - len(end), 1)
    middle = [2 + i % 8 for i in range(free)]  # neighbours differ: CTC wants a blank between equal ones
    ids = [*prefix, *middle, *end]
    tokens, keep = pad_tokens(
        [[ids] * work.hypotheses] * work.clips, [[len(prefix)] * work.hypotheses] * work.clips, family.end_token
    )
    return GroupBatch(
        **family.features([noise] * work.clips), tokens=tokens, keep=keep, row_ids=torch.arange(work.clips)
    )


def estimate(
    prepared: Prepared,
    work: Work,
    device: Device,
    *,
    precision: str = "float32",
    optimizer: str = "adamw_torch",
    batch: GroupBatch | None = None,
) -> Estimate:
    """What one device needs for `work`.

    Args:
        precision: a key of `AUTOCAST`; weights stay in float32, as the trainers load them.
        optimizer: as the trainers' `optim`.
        batch: a micro-batch of `work`; default noise.
    """
    model, family, mode = prepared
    trained, parameters = parameter_counts(model)
    batch = batch_of(family, work) if batch is None else batch
    learning = count_pass(family, model, batch, mode, precision=precision)
    weights = float(sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()]))
    gradients = float(sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad))
    operations, seconds = learning.operations, 0.0
    if work.reference or work.rollouts:
        forward = count_pass(family, model, batch, mode, precision=precision, backward=False).operations
        operations += forward * work.reference
        if work.rollouts:
            read = weights - sum(p.numel() * p.element_size() for p in family.encoder_parameters(model))
            width = 1.0 if AUTOCAST[precision] is None else 0.5
            reading = family.decoder_calls(batch) * width * read / device.bandwidth
            seconds = work.rollouts * (forward / (device.operations * device.share) + reading)
    rate = device.operations * device.share
    return Estimate(
        parameters=parameters,
        trained=trained,
        weight_bytes=weights,
        reference_bytes=weights if work.reference_copy else 0.0,
        gradient_bytes=gradients,
        optimizer_bytes=optimizer_bytes(optimizer) * trained,
        activation_bytes=max(learning.peak_bytes - gradients, 0.0),
        operations=work.micro_batches * operations,
        rollout_seconds=work.micro_batches * seconds,
        scoring_seconds=work.micro_batches * operations / rate,
        audio_seconds=work.micro_batches * work.clips * work.seconds,
    )


def optimizer_bytes(name: str) -> float:
    """Bytes of state for each trained weight of float32; that of AdamW for names that are not known."""
    known = [size for part, size in OPTIMIZER_BYTES.items() if part in name]
    return min(known) if known else OPTIMIZER_BYTES["adamw"]


# ---- this machine ----

# of the matrices whose product is timed
SIDE = 1024
# Hypotheses that are sampled at once, two clips of a common K. A CPU's product needs as long for so few as it takes to
# arrange the weights, more than to read them.
ROWS = 16


def this_machine(
    precision: str = "float32", share: float = 0.8, clock: Callable[[], float] = time.perf_counter
) -> Device:
    """What this machine does now, in a second: a product of large matrices, and one of few rows with many weights.

    Args:
        precision: a key of `AUTOCAST`.
        share: see `Device`.
        clock: seconds; `time.process_time` where one thread computes and others disturb it.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    side = SIDE if device.type == "cpu" else 8 * SIDE
    kind: dict[str, Any] = {"device": device, "dtype": AUTOCAST[precision] or torch.float32}
    square, few, many = (
        torch.randn(side, side, **kind),
        torch.randn(ROWS, SIDE, **kind),
        torch.randn(32 * SIDE, SIDE, **kind),
    )
    operations = 2 * side**3 / _fastest(lambda: square @ square, device, clock)
    bandwidth = many.numel() * many.element_size() / _fastest(lambda: few @ many.T, device, clock)
    if device.type == "cuda":
        return Device(torch.cuda.get_device_name(), operations, bandwidth, share)
    return Device(f"this machine, {torch.get_num_threads()} threads", operations, bandwidth, share)


def _fastest(do: Callable[[], Any], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of some calls."""
    best = float("inf")
    for _ in range(6):
        begun = clock()
        do()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, clock() - begun)
    return best

"""`audiorl estimate METHOD`: what a run will take in memory and time, before anything is loaded.

    audiorl estimate grpo --model_name_or_path openai/whisper-small --num_generations 8 \\
        --per_device_train_batch_size 4 --freeze_encoder true --precision bf16 --card a100

It takes every flag of `audiorl METHOD`. The model's config and processor are read, no weights and no rows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audiorl.exits import MISTYPED, stop
from audiorl.terminal import wrapped

if TYPE_CHECKING:
    from audiorl.models import SpeechFamily
    from audiorl.trainers.estimate import Device, Estimate, Work

METHODS = ("sft", "dpo", "orpo", "kto", "grpo", "raft")
PRECISIONS = ("float32", "bf16", "fp16")
USAGE = "audiorl estimate METHOD [flags of audiorl METHOD]; METHOD is one of " + ", ".join(METHODS)


@dataclass
class EstimateArguments:
    """What an estimate needs to know beside a run's own flags."""

    clip_seconds: float | None = field(
        default=None,
        metadata={"help": "Length of the clips in seconds, > 0. Unset: 10, or the most that the model hears if less."},
    )
    transcript_tokens: int = field(
        default=60, metadata={"help": "Tokens of a hypothesis, > 0, prefix and end token included."}
    )
    training_rows: int | None = field(
        default=None, metadata={"help": "Rows of the training set, > 0; with them the time of the whole run is told."}
    )
    precision: str | None = field(
        default=None,
        metadata={"help": "float32, bf16 or fp16. Unset: as --bf16 and --fp16 say.", "choices": list(PRECISIONS)},
    )
    card: str | None = field(
        default=None,
        metadata={"help": "a100, h100, h200, l4, l40s, t4, v100 or 4090. Unset: this machine, measured for a second."},
    )
    device_tflops: float | None = field(
        default=None,
        metadata={"help": "In place of a card's rate: 10^12 operations of matrix products in a second, > 0."},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the estimate; see the flags.

    Raises:
        ValueError: what the user can mend, in three parts.
    """
    method, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if method in ("--help", "-h"):
        print(USAGE)
        return
    if method not in METHODS:
        stop(f"{method} is no method that tunes. {USAGE}.", MISTYPED)

    from audiorl.adapters import SpeechModelConfig
    from audiorl.commands import train
    from audiorl.demo import CHECKPOINT
    from audiorl.flags import adapter_and_quantization, parse
    from audiorl.trainers.estimate import estimate, prepare

    kinds = (EstimateArguments, train.METHODS[method].flags, train.METHODS[method].config, SpeechModelConfig)
    asked, _, args, model = parse(kinds, ["--model_name_or_path", str(CHECKPOINT)], rest)
    _check(asked)
    adapter, quantization = adapter_and_quantization(model)
    if quantization is not None:
        raise ValueError(
            "An estimate counts weights in float32 and knows no 8 or 4 bit. Leave --load_in_8bit and --load_in_4bit "
            "out; the linear layers then take a quarter or an eighth of what is told."
        )
    precision = asked.precision or ("bf16" if args.bf16 else "fp16" if args.fp16 else "float32")
    prepared = prepare(
        model.model_name_or_path,
        freeze_encoder=args.freeze_encoder,
        checkpointing=args.gradient_checkpointing or bool(getattr(args, "activation_checkpointing", False)),
        adapter=adapter,
        language=args.language,
        window_seconds=getattr(model, "audio_window_seconds", None),
    )
    work = work_of(method, args, asked, seconds_of(asked, prepared.family), adapter=adapter is not None)
    device = device_of(asked, precision)
    optimizer = str(getattr(args.optim, "value", args.optim))
    found = estimate(prepared, work, device, precision=precision, optimizer=optimizer)
    print(wrapped(in_words(found, work, device, precision, args, asked)))


def _check(asked: EstimateArguments) -> None:
    from audiorl.losses.settings import known_name, positive_number
    from audiorl.trainers.estimate import CARDS

    for name in ("clip_seconds", "transcript_tokens", "training_rows", "device_tflops"):
        value = getattr(asked, name)
        if value is not None:
            positive_number(name, value)
    if asked.card is not None:
        known_name("card", asked.card, CARDS)


# of a clip, where nobody says how long they are
USUAL_SECONDS = 10.0


def seconds_of(asked: EstimateArguments, family: SpeechFamily) -> float:
    """The length of the clips.

    Raises:
        ValueError: the model does not hear that much.
    """
    longest = family.max_seconds or math.inf
    if asked.clip_seconds is None:
        return min(USUAL_SECONDS, longest)
    if asked.clip_seconds > longest:
        raise ValueError(
            f"The model hears clips of at most {longest:g} s; got clip_seconds={asked.clip_seconds:g}. Lower "
            "--clip_seconds, or leave it out."
        )
    return asked.clip_seconds


def work_of(method: str, args: Any, asked: EstimateArguments, seconds: float, *, adapter: bool) -> Work:
    """One optimizer step of a method, as its config says.

    Args:
        seconds: of a clip.
        adapter: whether an adapter is trained, so that the frozen policy is the model itself.
    """
    from audiorl.trainers.estimate import Work

    hypotheses = {"dpo": 2, "orpo": 2, "grpo": getattr(args, "num_generations", 1)}.get(method, 1)
    reference = method in ("dpo", "kto") or (method == "grpo" and args.beta > 0)
    beforehand = bool(getattr(args, "precompute_ref_log_probs", False))
    return Work(
        clips=args.per_device_train_batch_size,
        hypotheses=hypotheses + (getattr(args, "sft_weight", 0) > 0 and method == "grpo"),
        tokens=asked.transcript_tokens,
        seconds=seconds,
        micro_batches=args.gradient_accumulation_steps,
        reference=reference and not beforehand,
        reference_copy=reference and not beforehand and not adapter,
        rollouts=1 / args.num_iterations if method == "grpo" else 0.0,
    )


def device_of(asked: EstimateArguments, precision: str) -> Device:
    """The card that is named, or this machine; with the rate that is named."""
    from audiorl.trainers.estimate import CARDS, this_machine

    device = this_machine(precision) if asked.card is None else CARDS[asked.card]
    if asked.card is not None and precision == "float32":
        device = device._replace(operations=device.operations / 8)
    if asked.device_tflops is not None:
        device = device._replace(operations=1e12 * asked.device_tflops)
    return device


def in_words(found: Estimate, work: Work, device: Device, precision: str, args: Any, asked: EstimateArguments) -> str:
    """The estimate as a table, with what it leaves out."""
    from audiorl.trainers.estimate import GIB

    memory = {
        "weights": found.weight_bytes,
        "frozen policy": found.reference_bytes,
        "gradients": found.gradient_bytes,
        f"optimizer ({getattr(args.optim, 'value', args.optim)})": found.optimizer_bytes,
        "activations": found.activation_bytes,
        "all": found.peak_bytes,
    }
    lines = [
        f"{found.parameters / 1e6:,.1f} M parameters, {found.trained / 1e6:,.1f} M trained; a micro-batch of "
        f"{work.clips} x {work.hypotheses} hypotheses of {work.tokens} tokens, clips of {work.seconds:g} s, "
        f"{precision}",
        "",
        *(f"{name:<30}{size / GIB:>9.2f} GiB" for name, size in memory.items() if size or name == "all"),
        "",
        f"{device.name}: {device.operations / 1e12:.3g} TFLOP/s, {100 * device.share:.0f} % of it reached",
        f"{'a step of ' + str(work.micro_batches) + ' micro-batch' + 'es' * (work.micro_batches > 1):<30}"
        f"{found.step_seconds:>9.3g} s, of which sampling {found.rollout_seconds:.3g} s",
        f"{'speech learnt from':<30}{found.audio_seconds / found.step_seconds:>9.3g} s in a second, per device",
    ]
    if asked.training_rows is not None:
        clips = work.clips * work.micro_batches * args.world_size
        steps = args.max_steps if args.max_steps > 0 else -(-asked.training_rows // clips) * args.num_train_epochs
        lines.append(f"{'the whole run':<30}{steps * found.step_seconds / 3600:>9.3g} h, {steps:,.0f} steps")
    cycles = "RAFT's sampling, " if hasattr(args, "num_cycles") else ""
    left_out = (
        f"Left out: {cycles}what CUDA takes itself (about 0.5 GiB), what the allocator keeps between blocks, rewards, "
        "loading, evaluations. benchmarks/estimate.py says how near such figures come."
    )
    return "\n".join([*lines, "", left_out])

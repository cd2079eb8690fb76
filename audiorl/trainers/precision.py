"""What a device can train with: refused when the config is built, not when the first step fails."""

from __future__ import annotations

from transformers import TrainingArguments

from audiorl.adapters import require_bitsandbytes

# Parts of the names of optimizers that bitsandbytes brings; names with "torch" are torch's and torchao's.
BITSANDBYTES_OPTIMIZERS = ("8bit", "bnb", "paged", "ademamix", "lion")
# Where leaving out "paged_" gives no name that transformers knows.
UNPAGED = {"paged_adamw_32bit": "adamw_torch", "paged_ademamix_32bit": "ademamix"}


def check_device(args: TrainingArguments) -> None:
    """Refuse what needs a GPU on a machine without one.

    Raises:
        ValueError: fp16, or a paged optimizer, on a CPU.
        ImportError: an optimizer of bitsandbytes where it is not installed.
    """
    on_cpu = args.device.type == "cpu"
    if args.fp16 and on_cpu:
        raise ValueError(
            "fp16 needs a GPU: a CPU has no fast half-precision arithmetic, and gradients would underflow. Use bf16 "
            "(with use_cpu=True), or neither."
        )
    name = str(getattr(args.optim, "value", args.optim))
    if "paged" in name and on_cpu:
        instead = UNPAGED.get(name, name.removeprefix("paged_"))
        raise ValueError(
            f"optim={name!r} moves its state between a GPU and main memory, and there is no GPU here; bitsandbytes "
            f"would quietly use another optimizer. Use {instead!r}, or a machine with a GPU."
        )
    if "torch" not in name and any(part in name for part in BITSANDBYTES_OPTIMIZERS):
        require_bitsandbytes(f"optim={name!r}")

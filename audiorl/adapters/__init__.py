"""Adapters: the layers they sit in, whether they fit a model, the flags that describe them.

`LoraConfig(target_modules=...)` and the like may say, besides what PEFT takes:

    nothing           what the model's family says (`adapter_targets`): of most, every linear layer of encoder and
                      decoder, the head left out (PEFT's "all-linear"); of audio language models "decoder-linear"
    "decoder-linear"  those of the decoder; the encoder stays as it is, so its output is computed once and shared by
                      policy, reference and rollouts
"""

from __future__ import annotations

from audiorl.adapters.checks import (
    ALL_LINEAR,
    DECODER_LINEAR,
    check_rank_schedule,
    checked_adapter,
    decoder_only_targets,
    require_bitsandbytes,
)
from audiorl.adapters.flags import PEFT_TYPES, TOLD_BY_TRAINER, SpeechModelConfig, adapter_config

__all__ = [
    "ALL_LINEAR",
    "DECODER_LINEAR",
    "PEFT_TYPES",
    "TOLD_BY_TRAINER",
    "SpeechModelConfig",
    "adapter_config",
    "check_rank_schedule",
    "checked_adapter",
    "decoder_only_targets",
    "require_bitsandbytes",
]

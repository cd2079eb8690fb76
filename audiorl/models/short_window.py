"""A shorter window for Whisper: most speech is shorter than 30 s, and a stock encoder pays for all 30.

The checkpoint stays a stock one: plain transformers loads what is saved, with its processor. What the encoder makes of
a clip changes, since it no longer sees the silence behind it, so accuracy must be regained by tuning.

An adapter is loaded on the base that it names, whose window is the whole one: trainers refuse an adapter on a model
that was shortened and not saved (`differs_from_checkpoint`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from audiorl.models.forward import base_model

HEARS_AT_LEAST = 1  # seconds


def shorten_window(model: nn.Module, processor: Any, seconds: int) -> None:
    """Let a Whisper hear at most `seconds`, in place; call it before a trainer or a family sees the model.

    Encoder positions, `max_source_positions` and the feature extractor's chunk are cropped. An encoder position is two
    mel frames, 20 ms: 30 s are 1500 positions, 12 s are 600.

    Args:
        model: a Whisper for transcription, wrapped by PEFT or not.
        processor: its processor; what it makes is cut or padded to the new window from here on.
        seconds: whole seconds, at least 1 and at most the window of now.

    Raises:
        ValueError: another kind of model, whose encoder has no fixed window; seconds out of range; a processor of
            another window than the model's.
    """
    base = base_model(model)
    extractor = getattr(processor, "feature_extractor", processor)
    if getattr(base.config, "model_type", None) != "whisper":
        raise ValueError(
            f"{type(base).__name__} has no fixed window that could be shortened: only Whisper pads every clip to one. "
            "Leave audio_window_seconds out; the length of its clips decides what they cost."
        )
    window = int(extractor.chunk_length)
    frames = extractor.nb_max_frames
    if frames != 2 * base.config.max_source_positions:
        raise ValueError(
            f"The processor's window has {frames} frames, the model's {2 * base.config.max_source_positions}. "
            "Load the processor from the model's own checkpoint."
        )
    if isinstance(seconds, bool) or int(seconds) != seconds or not HEARS_AT_LEAST <= seconds <= window:
        raise ValueError(
            f"A window of {seconds} s is not possible: this model hears {window} s. Choose whole seconds from "
            f"{HEARS_AT_LEAST} to {window}."
        )
    positions = base.config.max_source_positions * int(seconds) // window
    _crop_positions(base, positions)
    extractor.chunk_length = int(seconds)
    extractor.n_samples = int(seconds) * extractor.sampling_rate
    extractor.nb_max_frames = 2 * positions
    if seconds < window:
        base.differs_from_checkpoint = f"hears {int(seconds)} s, shortened from {window} s"


def _crop_positions(base: Any, positions: int) -> None:
    encoder = base.get_encoder()
    weight = encoder.embed_positions.weight
    cropped = nn.Embedding(positions, weight.shape[1], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        cropped.weight.copy_(weight[:positions])
    cropped.weight.requires_grad_(weight.requires_grad)
    encoder.embed_positions = cropped
    encoder.max_source_positions = positions
    for config in (base.config, encoder.config):
        config.max_source_positions = positions

"""A stand-in for `torchaudio.compliance.kaldi.fbank`, which Fun-ASR-Nano's feature extractor calls.

Why: torchaudio's wheel on the package index wants CUDA's libraries and cannot be imported on a machine without them,
and transformers refuses the extractor where it is missing. The stand-in is made of what transformers itself takes for
Kaldi filter banks without torchaudio (`transformers.audio_utils`, as in `ASTFeatureExtractor`). So where torchaudio is
missing Fun-ASR-Nano is tried with this only; where it is installed nothing is replaced.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.utils import is_torchaudio_available

EXTRACTOR = "FunAsrNanoFeatureExtractor"
FFT_LENGTH = 512  # Kaldi's for windows of 25 ms at 16 kHz


def fbank(
    waveform: Tensor,
    *,
    num_mel_bins: int,
    frame_length: float,
    frame_shift: float,
    sample_frequency: float,
    window_type: str,
) -> Tensor:
    """(1, samples) -> (L, `num_mel_bins`) log energies; lengths in ms, whole windows only, no dither."""
    length, shift = (int(sample_frequency * time / 1000) for time in (frame_length, frame_shift))
    filters = mel_filter_bank(
        num_frequency_bins=FFT_LENGTH // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=20,
        max_frequency=sample_frequency // 2,
        sampling_rate=int(sample_frequency),
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    energies = spectrogram(
        waveform[0].numpy(),
        window_function(length, window_type, periodic=False),
        frame_length=length,
        hop_length=shift,
        fft_length=FFT_LENGTH,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=torch.finfo(torch.float32).eps,
        remove_dc_offset=True,
    )
    return torch.from_numpy(energies.T).float()


def extraction() -> ModuleType:
    """The extractor's module, which calls `torchaudio.compliance.kaldi.fbank`."""
    return importlib.import_module("transformers.models.fun_asr_nano.feature_extraction_fun_asr_nano")


def lazy_modules() -> list[ModuleType]:
    """Where transformers looks its feature extractors up."""
    return [transformers, importlib.import_module("transformers.models.fun_asr_nano")]


def hear_without_torchaudio() -> None:
    """Let transformers' extractor of Fun-ASR-Nano, and nothing else, use the stand-in from here on."""
    if is_torchaudio_available():
        return
    module: Any = extraction()
    module.torchaudio = SimpleNamespace(compliance=SimpleNamespace(kaldi=SimpleNamespace(fbank=fbank)))
    for place in lazy_modules():
        setattr(place, EXTRACTOR, getattr(module, EXTRACTOR))

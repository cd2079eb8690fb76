"""Granite Speech's mel spectrogram without torchaudio.

transformers' feature extractor takes one thing from torchaudio, `MelSpectrogram`, and cannot be made without it;
torchaudio has no release for every release of torch. `MelSpectrogram` here gives the same numbers with torch alone.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech as stock
from transformers.utils import is_torchaudio_available


class MelSpectrogram(nn.Module):
    """Power spectrogram under triangles on the HTK mel scale, none of them normalised.

    Args:
        sample_rate: Hz.
        n_fft: samples of a frame, the window padded to it with zeros on both sides.
        win_length: samples of the periodic Hann window.
        hop_length: samples from one frame to the next; frames are centred, the ends of the clip mirrored.
        n_mels: triangles from 0 Hz to half the sampling rate.
    """

    filters: Tensor  # (n_fft // 2 + 1, n_mels)
    window: Tensor  # (win_length,)

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int):
        super().__init__()
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk")
        self.register_buffer("filters", torch.from_numpy(filters).float())
        self.register_buffer("window", torch.hann_window(win_length))

    def forward(self, audio: Tensor) -> Tensor:
        """(B, N) -> (B, n_mels, 1 + N // hop_length)."""
        spectrum = torch.stft(
            audio, self.n_fft, self.hop_length, self.win_length, self.window, pad_mode="reflect", return_complex=True
        )
        return (spectrum.abs().square().mT @ self.filters).mT


def do_without_torchaudio() -> None:
    """Where torchaudio is missing, let transformers' extractor for Granite Speech take `MelSpectrogram` from here.

    Without this it can only raise; with torchaudio nothing changes.
    """
    if not is_torchaudio_available():
        stock.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
        stock.requires_backends = lambda *_: None

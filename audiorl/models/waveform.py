"""Models that hear the waveform (Wav2Vec2, HuBERT, WavLM): a batch gives for each clip what the clip alone gives.

Their first layers are convolutions over time. Checkpoints with `feat_extract_norm="group"` normalise the first of them
over the whole length of a row, so that padding moves every number behind it, and transformers' advice to leave the
attention mask out lets padding move them once more. Here the convolutions read each clip without its padding, equally
long clips together; what follows them reads all clips at once, with a mask. Both kinds of checkpoint are exact so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch

# Of WavLM, whose attention hands the weights of its projections to torch's own function without calling them.
WAVLM_UNADAPTABLE = ("q_proj", "k_proj", "v_proj", "out_proj")


def waveform_features(extractor: Any, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """`input_values` (B, N), padded with zeros, and `audio_mask` (B, N).

    Where the extractor normalises loudness it does so by each clip's own samples, padding left out.
    """
    made = extractor(
        list(clips),
        sampling_rate=extractor.sampling_rate,
        return_tensors="pt",
        padding=True,
        return_attention_mask=True,
    )
    return {"input_values": made.input_values, "audio_mask": made.attention_mask.long()}


def shortest_clip(config: Any) -> int:
    """Samples that the convolutions need for one frame: 400 of every released checkpoint, 25 ms."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def read_waveforms(listener: PreTrainedModel, batch: GroupBatch, **options: Any) -> Any:
    """What `listener` (a `Wav2Vec2Model`, `HubertModel`, `WavLMModel`, ...) returns for the clips of a batch.

    Args:
        options: keywords for its forward, e.g. `output_hidden_states=True`.
    """
    mask = batch.audio_mask
    assert mask is not None, "waveform_features makes one"
    audio = batch.audio.to(listener.dtype)
    if listener.config.feat_extract_norm != "group":
        return listener(audio, attention_mask=mask, **options)
    with _without_padding(listener.feature_extractor, mask.sum(-1).tolist()):
        return listener(audio, attention_mask=mask, **options)


def mean_of_frames(listener: PreTrainedModel, batch: GroupBatch, hidden: Tensor) -> Tensor:
    """(B, S, D) -> (B, D): each clip's mean over its own frames, those of the padding left out."""
    heard = listener._get_feature_vector_attention_mask(hidden.shape[1], batch.audio_mask)[..., None]  # (B, S, 1) bool
    return torch.where(heard, hidden, 0.0).sum(1) / heard.sum(1)


@contextlib.contextmanager
def _without_padding(convolutions: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Let the convolutions read row b up to sample `lengths[b]`, and pad what they make of it."""
    own = vars(convolutions).get("forward")  # that of accelerate's hooks, where there are any
    plain = convolutions.forward

    def forward(audio: Tensor) -> Tensor:
        places = {length: [b for b, other in enumerate(lengths) if other == length] for length in set(lengths)}
        parts = [plain(audio[rows, :length]) for length, rows in places.items()]
        longest = max(part.shape[-1] for part in parts)
        frames = torch.cat([nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts])
        order = torch.tensor([b for rows in places.values() for b in rows], device=frames.device)
        return frames[order.argsort()]

    convolutions.forward = forward
    try:
        yield
    finally:
        if own is None:
            del convolutions.forward
        else:
            convolutions.forward = own

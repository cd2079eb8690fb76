"""Make a clip's numbers independent of the other clips in its batch: of their padding and of batch statistics.

In many stock models, the zeros behind a short clip change its states. There are three remedies:

* `encode_by_length` runs an encoder without padding, equally long clips together.
* `read_waveforms` does so for the convolutions alone of the models that hear the waveform (Wav2Vec2, HuBERT, WavLM).
  Checkpoints with `feat_extract_norm="group"` normalise the first convolution over the whole length of a row, so
  padding would change every number behind it. If the attention mask is left out, as transformers advises for these
  checkpoints, padding changes them again. What follows the convolutions reads all clips at once, with a mask. Both
  kinds of checkpoint are exact this way.
* `keep_statistics` keeps batch norms in evaluation mode. In training mode they divide by the statistics of the batch:
  a clip's scores would depend on the clips beside it and differ from those it was sampled with, and the checkpoint's
  statistics would move.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch

# WavLM's attention passes the weights of these layers to torch's own function and never calls the layers.
WAVLM_UNADAPTABLE = ("q_proj", "k_proj", "v_proj", "out_proj")


def encode_by_length(
    encode: Callable[[Tensor], Tensor], audio: Tensor, lengths: Sequence[int], *, together: bool = True
) -> Tensor:
    """States of clips of unequal lengths, as each clip alone would have them.

    Args:
        encode: (n, length, ...) -> (n, S', D), for n equally long clips.
        audio: (B, L, ...), padded on the right.
        lengths: of each clip, in steps of L.
        together: equally long clips in one call; else each clip in a call of its own. Sharded weights need the latter:
            all processes must make equally many calls, and they have equally many clips, not equally many lengths.

    Returns:
        (B, S, D), zero behind each clip's own states.
    """
    if together:
        places = [[b for b, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))]
    else:
        places = [[b] for b in range(len(lengths))]
    parts = [encode(audio[rows, : lengths[rows[0]]]) for rows in places]
    longest = max(part.shape[1] for part in parts)
    padded = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    order = torch.tensor([b for rows in places for b in rows], device=padded.device)
    return padded[order.argsort()]


def waveform_features(extractor: Any, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """`input_values` (B, N), padded with zeros, and `audio_mask` (B, N).

    An extractor that normalises loudness does so over each clip's own samples, without the padding.
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
    """How many samples the convolutions need for one frame: 400, or 25 ms, in every released checkpoint."""
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
    """Let the convolutions read row b up to sample `lengths[b]`, and pad their output instead."""
    own = vars(convolutions).get("forward")  # accelerate's hooks put one here
    plain = convolutions.forward

    def forward(audio: Tensor) -> Tensor:
        # (n, D, S') -> (n, S', D) and back
        return encode_by_length(lambda clips: plain(clips).mT, audio, lengths).mT

    convolutions.forward = forward
    try:
        yield
    finally:
        if own is None:
            del convolutions.forward
        else:
            convolutions.forward = own


def keep_statistics(model: nn.Module) -> None:
    """Keep every batch norm of a model in evaluation mode, whatever mode the model is put into."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = types.MethodType(_stay_as_it_is, module)  # type: ignore[method-assign]


def _stay_as_it_is(self: nn.Module, mode: bool = True) -> nn.Module:
    return self

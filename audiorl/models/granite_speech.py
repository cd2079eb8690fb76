"""Granite Speech: a conformer, a windowed Q-former and a Granite language model; Granite Speech Plus is the same to us.

Where it differs from the other audio language models:

1. The conformer takes no mask, so padding would reach a clip through attention, convolutions and windows. Each clip is
   read without padding, equally long clips together (`padding.py`): exact, at one encoder call for each length.
2. Its batch norm keeps the checkpoint's statistics, in training too (`padding.py`).
3. Checkpoints with an adapter of their own for speech are refused; `merge_speech_adapter` turns them into plain ones.
   That adapter would sit in the same layers as ours, under the same name; `generate` switches it off when it gets
   embeddings instead of audio; and PEFT loads an adapter that was trained beside it in its place.
4. transformers up to 5.23 leaves `text_config.logits_scaling` out (`GraniteForCausalLM` divides its logits by it).
   Scores and samples are those of the stock forward: at temperature 1 its distribution is that much sharper than the
   language model's own, which is the one at `temperature=logits_scaling`.
5. transformers' feature extractor cannot be built without torchaudio, which has no release for every release of torch.
   It takes one thing from there, and `MelSpectrogram` here gives the same numbers with torch alone.

Granite Speech 5.0 is another model: an encoder with a CTC head (`granite_speech5.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech as stock
from transformers.utils import is_torchaudio_available

from audiorl.batch import GroupBatch
from audiorl.models.audio_llm import AudioLLMFamily, request_with_history
from audiorl.models.forward import base_model, is_sharded
from audiorl.models.padding import encode_by_length, keep_statistics

# The request of the cards of granite-speech-3.3-2b and granite-4.0-1b-speech.
TRANSCRIBE = "can you transcribe the speech into a written format?"
# Layers of a language model whose past is keys and values, which a mask can part into K continuations.
ATTENTION = {"full_attention", "attention"}


class GraniteSpeechFamily(AudioLLMFamily):
    """Granite Speech. The row's `prompt` replaces the request to transcribe; the request names no language.

    The checkpoint's chat template writes the system turn; some write the current date into it.
    """

    unquantised = (".*encoder", ".*projector", "lm_head")

    def __init__(self, model: nn.Module, processor: Any):
        base = base_model(model)
        _refuse_own_adapter(base)
        _refuse_recurrent(base.config.get_text_config())
        super().__init__(model, processor)
        _check_processor(self.extractor, base.config)
        spectrum = self.extractor.melspec_kwargs
        # the clip is mirrored at its ends by half a frame, and two mel frames make one of the conformer
        shortest = max(spectrum["n_fft"] // 2 + 1, spectrum["hop_length"])
        self.min_seconds = shortest / self.sampling_rate
        # the conformer takes any length; more audio than this would fill all positions of the language model
        window = self.extractor.projector_window_size
        windows = self.max_tokens // (window // self.extractor.projector_downsample_rate)
        self.max_seconds = windows * window * 2 * spectrum["hop_length"] / self.sampling_rate

    @classmethod
    def load_processor(cls, name: str) -> Any:
        do_without_torchaudio()
        return super().load_processor(name)

    def install(self, model: nn.Module) -> None:
        super().install(model)
        base = base_model(model)
        keep_statistics(base)
        # the layers of the language model and of the Q-former know it, those of the conformer run as they are
        base.supports_gradient_checkpointing = True

    def _masked_part(self, base: PreTrainedModel) -> PreTrainedModel:
        return base.get_decoder()  # the conformer has attention of its own, and transformers would warn of it

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`input_features` (B, M, L), M of two mel frames, `audio_mask` (B, L), and `audio_tokens` (B,)."""
        do_without_torchaudio()  # a worker that loads the rows may be a new process
        heard = [self.extractor([clip]) for clip in clips]
        frames = [made["input_features"][0] for made in heard]
        return {
            "input_features": pad_sequence(frames, batch_first=True).mT,
            "audio_mask": pad_sequence([torch.ones(len(one)).long() for one in frames], batch_first=True),
            "audio_tokens": torch.tensor([made["audio_embed_sizes"][0] for made in heard]),
        }

    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        turns = [{"role": "user", "content": f"{self.audio_token}{prompt or TRANSCRIBE}"}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        if self.audio_token not in text:
            raise ValueError(
                f"the chat template leaves {self.audio_token} out of what the user says: {text!r}. Load the tokenizer "
                "of a Granite Speech checkpoint, whose template writes the user's turn as it is"
            )
        return text

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return request_with_history(prompt or TRANSCRIBE, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """The list of keywords behind the request that granite-4.0-1b-speech was trained to read."""
        return f"{prompt or TRANSCRIBE} Keywords: {', '.join(hotwords)}"

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        inner = base_model(model).model
        return [*inner.encoder.parameters(), *inner.projector.parameters()]

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        assert batch.audio_mask is not None, "features makes one"

        def encode(audio: Tensor) -> Tensor:
            return base.get_audio_features(audio, return_dict=True).pooler_output

        frames = batch.audio_mask.sum(-1).tolist()
        return encode_by_length(encode, batch.audio.mT.to(base.dtype), frames, together=not is_sharded(base))


def merge_speech_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Add the checkpoint's own adapter for speech to its weights, in place; a plain model is left.

    Its answers to audio stay the same up to rounding. Without audio it is no longer the bare language model.

    Args:
        model: Granite Speech as `from_pretrained` loads it, its adapter on top.

    Returns:
        The same model, all weights trainable, `config.has_lora_adapter` False.

    Raises:
        ValueError: no adapter is loaded.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    if not adapted:
        raise ValueError(
            "This model has no adapter to merge. Load it with from_pretrained from a checkpoint that has "
            "adapter_config.json and adapter_model.safetensors beside its weights."
        )
    for name, layer in adapted:
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
    model._weight_conversions = None  # those of the adapter's names; saving takes the model's own
    model.config.has_lora_adapter = False
    return model.requires_grad_(True)


def _refuse_own_adapter(base: PreTrainedModel) -> None:
    if base._hf_peft_config_loaded:
        raise ValueError(
            "This Granite Speech checkpoint has its own adapter for speech; no other can be trained or switched off "
            "beside it. Merge it and use the folder, with audiorl.models.granite_speech: "
            "merge_speech_adapter(GraniteSpeechForConditionalGeneration.from_pretrained(NAME)).save_pretrained(FOLDER),"
            " and GraniteSpeechFamily.load_processor(NAME).save_pretrained(FOLDER)."
        )
    if base.config.has_lora_adapter:
        raise ValueError(
            "This checkpoint's config says that it has an adapter for speech (has_lora_adapter), but none is loaded, "
            "so the model would not hear as it was trained to. Download adapter_config.json and "
            "adapter_model.safetensors too; or, if the weights are whole without it, set has_lora_adapter to false."
        )


def _check_processor(extractor: Any, config: Any) -> None:
    made = (
        2 * extractor.melspec_kwargs["n_mels"],
        extractor.projector_window_size,
        extractor.projector_downsample_rate,
    )
    taken = (config.encoder_config.input_dim, config.window_size, config.downsample_rate)
    if made != taken:
        raise ValueError(
            f"The processor makes features, windows and downsampling of {made}, the model takes {taken}. Load the "
            "processor from the model's own checkpoint."
        )


def _refuse_recurrent(text_config: Any) -> None:
    others = set(getattr(text_config, "layer_types", None) or ()) - ATTENTION
    if others:
        raise ValueError(
            f"The language model of this checkpoint ({text_config.model_type}) has layers of kind {sorted(others)}, "
            "whose past cannot be shared by K continuations of one prompt. Use a checkpoint with full attention in all "
            "layers."
        )


# ---- features without torchaudio ----


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
    """If torchaudio is missing, let transformers' extractor for Granite Speech take `MelSpectrogram` from here.

    Without this the extractor raises. Where torchaudio is installed, nothing changes.
    """
    if not is_torchaudio_available():
        stock.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
        stock.requires_backends = lambda *_: None

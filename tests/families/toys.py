"""Two families that are nothing like Whisper, so that the seam does not take Whisper's shape.

    ToyCTC          waveform with a mask -> frames -> symbols; a hypothesis is scored as a whole, T = 1
    ToyAudioPrefix  features -> audio tokens in front of the text of a decoder-only model

Both hear at 1 kHz and write letters. A hypothesis is `[BLANK, letters, BLANK]`: the seam wants a token before the first
that counts, and the last one, which counts, makes an empty hypothesis differ from a placeholder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, LlamaConfig, LlamaModel, PreTrainedConfig, PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples, GroupScores, pad_tokens
from audiorl.models import SpeechFamily, TokenizedText, base_model, register_family
from audiorl.models.family import AutoregressiveFamily
from audiorl.models.grouped_attention import cache_argument
from audiorl.models.head import score_tokens
from audiorl.models.sampling import Sampler, draw

BLANK = 0
FRAME = 50  # samples
WINDOW = 20  # frames of the audio prefix: one second


class ToyProcessor(NamedTuple):
    letters: str = "abcdefghijklmnopqrstuvwxyz "
    sampling_rate: int = 1000

    def save_pretrained(self, folder: str, **kwargs: Any) -> None:
        (Path(folder) / "letters.json").write_text(json.dumps(self._asdict()))


class ToyFamily(SpeechFamily):
    """Letters for tokens; no languages, tasks or prompts."""

    end_token = BLANK

    def __init__(self, model: nn.Module, processor: ToyProcessor):
        super().__init__(model, processor)
        self.sampling_rate = processor.sampling_rate

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        unknown = set(text) - set(self.processor.letters)
        if unknown or language or task or prompt:
            raise ValueError(f"{type(self).__name__} writes {self.processor.letters!r} and takes nothing else")
        return TokenizedText([BLANK, *(1 + self.processor.letters.index(letter) for letter in text), BLANK], 1)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return [
            ["".join(self.processor.letters[i - 1] for i in ids[kept].tolist() if i != BLANK) for ids, kept in pairs]
            for pairs in (zip(*rows, strict=True) for rows in zip(batch_tokens[..., 1:], keep, strict=True))
        ]

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).encoder.parameters())


# ---- CTC ----


class ToyCTCConfig(PreTrainedConfig):
    model_type = "toy_ctc"
    hidden_size: int = 16
    vocab_size: int = 28


class ToyCTC(PreTrainedModel):
    config_class = ToyCTCConfig
    main_input_name = "input_values"

    def __init__(self, config: ToyCTCConfig):
        super().__init__(config)
        framing = nn.Conv1d(1, config.hidden_size, FRAME, stride=FRAME)
        self.encoder = nn.Sequential(framing, nn.Tanh(), nn.Dropout(0.1), nn.Conv1d(config.hidden_size, 16, 1))
        self.head = nn.Linear(16, config.vocab_size)
        self.post_init()

    def forward(self, input_values: Tensor) -> Tensor:
        return self.head(self.encoder(input_values[:, None]).transpose(1, 2))


class ToyCTCFamily(ToyFamily):
    token_level = False

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        waves = [torch.from_numpy(clip) for clip in clips]
        heard = [torch.ones(len(wave), dtype=torch.long) for wave in waves]
        return {
            "input_values": pad_sequence(waves, batch_first=True),
            "audio_mask": pad_sequence(heard, batch_first=True),
        }

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        return batch.audio.shape[1] // FRAME

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        return base.encoder(batch.audio[:, None].to(base.dtype)).transpose(1, 2)

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        """Every hypothesis is aligned with the same frames, which are computed once for each clip."""
        hypotheses, keep = batch.num_hypotheses, batch.keep.any(-1, keepdim=True)  # (B, K, 1)
        logits = base.head(states) / temperature
        frame_logps = logits.log_softmax(-1).repeat_interleave(hypotheses, 0).transpose(0, 1)  # (S, B*K, V)
        frames = (batch.audio_mask.sum(-1) // FRAME).repeat_interleave(hypotheses)
        letters = (batch.keep.sum(-1) - 1).clamp(min=0).flatten()  # the end is no letter
        loss = nn.functional.ctc_loss(
            frame_logps, batch.tokens[..., 1:].flatten(0, 1), frames, letters, blank=BLANK, reduction="none"
        )
        logps = torch.where(keep, -loss.view(keep.shape), 0.0)
        nothing = torch.zeros_like(logps).detach()  # a hypothesis as a whole has no distribution to take these from
        return GroupScores(logps, nothing, nothing, nothing.bool(), keep, states)

    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        if sampler is not None:
            raise ValueError("toy_ctc draws a symbol for each frame, a sampler works on tokens. Leave `sampler` out.")
        clips, hypotheses, _ = noise.shape
        path, _ = draw((base.head(states) / temperature)[:, None].expand(-1, hypotheses, -1, -1), noise)
        frames = (batch.audio_mask.sum(-1) // FRAME).tolist()
        texts = [[_collapse(symbols[: frames[b]].tolist()) for symbols in path[b]] for b in range(clips)]
        tokens, keep = pad_tokens(texts, [[1] * hypotheses] * clips, BLANK)
        keep &= batch.valid[:, None, None]
        scores = self._score(base, batch.replace(tokens=tokens, keep=keep), states, temperature)
        return GroupSamples(tokens, keep, scores.logps, torch.ones((clips, hypotheses), dtype=torch.bool))

    def transcribe(self, model: nn.Module, audio: Mapping[str, Tensor], **generation: Any) -> list[str]:
        with torch.no_grad():
            best = base_model(model)(audio["input_values"]).argmax(-1)
        frames = (audio["audio_mask"].sum(-1) // FRAME).tolist()
        ids = [_collapse(row[:count]) for row, count in zip(best.tolist(), frames, strict=True)]
        return ["".join(self.processor.letters[i - 1] for i in row if i != BLANK) for row in ids]


def _collapse(path: list[int]) -> list[int]:
    changed = [i for i, before in zip(path, [None, *path], strict=False) if i != before]
    return [BLANK, *(i for i in changed if i != BLANK), BLANK]


# ---- decoder-only with an audio prefix ----


class ToyAudioPrefixConfig(PreTrainedConfig):
    model_type = "toy_audio_prefix"
    hidden_size: int = 16
    vocab_size: int = 28


class ToyAudioPrefix(PreTrainedModel):
    config_class = ToyAudioPrefixConfig
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: ToyAudioPrefixConfig):
        super().__init__(config)
        width = config.hidden_size
        self.encoder = nn.Sequential(nn.Linear(FRAME, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, width))
        self.decoder = LlamaModel(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        )
        self.head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def forward(self, input_features: Tensor, input_ids: Tensor) -> Tensor:
        prefix = self.encoder(input_features.transpose(1, 2))
        return self.head(self.read(prefix, input_ids))

    def read(self, prefix: Tensor, input_ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Hidden states of the text; `prefix` (N, S, D) stands before it where the cache does not hold it already."""
        inputs = torch.cat([prefix, self.decoder.embed_tokens(input_ids)], 1)
        out = self.decoder(inputs_embeds=inputs, use_cache=cache is not None, **cache_argument(self.decoder, cache))
        return out.last_hidden_state[:, prefix.shape[1] :]


class ToyAudioPrefixDecoder:
    """Every hypothesis is a row of its own, with a copy of the audio's keys and values."""

    def __init__(self, base: ToyAudioPrefix, prefix: Tensor, temperature: float):
        self.base, self.prefix, self.temperature = base, prefix, temperature
        self.cache = DynamicCache(config=base.decoder.config)

    def __call__(self, tokens: Tensor, start: int) -> Tensor:
        prefix = self.prefix if start == 0 else self.prefix[:, :0]
        hidden = self.base.read(prefix, tokens.flatten(0, 1), self.cache)
        return self.base.head(hidden[:, -1]).unflatten(0, tokens.shape[:2]) / self.temperature

    def reorder(self, parents: Tensor) -> None:
        clips, hypotheses = parents.shape
        self.cache.reorder_cache((hypotheses * torch.arange(clips)[:, None] + parents).flatten())


class ToyAudioPrefixFamily(AutoregressiveFamily, ToyFamily):
    max_seconds = WINDOW * FRAME / 1000

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        window = np.stack([np.pad(clip, (0, WINDOW * FRAME - len(clip))) for clip in clips])
        return {"input_features": torch.from_numpy(window).unflatten(1, (WINDOW, FRAME)).transpose(1, 2)}

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        return base.encoder(batch.audio.transpose(1, 2).to(base.dtype))

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        """The audio is encoded once for each clip; its prefix is then read K times."""
        prefix = states.repeat_interleave(batch.num_hypotheses, 0)
        hidden = base.read(prefix, batch.tokens[..., :-1].flatten(0, 1))
        hidden = hidden.unflatten(0, batch.tokens.shape[:2])
        return score_tokens(hidden, base.head, batch.tokens[..., 1:], batch.keep, states, temperature)

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.decoder.config.max_position_embeddings - states.shape[1]

    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> ToyAudioPrefixDecoder:
        return ToyAudioPrefixDecoder(base, states.repeat_interleave(hypotheses, 0), temperature)

    def transcribe(self, model: nn.Module, audio: Mapping[str, Tensor], **generation: Any) -> list[str]:
        base, ids = base_model(model), torch.full((len(audio["input_features"]), 1), BLANK)
        with torch.no_grad():
            for _ in range(generation.get("max_new_tokens", 16)):
                ids = torch.cat([ids, base(audio["input_features"], ids)[:, -1:].argmax(-1)], 1)
        ended = (ids[:, 1:] == BLANK).cumsum(-1) > 0
        return [texts[0] for texts in self.text(ids[:, None], ~ended[:, None])]


register_family("toy_ctc", ToyCTCFamily)
register_family("toy_audio_prefix", ToyAudioPrefixFamily)


def build_toy(model_class: type[PreTrainedModel]) -> tuple[PreTrainedModel, ToyProcessor]:
    """A random toy whose probabilities depend on audio and history; always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(model_class.config_class()).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model, ToyProcessor()

"""Models that answer with a label: `AutoModelForAudioClassification`.

A hypothesis is one label: `tokens` are [no label, label], where the label is the number of its class, so T = 1. One
forward gives a clip's distribution over the C labels; all K labels are scored by it and drawn from it:

    log p(label | clip) = log_softmax(logits / temperature)[label]

The states that `encode` gives are what the head reads: one vector for each clip, or one for each layer if the
checkpoint weighs its layers. Stock forwards project every frame and then take the mean. The projection is affine, so
here the mean comes first and the projection is computed once for each clip.

A checkpoint trained for several labels at once (a sigmoid for each, such as those of AudioSet) is tuned through the
softmax of the same logits, which keeps the order of its labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples, GroupScores
from audiorl.models.beam_search import BeamSettings, GroupBeams
from audiorl.models.family import SpeechFamily, TokenizedText
from audiorl.models.forward import base_model, run_inside
from audiorl.models.head import scaled_logits
from audiorl.models.padding import WAVLM_UNADAPTABLE, mean_of_frames, read_waveforms, shortest_clip, waveform_features
from audiorl.models.sampling import Sampler, draw
from audiorl.models.whisper import WhisperAudio

# Labels that an error message lists.
_LISTED = 12


class ClassifierFamily(SpeechFamily):
    """Hypotheses are labels; a subclass defines features, encoder and head.

    Attributes:
        labels: C names, in the order of the classes; `config.id2label`.
        end_token: C, the token before a label, and the one that means no label.
    """

    decodes_states = True
    labels: tuple[str, ...]
    setting_columns = ()

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.extractor = getattr(processor, "feature_extractor", processor)
        self.sampling_rate = self.extractor.sampling_rate
        self.labels = tuple(config.id2label[i] for i in range(config.num_labels))
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(
                f"A classifier needs two labels or more, all different; config.id2label of this checkpoint has "
                f"{list(self.labels)[:_LISTED]}. Name its classes in config.id2label and config.label2id."
            )
        self.end_token = len(self.labels)
        self._ids = {label: i for i, label in enumerate(self.labels)}

    @classmethod
    def load_processor(cls, name: str) -> Any:
        return AutoFeatureExtractor.from_pretrained(name)

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        return True

    def check_same_answers(self, model: nn.Module, ref_model: nn.Module) -> None:
        config = base_model(ref_model).config
        theirs = [config.id2label[i] for i in range(config.num_labels)]
        if theirs != list(self.labels):
            raise ValueError(
                f"ref_model has the labels {theirs[:8]}, the policy {list(self.labels[:8])}, so their "
                "log-probabilities cannot be compared. Pass a ref_model with the policy's own labels in the same "
                "order, or none."
            )

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        if language or task or prompt:
            raise ValueError("a classifier answers with a label; it takes no language, task or prompt. Leave them out")
        if text not in self._ids:
            alike = {label.casefold(): label for label in self.labels}
            near = get_close_matches(text.strip().casefold(), alike, n=1)
            hint = f"; did you mean {alike[near[0]]!r}?" if near else ""
            shown = ", ".join(self.labels[:_LISTED]) + (", ..." if len(self.labels) > _LISTED else "")
            raise ValueError(
                f"unknown label {text!r}{hint}. Use one of the checkpoint's {len(self.labels)} (config.id2label: "
                f"{shown}), or load a checkpoint that has it"
            )
        return TokenizedText([self.end_token, self._ids[text]], 1)

    def tokenize_row(self, text: str, row: Mapping[str, Any]) -> TokenizedText:
        """`tokenize` without the row's language and task, which a classifier does not use."""
        return self.tokenize(text, prompt=self.row_prompt(row))

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return [
            ["".join(self.labels[i] for i in ids[kept].tolist() if i < len(self.labels)) for ids, kept in pairs]
            for pairs in (zip(*rows, strict=True) for rows in zip(batch_tokens[..., 1:], keep, strict=True))
        ]

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        return 1

    # ---- weights ----

    @abstractmethod
    def _listener(self, base: PreTrainedModel) -> nn.Module:
        """The part of the model that hears: all of it but the head."""

    @abstractmethod
    def _hear(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        """Audio -> what `_logits` reads, B rows."""

    def _logits(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        """States -> (B, C); here of the heads that Wav2Vec2, HuBERT, WavLM and Whisper have in common.

        Args:
            states: (B, D), or (B, layers, D) where the checkpoint weighs its layers.
        """
        if base.config.use_weighted_layer_sum:
            states = (states * base.layer_weights.softmax(-1)[:, None]).sum(1)
        return base.classifier(base.projector(states))

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(self._listener(base_model(model)).parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        # Wav2Vec2 asks for the gradient of its input in training, though nothing behind it may be trainable
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_is_frozen(base)):
            return self._hear(base, batch)

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        return label_scores(self._logits(base, states), batch, states, temperature)

    def _rows(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        """Each kept label reads the states of its clip."""
        clips = torch.arange(len(states), device=states.device)[:, None, None].expand_as(batch.keep)
        return states[clips[batch.keep]]

    def _project(self, base: PreTrainedModel, rows: Tensor) -> Tensor:
        return self._logits(base, rows)

    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        hypotheses = noise.shape[1]
        logits = scaled_logits(self._logits(base, states), temperature)
        allowed = logits if sampler is None else sampler(batch.tokens[:, 0, :0], logits)
        labels, _ = draw(allowed[:, None].expand(-1, hypotheses, -1), noise[..., 0])
        tokens, keep, logps = self._hypotheses(batch, labels, logits.log_softmax(-1))
        return GroupSamples(tokens, keep, logps, torch.ones_like(keep[..., 0]))

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        """The most probable labels. Each is one token, so penalties have no effect."""
        if settings.num_beams > len(self.labels) or settings.num_beam_groups > 1:
            raise ValueError(
                f"This classifier has {len(self.labels)} labels, in one group; got num_beams={settings.num_beams}, "
                f"num_beam_groups={settings.num_beam_groups}. Lower num_beams, and leave num_beam_groups at 1."
            )
        label_logps = scaled_logits(self._logits(base, states), settings.temperature).log_softmax(-1)
        tokens, keep, logps = self._hypotheses(batch, label_logps.topk(settings.num_beams).indices, label_logps)
        return GroupBeams(tokens, keep, logps, logps[..., 0], torch.ones_like(keep[..., 0]))

    def _hypotheses(self, batch: GroupBatch, labels: Tensor, label_logps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) labels -> tokens (B, K, 2), keep (B, K, 1), logps (B, K, 1); nothing for placeholders."""
        keep = batch.valid[:, None, None].expand(*labels.shape, 1).clone()
        chosen = labels[..., None].masked_fill(~keep, self.end_token)
        tokens = torch.cat([torch.full_like(chosen, self.end_token), chosen], -1)
        return tokens, keep, torch.where(keep, label_logps.gather(-1, labels)[..., None], 0.0)

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """The most probable label of each clip; settings of a search change nothing."""
        base = base_model(model)
        clips = len(next(iter(audio.values())))
        batch = GroupBatch(
            {name: tensor.to(base.device) for name, tensor in audio.items()},
            tokens=torch.full((clips, 1, 2), self.end_token),
            keep=torch.zeros((clips, 1, 1), dtype=torch.bool),
            row_ids=torch.arange(clips),
        )
        with torch.no_grad():
            best = run_inside(model, lambda inner: self._logits(inner, self._states(inner, batch)).argmax(-1))
        return [self.labels[i] for i in best.tolist()]


def label_scores(logits: Tensor, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
    """Score K labels of each clip by the clip's one distribution.

        logps[b, k] = log_softmax(logits[b] / temperature)[label[b, k]]

    Args:
        logits: (B, C).
        batch: its `tokens` hold one kept token for each hypothesis, the label.
        states: passed through to the result.
        temperature: > 0.

    Returns:
        Scores with T = 1; `entropy`, with gradient, and `mean_logits` are the clip's.
    """
    keep = batch.keep.any(-1, keepdim=True)  # (B, K, 1)
    labels = batch.tokens[..., 1:].gather(-1, batch.keep.int().argmax(-1, keepdim=True))
    labels = labels.masked_fill(~keep, 0).squeeze(-1)
    scaled = scaled_logits(logits, temperature)
    label_logps = scaled.log_softmax(-1)  # (B, C)
    entropy = -(label_logps.exp() * label_logps).sum(-1)

    def place(values: Tensor) -> Tensor:
        """(B,) or (B, K) -> (B, K, 1), zero where nothing counts."""
        each = values if values.ndim == 2 else values[:, None].expand_as(labels)
        return torch.where(keep, each[..., None], torch.zeros_like(each[..., None]))

    best = labels == scaled.argmax(-1, keepdim=True)
    mean_logits = scaled.detach().mean(-1)
    return GroupScores(
        logps=place(label_logps.gather(-1, labels)),
        entropy=place(entropy),
        mean_logits=place(mean_logits),
        is_top1=place(best),
        keep=keep,
        states=states,
        mean_logps=place(label_logps.mean(-1)),
    )


class WaveformClassifier(ClassifierFamily):
    """Wav2Vec2 and HuBERT, with group or layer norm; see `padding.py` for their batches."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.min_seconds = shortest_clip(base_model(model).config) / self.sampling_rate

    def install(self, model: nn.Module) -> None:
        """If layers are weighted before the last norm, also freeze that norm: nothing reads it, and DDP would wait."""
        super().install(model)
        base = base_model(model)
        if base.config.use_weighted_layer_sum and base.config.do_stable_layer_norm:
            base.base_model.encoder.layer_norm.requires_grad_(False)

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return waveform_features(self.extractor, clips)

    def _listener(self, base: PreTrainedModel) -> nn.Module:
        return base.base_model

    def _hear(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        weighted = base.config.use_weighted_layer_sum
        out = read_waveforms(base.base_model, batch, output_hidden_states=weighted)
        if weighted:
            return torch.stack([mean_of_frames(base, batch, hidden) for hidden in out.hidden_states], 1)
        return mean_of_frames(base, batch, out.last_hidden_state)


class WavLMClassifier(WaveformClassifier):
    """WavLM; see `padding.py` for what an adapter cannot change."""

    unadaptable = WAVLM_UNADAPTABLE


class WhisperClassifier(WhisperAudio, ClassifierFamily):
    """`WhisperForAudioClassification`: Whisper's encoder with a head of labels. All frames of the window count."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.init_audio(self.extractor, base_model(model).config)

    def _listener(self, base: PreTrainedModel) -> nn.Module:
        return base.encoder

    def _hear(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        weighted = base.config.use_weighted_layer_sum
        # with checkpointing the config's use_cache=True would be warned of
        out = base.encoder(batch.audio.to(base.dtype), output_hidden_states=weighted, use_cache=False)
        if weighted:
            return torch.stack([hidden.mean(1) for hidden in out.hidden_states], 1)
        return out.last_hidden_state.mean(1)


class SpectrogramClassifier(ClassifierFamily):
    """The audio spectrogram transformer, `ASTForAudioClassification`: a window of fixed length."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        made = self.extractor.num_mel_bins, self.extractor.max_length
        if made != (config.num_mel_bins, config.max_length):
            raise ValueError(
                f"The processor makes {made[0]} mel bins x {made[1]} frames, the model hears {config.num_mel_bins} x "
                f"{config.max_length}. Load the processor from the model's own checkpoint."
            )
        # the extractor takes frames of 25 ms every 10 ms, whatever its settings
        self.mel_bins = config.num_mel_bins
        self.hop = self.sampling_rate // 100
        self.min_seconds, self.max_seconds = 0.025, config.max_length / 100

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) log-mel features; AST itself takes (B, L, M) and calls them `input_values`."""
        made = self.extractor(list(clips), sampling_rate=self.sampling_rate, return_tensors="pt")
        return {"input_features": made.input_values.transpose(1, 2)}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        return [mel[:, : max(1, n // self.hop)] for mel, n in zip(features["input_features"], samples, strict=True)]

    def _listener(self, base: PreTrainedModel) -> nn.Module:
        return base.base_model

    def _hear(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        return base.base_model(batch.audio.transpose(1, 2).to(base.dtype)).pooler_output

    def _logits(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.classifier(states)

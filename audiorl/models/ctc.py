"""CTC models: one pass over the audio gives frames of symbols, and every hypothesis is aligned with the same frames.

A hypothesis is scored as a whole, T = 1: its log-probability is its CTC likelihood (`audiorl.losses.ctc`), the sum over
all paths that say it. Sampling draws a symbol for each frame and collapses the path, so what is drawn is distributed as
what is scored, and the log-probability of a sample is that likelihood, not the path's.

Of the models in transformers, Wav2Vec2 and its relatives hear the waveform; Parakeet, Wav2Vec2-BERT and LASR hear
frames of a spectrogram. Their scores keep three rules that stock training does not. A clip's logits do not depend on
the padding beside it (`padding.py`, `fast_conformer.py`). Batch norm (Parakeet, LASR) keeps the checkpoint's
statistics, in training too. Nothing is dropped or masked unless `disable_dropout` is turned off.

OmniASR (`omniasr.py`) and Granite Speech 5.0 (`granite_speech5.py`) have modules of their own.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples, GroupScores, kept_texts
from audiorl.losses.ctc import ctc_logps, frames_needed
from audiorl.models.beam_search import BeamSettings, GroupBeams
from audiorl.models.ctc_search import (
    as_hypotheses,
    best_prefixes,
    collapse,
    draw_paths,
    only_valid,
    packed,
    said_symbols,
    samples_for,
)
from audiorl.models.family import SpeechFamily, TokenizedText
from audiorl.models.fast_conformer import FastConformerAudio
from audiorl.models.forward import base_model, is_sharded, run_inside
from audiorl.models.head import scaled_logits
from audiorl.models.long_clips import LongForm, chunk_starts
from audiorl.models.padding import (
    WAVLM_UNADAPTABLE,
    encode_by_length,
    keep_statistics,
    read_waveforms,
    shortest_clip,
    waveform_features,
)
from audiorl.models.sampling import Sampler, check_finite

# Unknown characters that an error message names at most.
NAMED = 8
# Frames whose entropies are computed at a time.
FRAME_CHUNK = 64


class CTCText:
    """Transcripts as the symbols of a CTC model, and back.

    A transcript is written in capitals if the vocabulary has only those, and in small letters if it has only those.
    Runs of spaces become one space. Nothing else of a transcript is changed.

    Args:
        tokenizer: of the checkpoint, `Wav2Vec2CTCTokenizer` or `ParakeetTokenizer` for example.
        blank: id of the model's blank.
        vocab_size: number of symbols that the model writes.
        own_blank: id of the tokenizer's blank; None for its padding, which is transformers' name for the blank of CTC.

    Raises:
        ValueError: the tokenizer's blank is another symbol.
    """

    def __init__(self, tokenizer: Any, blank: int, vocab_size: int, own_blank: int | None = None):
        own_blank = tokenizer.pad_token_id if own_blank is None else own_blank
        if own_blank != blank:
            raise ValueError(
                f"The model's blank is symbol {blank} (of its config), the tokenizer's is {own_blank} "
                f"({tokenizer.convert_ids_to_tokens(own_blank)!r}). Load the processor from the model's own checkpoint."
            )
        self.tokenizer, self.blank, self.vocab_size = tokenizer, blank, vocab_size
        # Wav2Vec2's tokenizer counts the mark between words among its special tokens, though it is part of the text
        self.special = {*tokenizer.all_special_ids, blank} - {getattr(tokenizer, "word_delimiter_token_id", None)}
        letters = "".join(symbol for symbol, i in tokenizer.get_vocab().items() if i not in self.special)
        upper, lower = any(map(str.isupper, letters)), any(map(str.islower, letters))
        self.case = str.upper if upper and not lower else str.lower if lower and not upper else str
        # what vocabularies write between words is no sign of a text: there it would become a blank
        marks = (getattr(tokenizer, "word_delimiter_token", None) or "", "\u2581")
        self.word_marks = {mark for mark in marks if mark.strip() and not self.decode(self.ids(mark)).strip()}

    def ids(self, text: str) -> list[int]:
        """The symbols of a text, unknown ones included."""
        written = self.case(" ".join(text.split()))
        return self.tokenizer(written, add_special_tokens=False).input_ids if written else []

    def tokenize(self, text: str) -> TokenizedText:
        """Blank, symbols, blank: a family's hypotheses have a token before the first that counts, and an end token.

        Raises:
            ValueError: characters that the model cannot write.
        """
        ids = self.ids(text)
        marked = any(mark in text for mark in self.word_marks)
        if marked or any(i in self.special or i >= self.vocab_size for i in ids):
            lost = [c for c in dict.fromkeys(self.case(text)) if not c.isspace() and self._is_lost(c)]
            shown = ", ".join(map(repr, lost[:NAMED])) + (", ..." if len(lost) > NAMED else "")
            raise ValueError(
                f"the model's vocabulary has no symbol for {shown or 'a part of it'}. Spell it out, or take it out of "
                "the text (audiorl.text.normalizers)."
            )
        return TokenizedText([self.blank, *ids, self.blank], 1)

    def knows(self, character: str) -> bool:
        """Whether the model can write a character."""
        return not character.isspace() and not self._is_lost(character)

    def _is_lost(self, character: str) -> bool:
        unknown = any(i in self.special or i >= self.vocab_size for i in self.ids(character))
        return unknown or character in self.word_marks

    def decode(self, ids: Sequence[int]) -> str:
        """Symbols of a transcript -> text. Blanks are left out; two equal symbols stay two."""
        said = [i for i in ids if i not in self.special]
        return self.tokenizer.decode(
            said, skip_special_tokens=True, group_tokens=False, clean_up_tokenization_spaces=False
        )


class CTCFamily(SpeechFamily):
    """Base of the CTC families; a subclass says how its models read audio."""

    token_level = False
    decodes_states = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.sampling_rate = processor.feature_extractor.sampling_rate
        # transformers' name for the blank is padding; OmniASR has both
        self.end_token = getattr(config, "blank_token_id", config.pad_token_id)
        own_blank = getattr(config, "blank_token_id", None)
        self.ctc_text = CTCText(processor.tokenizer, self.end_token, config.vocab_size, own_blank)

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        return True

    # ---- what a subclass says ----

    @abstractmethod
    def frames_in(self, samples: int) -> int:
        """Frames of symbols that a clip of this many samples gives."""

    @abstractmethod
    def _frames_of_audio(self, length: Tensor) -> Tensor:
        """Frames of symbols from lengths of the batch's audio tensor: samples, or mel frames."""

    @abstractmethod
    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        """(B, S, D) states -> (B, S, V) logits."""

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """A row's language is ignored: a CTC model writes the language of its vocabulary."""
        self._check_task(task)
        if prompt:
            raise ValueError("a CTC model has no place for a prompt. Leave the column out.")
        return self.ctc_text.tokenize(text)

    def _check_task(self, task: str | None) -> None:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"a CTC model writes what is said: its only task is 'transcribe', not {task!r}. Leave the task out."
            )

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.ctc_text.decode)

    def least_seconds(self, text: str) -> float:
        ids = torch.tensor(self.ctc_text.ids(text), dtype=torch.long)
        return samples_for(self.frames_in, int(frames_needed(ids, torch.tensor(len(ids))))) / self.sampling_rate

    def noise_length(self, batch: GroupBatch, max_tokens: int) -> int:
        """A symbol for each frame; the audio is the limit, whatever `max_tokens` says."""
        assert batch.audio_mask is not None
        return int(self._frames_of_audio(torch.tensor(batch.audio_mask.shape[-1])))

    # ---- weights ----

    def _frames(self, batch: GroupBatch) -> Tensor:
        """(B,) long, each clip's own frames."""
        assert batch.audio_mask is not None
        return self._frames_of_audio(batch.audio_mask.sum(-1))

    def _frame_logps(self, logits: Tensor, temperature: float) -> Tensor:
        return scaled_logits(logits, temperature).log_softmax(-1)

    def _score(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, temperature: float) -> GroupScores:
        """Score hypotheses as a whole.

        Entropy and mean logit are means over the clip's frames: the same for its K hypotheses, without gradient.
        `is_top1` tells whether a hypothesis is that of the best path.
        """
        symbols, lengths = said_symbols(batch.tokens, batch.keep)
        frames, keep = self._frames(batch), batch.keep.any(-1, keepdim=True)
        logits = self._head(base, states)
        mean_logits = _frame_mean(logits.detach().mean(-1) / temperature, frames)
        frame_logps = self._frame_logps(logits, temperature)
        del logits
        logps = ctc_logps(frame_logps, frames, symbols, lengths, blank=self.end_token)
        frame_logps = frame_logps.detach()
        entropy = _frame_mean(_entropies(frame_logps), frames)
        best = collapse(frame_logps.argmax(-1)[:, None], frames, self.end_token)

        def place(values: Tensor) -> Tensor:
            return torch.where(keep, values.to(logps.dtype)[..., None], 0.0)

        entropy, mean_logits = (values[:, None].expand_as(lengths) for values in (entropy, mean_logits))
        top = _same(symbols, lengths, *best)[..., None] & keep
        return GroupScores(place(logps), place(entropy), place(mean_logits), top, keep, states)

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
            raise ValueError(
                "A CTC model draws a symbol for each frame, and a sampler (top-k, top-p, min-p, repetition) works on "
                "tokens. Leave it out."
            )
        frames, blank = self._frames(batch), self.end_token
        frame_logps = self._frame_logps(self._head(base, states), temperature)
        symbols, counts = collapse(draw_paths(frame_logps, noise[..., : states.shape[1]]), frames, blank)
        symbols, counts = only_valid(symbols, counts, batch.valid, blank)
        tokens, keep = as_hypotheses(symbols, counts, blank)
        keep &= batch.valid[:, None, None]
        logps = ctc_logps(frame_logps, frames, symbols, counts, blank=blank)
        logps = torch.where(batch.valid[:, None], logps, 0.0)[..., None]
        return GroupSamples(tokens, keep, logps, torch.ones_like(counts, dtype=torch.bool))

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        """Prefix beam search; the prefixes that are left are ranked by their likelihood.

        If a clip has too few frames for K different hypotheses, the remaining places have no kept token and a score of
        -inf.
        """
        if settings.num_beam_groups > 1 or settings.early_stopping is not False:
            raise ValueError(
                "A prefix beam search goes through the audio once and has no groups of beams; got num_beam_groups="
                f"{settings.num_beam_groups}, early_stopping={settings.early_stopping!r}. Leave both out."
            )
        frames, blank = self._frames(batch), self.end_token
        frame_logps = self._frame_logps(self._head(base, states), settings.temperature)
        found = [
            best_prefixes(logps[:count].cpu().numpy(), settings.num_beams, blank, settings.max_tokens - 1)
            for logps, count in zip(frame_logps, frames.tolist(), strict=True)
        ]
        symbols, counts, there = packed(found, settings.num_beams, blank, frames.device)
        symbols, counts = only_valid(symbols, counts, batch.valid, blank)
        logps = ctc_logps(frame_logps, frames, symbols, counts, blank=blank)
        # the search finds nothing where frames are NaN, but saying nothing is then NaN likely
        check_finite(torch.where(batch.valid[:, None], logps, 0.0), batch)
        scores = torch.where(there, logps / (counts + 1) ** settings.length_penalty, -torch.inf)
        scores, order = torch.where(batch.valid[:, None], scores, 0.0).sort(dim=-1, descending=True, stable=True)
        kept = (there & batch.valid[:, None]).gather(-1, order)
        tokens, keep = as_hypotheses(symbols, counts, blank)
        tokens, keep = (x.gather(1, order[..., None].expand_as(x)) for x in (tokens, keep))
        logps = torch.where(kept, logps.gather(-1, order), 0.0)[..., None]
        return GroupBeams(tokens, keep & kept[..., None], logps, scores, torch.ones_like(kept))

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        max_new_tokens: int | None = None,
        num_beams: int = 1,
        **generation: Any,
    ) -> list[str]:
        """The transcript of the best path, or, with `num_beams` > 1, the best of a prefix beam search.

        Args:
            languages: not read, as in `tokenize`.
            tasks: "transcribe" or None for each clip.
            max_new_tokens: symbols of a transcript that are written; default all.
            num_beams: of the search, > 0.

        Raises:
            ValueError: another task, or a setting that CTC does not have.
        """
        for task in tasks or ():
            self._check_task(task)
        if generation:
            raise ValueError(f"A CTC model has no {', '.join(generation)}. Leave them out, or use num_beams.")
        device = base_model(model).device
        clips = len(next(iter(audio.values())))
        nothing = torch.full((clips, 1, 2), self.end_token, device=device)
        batch = GroupBatch(
            {name: tensor.to(device) for name, tensor in audio.items()},
            tokens=nothing,
            keep=torch.zeros_like(nothing[..., 1:], dtype=torch.bool),
            row_ids=torch.arange(clips, device=device),
        )
        symbols = max_new_tokens if max_new_tokens is not None else self.noise_length(batch, 0)
        if num_beams > 1:
            found = self.beam_groups(model, batch, num_beams, max_tokens=symbols + 1, length_penalty=0.0)
            return [texts[0] for texts in self.text(found.tokens, found.keep)]

        def greedy(base: PreTrainedModel) -> tuple[Tensor, Tensor]:
            logits = self._head(base, self._states(base, batch))
            return collapse(logits.argmax(-1)[:, None], self._frames(batch), self.end_token)

        with torch.no_grad():
            best, counts = run_inside(model, greedy)
        tokens, keep = as_hypotheses(best, counts.clamp(max=symbols), self.end_token)
        return [texts[0] for texts in self.text(tokens, keep)]

    # ---- clips of any length ----

    @property
    def frame_samples(self) -> int:
        """Samples from one frame to the next."""
        return samples_for(self.frames_in, 201) - samples_for(self.frames_in, 200)

    def frame_logps(
        self,
        model: nn.Module,
        clip: np.ndarray,
        *,
        chunk_seconds: float | None = None,
        overlap_seconds: float | None = None,
    ) -> Tensor:
        """Log-probabilities of the symbols in every frame of a clip of any length.

        Args:
            clip: (samples,) at `sampling_rate`.
            chunk_seconds: the clip is heard in chunks of this length; None for the model's window, or as a whole.
            overlap_seconds: that two chunks share, see `LongForm`; their frames are joined in its middle.

        Returns:
            (S, V) float32 nats, on the CPU; frame s begins at s * `frame_samples` samples.
        """
        chunk_seconds = chunk_seconds or self.max_seconds or len(clip) / self.sampling_rate
        shared = LongForm("chunks", chunk_seconds, overlap_seconds).overlap_of(chunk_seconds)
        chunk, overlap = (round(seconds * self.sampling_rate) for seconds in (chunk_seconds, shared))
        starts = chunk_starts(len(clip), chunk, overlap, self.frame_samples)
        cuts = [(after + before + chunk) // 2 // self.frame_samples for before, after in pairwise(starts)]
        parts = []
        for start, first, last in zip(starts, [0, *cuts], [*cuts, None], strict=True):
            frames = self._frame_logps_of(model, clip[start : start + chunk])
            begins = start // self.frame_samples
            parts.append(frames[first - begins : None if last is None else last - begins])
        return torch.cat(parts)

    def _frame_logps_of(self, model: nn.Module, clip: np.ndarray) -> Tensor:
        device = base_model(model).device
        nothing = torch.full((1, 1, 2), self.end_token, device=device)
        batch = GroupBatch(
            {name: tensor.to(device) for name, tensor in self.features([clip]).items()},
            tokens=nothing,
            keep=torch.zeros_like(nothing[..., 1:], dtype=torch.bool),
            row_ids=torch.arange(1, device=device),
        )

        def heard(base: PreTrainedModel) -> Tensor:
            frames = self._frame_logps(self._head(base, self._encode(base, batch)), 1.0)
            return frames[0, : int(self._frames(batch))]

        with torch.no_grad():
            return run_inside(model, heard).float().cpu()

    def transcribe_chunks(
        self, model: nn.Module, clip: np.ndarray, *, chunk_seconds: float, overlap_seconds: float, **asked: Any
    ) -> str:
        """The best path, or the best of a prefix beam search, over the joined frames of all chunks."""
        for task in asked.pop("tasks", None) or ():
            self._check_task(task)
        asked.pop("languages", None)
        beams, most = asked.pop("num_beams", 1), asked.pop("max_new_tokens", None)
        if asked:
            raise ValueError(f"A CTC model has no {', '.join(asked)}. Leave them out, or use num_beams.")
        logps = self.frame_logps(model, clip, chunk_seconds=chunk_seconds, overlap_seconds=overlap_seconds)
        if beams > 1:
            best, *_ = best_prefixes(logps.numpy(), beams, self.end_token, len(logps) if most is None else most)
            return self.ctc_text.decode(best)
        symbols, count = collapse(logps.argmax(-1)[None, None], torch.tensor([len(logps)]), self.end_token)
        return self.ctc_text.decode(symbols[0, 0, : min(int(count), most or int(count))].tolist())


def _frame_mean(values: Tensor, frames: Tensor) -> Tensor:
    """(B,) means of (B, S) values over each clip's own frames."""
    own = torch.arange(values.shape[-1], device=values.device) < frames[:, None]
    return torch.where(own, values, 0.0).sum(-1) / frames.clamp(min=1)


def _entropies(frame_logps: Tensor) -> Tensor:
    """(B, S) nats; a few frames at a time, since a table of probabilities is as large as the frames themselves."""
    return torch.cat([-(part.exp() * part).sum(-1) for part in frame_logps.split(FRAME_CHUNK, 1)], 1)


def _same(symbols: Tensor, lengths: Tensor, best: Tensor, best_lengths: Tensor) -> Tensor:
    """(B, K) bool, whether hypotheses (B, K, U) are the one of (B, 1, U')."""
    size = min(symbols.shape[-1], best.shape[-1])
    beyond = torch.arange(size, device=symbols.device) >= lengths[..., None]
    return (lengths == best_lengths) & ((symbols[..., :size] == best[..., :size]) | beyond).all(-1)


# ---- the models of transformers ----


class WaveformCTCFamily(CTCFamily):
    """Wav2Vec2, HuBERT, WavLM, UniSpeech: convolutions over the waveform, a transformer, a linear head."""

    def __init__(self, model: nn.Module, processor: Any):
        config = self._convolutions(base_model(model).config)
        for name, why in (
            ("add_adapter", "convolutions behind its transformer"),
            ("conv_pos_batch_norm", "a batch norm before its positions"),
        ):
            if getattr(config, name, False):
                raise ValueError(
                    f"This checkpoint has {why} ({name}), whose output moves with the padding of a batch: a clip's "
                    "scores would depend on the clips beside it. Use a checkpoint without it."
                )
        super().__init__(model, processor)
        self.convolutions = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.min_seconds = shortest_clip(config) / self.sampling_rate

    def _convolutions(self, config: Any) -> Any:
        """The part of the config that names the convolutions."""
        return config

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, N) waveforms, each normalised over its own samples if the checkpoint's are, and their mask."""
        return waveform_features(self.processor.feature_extractor, clips)

    def frames_in(self, samples: int) -> int:
        for kernel, stride in self.convolutions:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        for kernel, stride in self.convolutions:
            length = (torch.div(length - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
        return length

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(model_below_the_head(base_model(model)).parameters())

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        listener = model_below_the_head(base)
        trains = torch.is_grad_enabled() and not self.encoder_is_frozen(base)
        with torch.set_grad_enabled(trains), _graph_only_where_trained(listener.feature_extractor):
            return read_waveforms(listener, batch).last_hidden_state

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.lm_head(base.dropout(states))


def model_below_the_head(base: PreTrainedModel) -> Any:
    """What hears, without the head. transformers 5.17 names SEW-D's "sew-d", which no attribute is called."""
    return getattr(base, base.base_model_prefix.replace("-", "_"))


@contextlib.contextmanager
def _graph_only_where_trained(convolutions: Any) -> Iterator[None]:
    """In training mode stock convolutions keep a graph, the largest part of it, even if nothing in them is trained."""
    before = convolutions._requires_grad
    convolutions._requires_grad = any(parameter.requires_grad for parameter in convolutions.parameters())
    try:
        yield
    finally:
        convolutions._requires_grad = before


class WavLMCTCFamily(WaveformCTCFamily):
    """WavLM; see `padding.py` for what an adapter cannot change."""

    unadaptable = WAVLM_UNADAPTABLE


class UnpaddedCTCFamily(WaveformCTCFamily):
    """Data2Vec-Audio, SEW and SEW-D, whose states move with the padding of a batch, mask or no mask.

    Several convolutions for the positions (Data2Vec), and pools of two frames (SEW), reach into it. So the model reads
    equally long clips together, without padding.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        # a pool needs all its frames
        pooled = getattr(base_model(model).config, "squeeze_factor", 1)
        self.min_seconds = samples_for(self.frames_in, pooled) / self.sampling_rate

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        listener = self._listener(base)
        trains = torch.is_grad_enabled() and not self.encoder_is_frozen(base)
        with torch.set_grad_enabled(trains):
            return _unpadded(base, batch, batch.audio, lambda clips: listener(clips).last_hidden_state)

    def _listener(self, base: PreTrainedModel) -> Any:
        return model_below_the_head(base)


class ConformerCTCFamily(UnpaddedCTCFamily):
    """Wav2Vec2-Conformer, whose batch norm keeps its statistics."""

    def install(self, model: nn.Module) -> None:
        super().install(model)
        keep_statistics(base_model(model))
        # a convolution for positions that the stock model has and never calls; DDP would wait for its gradient
        model_below_the_head(base_model(model)).encoder.pos_conv_embed.requires_grad_(False)


class SpectrogramCTCFamily(CTCFamily):
    """Wav2Vec2-BERT and LASR: a conformer over frames of a spectrogram, equally long clips together.

    Wav2Vec2-BERT's features are pairs of frames; augmentation of spectrograms does not know them.
    """

    window = 400  # samples of a frame
    hop = 160
    stacked = 2  # frames of the spectrogram in one of the features

    def __init__(self, model: nn.Module, processor: Any):
        config = base_model(model).config
        if getattr(config, "add_adapter", False):
            raise ValueError(
                "This checkpoint has convolutions behind its conformer (add_adapter), whose frames are not known here. "
                "Use a checkpoint without them."
            )
        super().__init__(model, processor)
        self.min_seconds = samples_for(self.frames_in, 1) / self.sampling_rate

    def install(self, model: nn.Module) -> None:
        super().install(model)
        keep_statistics(base_model(model))

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) features and their mask (B, L), made of each clip by itself."""
        extractor, rate = self.processor.feature_extractor, self.sampling_rate
        made = [
            extractor([clip], sampling_rate=rate, return_tensors="pt", return_attention_mask=True) for clip in clips
        ]
        # the last frame may hold padding: the extractor fills pairs up
        own = [one.input_features[0, : self._features_in(len(clip))] for one, clip in zip(made, clips, strict=True)]
        masks = [torch.ones(len(frames), dtype=torch.long) for frames in own]
        frames = pad_sequence([frames.float() for frames in own], batch_first=True)
        return {"input_features": frames.transpose(1, 2), "audio_mask": pad_sequence(masks, batch_first=True)}

    def _features_in(self, samples: int) -> int:
        frames = 1 + (samples - self.window) // self.hop if samples >= self.window else 0
        return frames // self.stacked

    def frames_in(self, samples: int) -> int:
        return max(0, int(self._frames_of_audio(torch.tensor(self._features_in(samples)))))

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        return length

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(self._listener(base_model(model)).parameters())

    def _listener(self, base: Any) -> Any:
        return model_below_the_head(base)

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        listener = self._listener(base)
        return _unpadded(base, batch, batch.audio.transpose(1, 2), lambda clips: listener(clips).last_hidden_state)

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.lm_head(base.dropout(states))


class LASRCTCFamily(SpectrogramCTCFamily):
    """LASR (MedASR): mel frames, two strided convolutions, a conformer whose batch norm keeps its statistics."""

    stacked = 1

    def __init__(self, model: nn.Module, processor: Any):
        extractor, encoder = processor.feature_extractor, base_model(model).config.encoder_config
        self.window, self.hop = extractor.win_length, extractor.hop_length
        self.kernel, self.stride = encoder.subsampling_conv_kernel_size, encoder.subsampling_conv_stride
        super().__init__(model, processor)
        self.mel_bins = extractor.feature_size

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        mels = features["input_features"]
        return [mel[:, : self._features_in(n)] for mel, n in zip(mels, samples, strict=True)]

    def _frames_of_audio(self, length: Tensor) -> Tensor:
        for _ in range(2):
            length = (torch.div(length - self.kernel, self.stride, rounding_mode="floor") + 1).clamp(min=0)
        return length

    def _listener(self, base: Any) -> Any:
        return base.encoder

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.ctc_head(states)


def _unpadded(base: PreTrainedModel, batch: GroupBatch, audio: Tensor, listen: Callable[[Tensor], Tensor]) -> Tensor:
    """States of the clips in `audio` (B, L, ...), read without padding."""
    assert batch.audio_mask is not None, "features makes one"
    lengths = batch.audio_mask.sum(-1).tolist()
    return encode_by_length(listen, audio.to(base.dtype), lengths, together=not is_sharded(base))


class ParakeetCTCFamily(FastConformerAudio, CTCFamily):
    """Parakeet-CTC: a fast conformer over mel frames, eight of them to a frame of symbols."""

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        self.init_audio(processor.feature_extractor, base_model(model).config.encoder_config)

    def encoder_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(base_model(model).encoder.parameters())

    def _head(self, base: PreTrainedModel, states: Tensor) -> Tensor:
        return base.ctc_head(states)

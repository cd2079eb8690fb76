"""Whisper, stock, at any size and window.

`shorten_window` crops the window: most speech is shorter than 30 s, but a stock encoder always computes 30 s. The
checkpoint stays stock: plain transformers loads it with its processor. The encoder's states change,
because it no longer sees the silence behind a clip, so accuracy must be regained by tuning. An adapter is loaded on the
base that it names, whose window is the whole one: trainers refuse an adapter on a model that was shortened and not
saved (`differs_from_checkpoint`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from audiorl.batch import KEPT_STATES, GroupBatch, audio_alone, kept_texts
from audiorl.models.encoder_decoder import EncoderDecoderFamily
from audiorl.models.family import EnginePrompt, ServedPart, SpeechFamily, TokenizedText
from audiorl.models.family_data import check_ids
from audiorl.models.forward import base_model
from audiorl.models.generate import one_transcript_each
from audiorl.models.sampling import prefix_lengths
from audiorl.models.whisper_text import NO_TIMESTAMPS, PROMPT_START, START, WhisperText

# Settings that `WhisperForConditionalGeneration.generate` knows beside those of every model, and that make it go over a
# window more than once, or judge what it found.
WHISPERS_OWN = (
    "return_timestamps",
    "return_token_timestamps",
    "condition_on_prev_tokens",
    "prompt_condition_type",
    "temperature",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
)
# Language, task and prompt of a clip.
Asked = tuple[str | None, str | None, str | None]
SHORTEST_WINDOW = 1  # seconds


class WhisperAudio(SpeechFamily):
    """A window of fixed length as a log-mel spectrogram, whatever the head; `__init__` calls `init_audio`."""

    def init_audio(self, extractor: Any, config: Any) -> None:
        """Take rate, window and mel bins from the feature extractor.

        Raises:
            ValueError: it does not fit the model's config.
        """
        frames = 2 * config.max_source_positions
        if (extractor.feature_size, extractor.nb_max_frames) != (config.num_mel_bins, frames):
            raise ValueError(
                f"The processor makes {extractor.feature_size} mel bins x {extractor.nb_max_frames} frames, the model "
                f"hears {config.num_mel_bins} x {frames}. Load the processor from the model's own checkpoint."
            )
        self.extractor = extractor
        self.sampling_rate = extractor.sampling_rate
        self.max_seconds = float(extractor.chunk_length)
        self.mel_bins = extractor.feature_size

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, M, L) log-mel features; L is the model's whole window."""
        made = self.extractor(
            list(clips),
            sampling_rate=self.sampling_rate,
            return_tensors="pt",
            truncation=False,
            padding="max_length",
        )
        return {"input_features": made.input_features}

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        hop = self.extractor.hop_length
        return [mel[:, : max(1, n // hop)] for mel, n in zip(features["input_features"], samples, strict=True)]


class WhisperFamily(WhisperAudio, EncoderDecoderFamily):
    """Multilingual and English-only Whisper, distil-whisper and turbo, 80 or 128 mel bins, any window."""

    compiles_backbone = True
    decodes_with_prompts = True
    decodes_states = True
    rollout_engines = ("native", "vllm")

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        base = base_model(model)
        config = base.config
        self.init_audio(processor.feature_extractor, config)
        multilingual = getattr(base.generation_config, "is_multilingual", None)
        self.whisper_text = WhisperText(
            processor.tokenizer, config.vocab_size, config.max_target_positions, multilingual
        )
        self.end_token = self.whisper_text.end
        check_ids(base, self._ids())
        self._take_defaults(base.generation_config)

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.whisper_text.tokenize(text, language=language, task=task, prompt=prompt)

    def row_prompt(self, row: Mapping[str, Any]) -> str | None:
        prompt = super().row_prompt(row)
        self.whisper_text.prompt_ids(prompt)  # one that is too long is told where rows are checked
        return prompt

    def refuse_marks(self, what: str, text: str) -> None:
        self.whisper_text.plain_ids(text, what)

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        return self.whisper_text.prompt_with_history(prompt, history)

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        return self.whisper_text.prompt_with_hotwords(prompt, hotwords)

    def words(self, text: str) -> str:
        return self.whisper_text.words(super().words(text))

    def last_time(self, text: str) -> float | None:
        return self.whisper_text.last_time(text)

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        self.whisper_text.set_defaults(language=language, task=task)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.whisper_text.decode)

    # ---- weights ----

    def _encode(self, base: PreTrainedModel, batch: GroupBatch) -> Tensor:
        encoder = base.get_encoder()
        # with checkpointing the config's use_cache=True would be warned of
        features = batch.audio.to(encoder.conv1.weight.dtype)
        return self.backbone.encoder(encoder, features, use_cache=False).last_hidden_state

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return base.config.max_target_positions

    def served_part(self, base: PreTrainedModel) -> ServedPart:
        return ServedPart(
            base.config, type(base).__name__, {"model.": "model."}, base.config.max_target_positions, False
        )

    def engine_prompts(self, model: nn.Module, batch: GroupBatch, states: Tensor) -> list[EnginePrompt]:
        rows = zip(batch.leading_tokens.tolist(), prefix_lengths(batch).tolist(), states, strict=True)
        return [EnginePrompt(ids[:length], own) for ids, length, own in rows]

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        prompts: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search as the generation config says; clips fit the window.

        Where it does not name Whisper's tokens (an old one, or none), the processor's are taken. Clips whose prefixes
        are equally long are decoded together. A clip without a language is decoded in the one that the model hears.

        Args:
            generation: settings of the search: those of a `GenerationConfig`, and those of
                `WhisperForConditionalGeneration.generate`, such as `return_timestamps`.

        Raises:
            ValueError: an unknown language or task, or `max_new_tokens` for which the decoder has no room.
        """
        base = base_model(model)
        batch = audio_alone({name: tensor.to(base.device) for name, tensor in audio.items()})
        nothing = [None] * len(batch.audio)
        asked = [
            self._as_forced(base, language, task, prompt)
            for language, task, prompt in zip(languages or nothing, tasks or nothing, prompts or nothing, strict=True)
        ]
        with torch.no_grad(), self._search_settings(base, generation) as more:
            if more is None:
                found = self._search(base, self._states(base, batch), asked)
            else:
                found = self._whispers_search(base, batch, asked, more)
        return [self.whisper_text.decode(row) for row in found]

    def transcribe_long(
        self, model: nn.Module, clip: np.ndarray, *, chunk_seconds: float, overlap_seconds: float, **asked: Any
    ) -> str:
        """Window after window, each from the last timestamp that the one before it wrote, by Whisper's own `generate`.

        The windows are as long as the model's, so that both lengths are not read.

        Source: Radford et al. 2022, arXiv:2212.04356, section 3.8.
        """
        made = self.extractor(
            [clip], sampling_rate=self.sampling_rate, return_tensors="pt", truncation=False, padding="longest"
        )
        search = {"return_timestamps": True, **asked}
        return self.transcribe(model, {"input_features": made.input_features}, **search)[0]

    def _search(self, base: PreTrainedModel, states: Tensor, asked: Sequence[Asked]) -> list[list[int]]:
        """One search for each length of prefix; tokens behind the prefixes."""
        prefixes = self._prefixes(base, states, asked)
        found: list[list[int]] = [[]] * len(prefixes)
        settings = base.generation_config
        asked_for, most, settings.max_length = settings.max_new_tokens, settings.max_length, None
        for length in dict.fromkeys(map(len, prefixes)):
            settings.max_new_tokens = _room(asked_for, most, length, base.config.max_target_positions)
            places = [i for i, prefix in enumerate(prefixes) if len(prefix) == length]
            heard = BaseModelOutput(last_hidden_state=states[places])
            ids = GenerationMixin.generate(
                base,
                encoder_outputs=heard,
                attention_mask=torch.ones(heard.last_hidden_state.shape[:2], dtype=torch.long, device=base.device),
                decoder_input_ids=torch.tensor([prefixes[i] for i in places], device=base.device),
            )
            for i, row in zip(places, ids.tolist(), strict=True):
                found[i] = row[length:]
        return found

    def _prefixes(
        self,
        base: PreTrainedModel,
        states: Tensor,
        asked: Sequence[Asked],
    ) -> list[list[int]]:
        """The prefix of each clip, with the detected language if none is named."""
        text = self.whisper_text
        unnamed = [i for i, (language, _, _) in enumerate(asked) if not (language or text.default_language)]
        heard: dict[int, str] = {}
        if unnamed and text.multilingual:
            codes = {token: code for code, token in text.languages.items()}
            given = BaseModelOutput(last_hidden_state=states[unnamed])
            found = base.detect_language(encoder_outputs=given, generation_config=base.generation_config)
            heard = {i: codes[token] for i, token in zip(unnamed, found.tolist(), strict=True)}
        return [text.prefix(heard.get(i, language), task, prompt) for i, (language, task, prompt) in enumerate(asked)]

    def _whispers_search(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        asked: Sequence[Asked],
        settings: Mapping[str, Any],
    ) -> list[list[int]]:
        """By Whisper's own `generate`: a language for each clip, or for none, but one task and one prompt for all."""
        if batch.audio_key == KEPT_STATES:
            raise ValueError(
                f"Decoding with {sorted(settings) or 'the generation config'} goes over the audio itself, and there "
                "are only the encoder's kept states. Decode without encoder_cache, or without these settings."
            )
        features = batch.audio.to(base.get_encoder().conv1.weight.dtype)
        text = self.whisper_text
        named = [
            (bool(language or text.default_language), task or text.default_task, prompt)
            for language, task, prompt in asked
        ]
        found: list[list[int]] = [[]] * len(asked)
        for group in dict.fromkeys(named):
            places = [i for i, other in enumerate(named) if other == group]
            _, task, prompt = group
            said = text.generation_language([asked[i][0] for i in places], task)
            if text.multilingual:
                said.setdefault("task", task)
            if ids := text.prompt_ids(prompt):
                said["prompt_ids"] = torch.tensor(ids, device=base.device)
            clips = features[places]
            mask = torch.ones(len(clips), clips.shape[-1], dtype=torch.long, device=base.device)
            written = base.generate(input_features=clips, attention_mask=mask, **{**settings, **said})
            for i, row in zip(places, written.tolist(), strict=True):
                found[i] = row
        return found

    def _as_forced(self, base: PreTrainedModel, language: str | None, task: str | None, prompt: str | None) -> Asked:
        """What a clip asks for; if nothing, what an old checkpoint forces by `forced_decoder_ids`."""
        text = self.whisper_text
        if text.multilingual and not (language or text.default_language or task):
            forced = getattr(base.generation_config, "forced_decoder_ids", None) or ()
            named = {token for _, token in forced}
            language = next((code for code, token in text.languages.items() if token in named), None)
            task = "translate" if text.vocab["<|translate|>"] in named else None
        return language, task, prompt

    def _ids(self) -> dict[str, Any]:
        """The entries about Whisper's tokens in a current generation config."""
        text = self.whisper_text
        named: dict[str, Any] = {
            "decoder_start_token_id": text.vocab[START],
            "eos_token_id": text.end,
            "no_timestamps_token_id": text.vocab[NO_TIMESTAMPS],
            "is_multilingual": text.multilingual,
        }
        if PROMPT_START in text.vocab:
            named["prev_sot_token_id"] = text.vocab[PROMPT_START]
        if text.multilingual:
            named["lang_to_id"] = {f"<|{code}|>": token for code, token in text.languages.items()}
            named["task_to_id"] = {task: text.vocab[f"<|{task}|>"] for task in ("transcribe", "translate")}
        return named

    def _take_defaults(self, settings: GenerationConfig | None) -> None:
        """Take language and task from the generation config if the processor does not name them."""
        language, task = (getattr(settings, name, None) for name in ("language", "task"))
        text = self.whisper_text
        if text.multilingual:
            if isinstance(language, str) and text.default_language is None:
                text.default_language = language
            if task and getattr(text.tokenizer, "task", None) is None:
                text.default_task = task

    @contextlib.contextmanager
    def _search_settings(
        self, base: PreTrainedModel, generation: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any] | None]:
        """The checkpoint's generation config with the caller's settings and Whisper's tokens in it, for one search.

        It takes the place of the model's own meanwhile: `generate` fills up from that whatever another one leaves out.

        Yields:
            None; or keywords for Whisper's own `generate`, where they, or the generation config, ask for what only that
            one can do.
        """
        own = base.generation_config
        whispers = {name: generation.get(name, getattr(own, name, None)) for name in WHISPERS_OWN}
        whispers["temperature"] = generation.get("temperature")  # it does not read the config's
        plain = {name: value for name, value in generation.items() if name not in WHISPERS_OWN}
        if whispers["temperature"] is not None:
            plain["do_sample"] = True  # which its own `generate` turns off again at 0
        with one_transcript_each(base, plain, room=None) as others:
            settings = base.generation_config
            # None hides an entry of an old config as well as one of the model's config
            for name, value in {**self._ids(), "forced_decoder_ids": None, "language": None, "task": None}.items():
                setattr(settings, name, value)
            if settings.pad_token_id is None:
                settings.pad_token_id = self.end_token
            if others or any(value not in (None, False) for value in whispers.values()):
                yield {**others, **{name: generation[name] for name in WHISPERS_OWN if name in generation}}
                return
            yield None


def _room(asked_for: int | None, max_length: int | None, prefix: int, positions: int) -> int:
    """How many tokens may be written behind a prefix; `max_length` is read as Whisper's own `generate` reads it."""
    if asked_for is not None:
        if asked_for + prefix > positions:
            raise ValueError(
                f"max_new_tokens={asked_for} and a prefix of {prefix} tokens make {asked_for + prefix}, the decoder "
                f"has {positions} positions. Lower max_new_tokens to {positions - prefix}, or leave it out."
            )
        return asked_for
    if max_length is None:
        return positions - prefix
    return min(max_length + min(positions // 2 - 1, prefix), positions) - prefix


# ---- a shorter window ----


def shorten_window(model: nn.Module, processor: Any, seconds: int) -> None:
    """Let a Whisper hear at most `seconds`, in place; call it before a trainer or a family sees the model.

    Encoder positions, `max_source_positions` and the feature extractor's chunk are cropped. An encoder position is two
    mel frames, 20 ms: 30 s are 1500 positions, 12 s are 600.

    Args:
        model: a Whisper for transcription, wrapped by PEFT or not.
        processor: its processor; from here on it cuts or pads features to the new window.
        seconds: whole seconds, at least 1 and at most the present window.

    Raises:
        ValueError: another kind of model, whose encoder has no fixed window; seconds out of range; a processor whose
            window is not the model's.
    """
    base = base_model(model)
    extractor = getattr(processor, "feature_extractor", processor)
    if getattr(base.config, "model_type", None) != "whisper":
        raise ValueError(
            f"{type(base).__name__} has no fixed window that could be shortened: only Whisper pads every clip to one. "
            "Leave audio_window_seconds out; other models already cost less for shorter clips."
        )
    window = int(extractor.chunk_length)
    frames = extractor.nb_max_frames
    if frames != 2 * base.config.max_source_positions:
        raise ValueError(
            f"The processor's window has {frames} frames, the model's {2 * base.config.max_source_positions}. "
            "Load the processor from the model's own checkpoint."
        )
    if isinstance(seconds, bool) or int(seconds) != seconds or not SHORTEST_WINDOW <= seconds <= window:
        raise ValueError(
            f"A window of {seconds} s is not possible: this model hears {window} s. Choose whole seconds from "
            f"{SHORTEST_WINDOW} to {window}."
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

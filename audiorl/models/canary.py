"""Canary (Sekoyan et al. 2025, arXiv:2509.14128): a fast conformer, and a decoder that is asked for a language.

    <|startofcontext|><|startoftranscript|><|emo:undefined|><|source|><|target|><|pnc|><|noitn|><|notimestamp|>
    <|nodiarize|> transcript <|endoftext|>

is the request of canary-1b-v2, which the checkpoint's own chat template writes, and what follows it. Source and target
language are the same for transcription, and differ for translation. The template is asked for punctuation and capitals,
as the processor asks unless told otherwise.

Cohere Transcribe (`cohere_asr`) has the same encoder, a decoder of its own and nearly the same request: a piece that
is a space comes first, and source and target language are always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.canary.processing_canary import LANGUAGE_CODE_TO_NAME
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

from audiorl.batch import GroupBatch, audio_alone, kept_texts
from audiorl.models.encoder_decoder import EncoderDecoderFamily, PlainText
from audiorl.models.family import TokenizedText
from audiorl.models.family_data import check_ids, check_vocabulary
from audiorl.models.fast_conformer import FastConformerAudio
from audiorl.models.forward import base_model
from audiorl.models.generate import one_transcript_each
from audiorl.text.languages import nearest_language, own_code

# The piece that sentencepiece writes for a space.
SPACE = "\u2581"
# `CohereAsrProcessor` has the same ones.
COHERE_LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh")


class CanaryText(PlainText):
    """Tokenizes transcripts and translations for one Canary checkpoint.

    Attributes:
        default_language, default_task: used for rows that name none.
    """

    def __init__(self, processor: Any, config: Any):
        tokenizer = processor.tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        check_vocabulary(tokenizer, config.vocab_size)
        super().__init__(
            tokenizer,
            start=self._start(processor, config),
            end=config.eos_token_id,
            max_tokens=getattr(config, "decoder_config", config).max_position_embeddings,
        )
        self._special |= {i for mark, i in vocabulary.items() if mark.startswith("<|") and mark.endswith("|>")}
        self.processor = processor
        self.default_language: str | None = None
        self.default_task = "transcribe"
        self._requests: dict[tuple[str, str], list[int]] = {}

    def _start(self, processor: Any, config: Any) -> int:
        """The id that a request begins with."""
        return config.decoder_start_token_id

    def set_defaults(self, *, language: str | None, task: str | None) -> None:
        """See `SpeechFamily.set_defaults`."""
        if language:
            self.request(language, "transcribe")
        if target := target_language(task or self.default_task):
            self.request(target, "transcribe")
        self.default_language = language or self.default_language
        self.default_task = task or self.default_task

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """See `SpeechFamily.tokenize`."""
        if prompt:
            raise ValueError("this model's request has no place for a prompt. Remove the row's prompt")
        return self.behind(self.request(language, task), text)

    def request(self, language: str | None, task: str | None) -> list[int]:
        """What stands before a transcript.

        Args:
            language: name or code of the speech's; None for the default.
            task: "transcribe", "translate" (into English) or "translate:" and a language; None for the default.

        Raises:
            ValueError: a language or task that this checkpoint does not know, or no language at all.
        """
        task = task or self.default_task
        source = canary_code(language := self._named(language))
        target = target_language(task) or source
        if task != "transcribe" and source == target:
            raise ValueError(
                f"the task {task!r} translates into the language that is spoken, {language!r}. Use the task "
                "'transcribe', or "
                "name another language to translate into, for example 'translate:de'"
            )
        if (source, target) not in self._requests:
            self._requests[source, target] = self._rendered(source, target)
        return self._requests[source, target]

    def _named(self, language: str | None) -> str:
        """The row's language or the default; ValueError where there is neither."""
        if named := language or self.default_language:
            return named
        raise ValueError("no language is named, and this model knows several. Add a language column or set language")

    def _rendered(self, source: str, target: str) -> list[int]:
        asked = {"type": "text", "source_language": source, "target_language": target, "punctuation": True}
        turns = [{"role": "user", "content": [{"type": "audio", "path": ""}, asked]}]
        written = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(written, add_special_tokens=False).input_ids
        if unknown := [i for i in ids if i not in self._special]:
            raise ValueError(
                f"this checkpoint lacks a mark of its request {written!r}: it reads {self.tokenizer.decode(unknown)!r} "
                "as text. Use languages that it knows, or the processor of the model's own checkpoint"
            )
        return ids


class CohereText(CanaryText):
    """Tokenizes transcripts for one checkpoint of Cohere Transcribe, in the language that is spoken."""

    def __init__(self, processor: Any, config: Any):
        super().__init__(processor, config)
        # a piece of texts too: a transcript in Chinese begins with it
        self._special.discard(self.start)

    def _start(self, processor: Any, config: Any) -> int:
        return processor.tokenizer.convert_tokens_to_ids(SPACE)

    def set_defaults(self, *, language: str | None, task: str | None) -> None:
        """See `SpeechFamily.set_defaults`."""
        self._check_task(task)
        if language:
            self.request(language, task)
            self.default_language = language

    def request(self, language: str | None, task: str | None) -> list[int]:
        """What stands before a transcript.

        Raises:
            ValueError: a task, or a language that this checkpoint does not know, or no language at all.
        """
        self._check_task(task)
        code = _code(self._named(language), dict.fromkeys(COHERE_LANGUAGES, ""), "Cohere Transcribe")
        if (code, code) not in self._requests:
            self._requests[code, code] = self._rendered(code, code)
        return self._requests[code, code]

    def _check_task(self, task: str | None) -> None:
        if task not in (None, "transcribe"):
            raise ValueError(f"this model's only task is 'transcribe', not {task!r}. Remove the row's task, or the row")

    def _rendered(self, source: str, target: str) -> list[int]:
        ids = self.processor.get_decoder_prompt_ids(language=source, punctuation=True)
        if None in ids or self.tokenizer.unk_token_id in ids:
            raise ValueError(
                f"this checkpoint lacks a mark of its request for the language {source!r}. Use languages that it "
                "knows, or the processor of the model's own checkpoint"
            )
        return ids


def target_language(task: str) -> str | None:
    """Code of the language that a task translates into; None for "transcribe".

    Raises:
        ValueError: an unknown task or language.
    """
    if task == "transcribe":
        return None
    verb, _, language = task.partition(":")
    if verb != "translate":
        raise ValueError(
            f"unknown task {task!r}. Use 'transcribe', 'translate' (into English) or, for example, 'translate:de'"
        )
    return canary_code(language.strip() or "en")


def canary_code(language: str) -> str:
    """The code of a language in Canary's requests; ValueError for one that Canary does not know."""
    return _code(language, LANGUAGE_CODE_TO_NAME, "Canary")


def _code(language: str, known: Mapping[str, str], model: str) -> str:
    code = own_code(language, known)
    if code is None:
        near = nearest_language(language, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(
            f"unknown language {language!r} for {model}{hint}. Use a name or code that it knows: "
            f"{', '.join(known)}; it does not detect languages"
        )
    return code


class CanaryFamily(FastConformerAudio, EncoderDecoderFamily):
    """Canary as transformers has it: transcription in 25 languages, and translation.

    A row's `language` is the spoken one. Its `task` is "transcribe", "translate" (into English, as with Whisper) or
    "translate:" and a language. Grouped attention is exact here: the K hypotheses of a clip share one encoder pass
    and one set of keys and values.
    """

    decodes_states = True
    text_kind: type[CanaryText] = CanaryText

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        config = base_model(model).config
        self.init_audio(processor.feature_extractor, config.encoder_config)
        self.canary_text = self.text_kind(processor, config)
        check_ids(base_model(model), {"decoder_start_token_id": self.canary_text.start})
        self.end_token = self.canary_text.end

    # ---- data ----

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        return self.canary_text.tokenize(text, language=language, task=task, prompt=prompt)

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        self.canary_text.set_defaults(language=language, task=task)

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self.canary_text.decode)

    # ---- weights ----

    def _audio_seen(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor) -> Tensor:
        assert batch.audio_mask is not None, "features makes one"
        own = self._frames_of_audio(batch.audio_mask.sum(-1))
        return torch.arange(states.shape[1], device=states.device) < own[:, None]

    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        return self.canary_text.max_tokens

    def transcribe(
        self,
        model: nn.Module,
        audio: Mapping[str, Tensor],
        *,
        languages: Sequence[str | None] | None = None,
        tasks: Sequence[str | None] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Greedy or beam search by transformers' `generate`, each clip behind its own request."""
        base = base_model(model)
        batch = audio_alone(audio)
        none = [None] * len(batch.audio)
        requests = [
            self.canary_text.request(language, task)
            for language, task in zip(languages or none, tasks or none, strict=True)
        ]
        with torch.no_grad():
            states = self._states(base, batch)
            seen = self._audio_seen(base, batch, states)
            settings = self.canary_text.search_ids(len(requests[0]))
            # requests differ in languages alone and are equally long
            with one_transcript_each(base, generation, **settings) as others:
                ids = GenerationMixin.generate(
                    base,
                    encoder_outputs=ParakeetEncoderModelOutput(last_hidden_state=states, attention_mask=seen.int()),
                    decoder_input_ids=torch.tensor(requests, device=states.device),
                    **others,
                )
        return [self.canary_text.decode(row) for row in ids.tolist()]


class CohereASRFamily(CanaryFamily):
    """Cohere Transcribe: transcription in 14 languages; a row's `language`, or the trainer's, is needed.

    Longer clips than its feature extractor leaves whole (35 s) are bad rows. Grouped attention is exact here.
    """

    text_kind = CohereText
    works_on_states = True

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__(model, processor)
        assert self.max_seconds is not None
        self.max_seconds = min(self.max_seconds, self.extractor.max_audio_clip_s)

    def runs_in_pipeline(self, model: nn.Module) -> bool:
        """A pipeline names no language."""
        return False

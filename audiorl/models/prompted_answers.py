"""The text side of audio language models: a prompt with a place for the audio, an answer, an end token."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from audiorl.batch import kept_texts
from audiorl.models.family import SpeechFamily, TokenizedText

# Prompts whose tokens are kept; rows with prompts of their own may bring any number of them.
MOST_PREFIXES = 1024


class PromptedAnswers(SpeechFamily):
    """How a family writes prompts and answers; its `__init__` calls `init_prompts`."""

    decodes_with_prompts = True

    def init_prompts(self, processor: Any, max_tokens: int) -> None:
        """Take tokenizer and marks from the processor.

        Args:
            max_tokens: positions of the language model.
        """
        self.tokenizer = processor.tokenizer
        self.audio_token: str = processor.audio_token
        self.audio_token_id: int = self.tokenizer.convert_tokens_to_ids(self.audio_token)
        self.end_token = self.tokenizer.eos_token_id
        self.max_tokens = max_tokens
        self.default_language: str | None = None
        self._prefixes_known: dict[tuple[str | None, str | None], list[int]] = {}
        self._special = {self.end_token, self.audio_token_id, *self.tokenizer.all_special_ids}

    @abstractmethod
    def prompt_text(self, language: str | None, prompt: str | None) -> str:
        """Everything before the answer, with one placeholder for the audio.

        Args:
            language: of the row, or the default.
            prompt: the row's own: an instruction, a question, context, hot words; None for the model's own request to
                transcribe.

        Raises:
            ValueError: a language this model does not know, or none where it needs one.
        """

    def prefix_ids(self, language: str | None, prompt: str | None) -> list[int]:
        """`prompt_text` as tokens; a family whose prompts come as tokens says them here.

        Raises:
            ValueError: as of `prompt_text`.
        """
        return self._ids(self.prompt_text(language, prompt))

    def _request(self, **options: Any) -> str:
        """The processor's own request to transcribe, audio not expanded."""
        silence = np.zeros(self.sampling_rate, dtype=np.float32)
        request = self.processor.apply_transcription_request
        if "tokenize" in inspect.signature(request).parameters:
            (text,) = request(audio=silence, tokenize=False, **options)
            return text
        # older releases of transformers give no text, but tokens in which the audio has all of its places
        if more := (options.get("prompt") or "").count(self.audio_token):
            raise self._wrong_places(1 + more)
        ids = request(audio=silence, **options)["input_ids"][0].tolist()
        audio = ids.count(self.audio_token_id)
        place = ids.index(self.audio_token_id)
        return self.tokenizer.decode([*ids[: place + 1], *ids[place + audio :]])

    def _wrong_places(self, count: int) -> ValueError:
        return ValueError(
            f"the prompt has {count} places for audio, a row has one clip. Leave {self.audio_token} out of the row's "
            "prompt"
        )

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"this model's only task is 'transcribe', not {task!r}: its prompt says what else to do. Write it as "
                "the row's prompt, and leave the task out"
            )
        prefix = self._prefix(language or self.default_language, prompt)
        if prefix.count(self.audio_token_id) != 1:
            raise self._wrong_places(prefix.count(self.audio_token_id))
        answer = self._ids(text)
        if found := self._special.intersection(answer):
            marks = self.tokenizer.convert_ids_to_tokens(sorted(found))
            raise ValueError(f"the text contains {marks}, which this model reads as marks. Remove them")
        ids = [*prefix, *answer, self.end_token]
        if len(ids) > self.max_tokens:
            raise ValueError(
                f"prompt, text and end make {len(ids)} tokens, the model has {self.max_tokens} positions, some of them "
                "for the audio. Cut the clip and its text into shorter pieces"
            )
        return TokenizedText(ids, len(prefix))

    def _prefix(self, language: str | None, prompt: str | None) -> list[int]:
        """The prompt's tokens; a template is rendered once for each language and prompt, not for each text."""
        known = self._prefixes_known.get((language, prompt))
        if known is None:
            if len(self._prefixes_known) >= MOST_PREFIXES:
                self._prefixes_known.clear()
            known = self._prefixes_known[language, prompt] = self.prefix_ids(language, prompt)
        return known

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        if task not in (None, "transcribe"):
            raise ValueError(
                f"{type(self).__name__} has one task, 'transcribe', and not {task!r}. Leave it out, and write prompts "
                "into the rows."
            )
        if language:
            self.prefix_ids(language, None)
            self.default_language = language

    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        return kept_texts(batch_tokens, keep, self._decode)

    def _decode(self, ids: list[int]) -> str:
        said = ids[: ids.index(self.end_token)] if self.end_token in ids else ids
        return self.tokenizer.decode([i for i in said if i not in self._special]).strip()

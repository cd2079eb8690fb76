"""What a family of speech models does with clips, texts and rows, before and after any weights are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from transformers import AutoProcessor

from audiorl.models.hotwords import read_prompt
from audiorl.text.error_rates import tagged_transcript
from audiorl.text.languages import language_code


class TokenizedText(NamedTuple):
    """A transcript as one family's tokens."""

    ids: list[int]  # prefix, transcript, end token
    first_kept: int  # position of the first token that counts: the length of the prefix


class FamilyData(ABC):
    """The half of a `SpeechFamily` that touches no weights.

    Attributes:
        sampling_rate: Hz at which the model hears.
        max_seconds: the longest clip the model takes; None where there is no limit.
        min_seconds: the shortest clip it takes.
        mel_bins: M of the mel spectrogram among its features; None where the model hears the waveform.
        end_token: id of the token that ends a hypothesis; also used as padding in `tokens`.
    """

    sampling_rate: int
    max_seconds: float | None = None
    min_seconds: float = 0.0
    mel_bins: int | None = None
    end_token: int

    def __init__(self, model: nn.Module, processor: Any):
        self.processor = processor

    @classmethod  # noqa: B027
    def require_packages(cls) -> None:
        """Asked before a checkpoint is loaded.

        Raises:
            ImportError: the family needs a package that is not installed.
        """

    @classmethod
    def load_processor(cls, name: str) -> Any:
        """What the family reads audio and text with, from a checkpoint's name or path.

        Raises:
            OSError, ValueError: the checkpoint lacks a part of it.
        """
        return AutoProcessor.from_pretrained(name)

    @abstractmethod
    def features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Mono float32 clips at `sampling_rate` -> the audio tensors of a `GroupBatch`, one row for each clip."""

    def spectrograms(self, features: Mapping[str, Tensor], samples: Sequence[int]) -> list[Tensor]:
        """Each clip's own part, without padding, of the mel spectrogram in `features`; needed where `mel_bins` is set.

        Args:
            features: what `features` returned.
            samples: how many samples each clip has.

        Returns:
            B views of (M, frames): what is written to them is written to `features`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} says it has mel_bins, but not where its spectrograms are. Override spectrograms."
        )

    @abstractmethod
    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """Text -> prefix, transcript, end token; nothing is cut.

        Raises:
            ValueError: an unknown language or task, a prompt the model has no place for, a transcript longer than the
                decoder; the message says what and what to do.
        """

    def tokenize_row(self, text: str, row: Mapping[str, Any]) -> TokenizedText:
        """`tokenize` with what the row says of language, task, prompt and hot words.

        A text in Qwen3-ASR's own format, "language English<asr_text>...", is the transcript in it; it names the
        language of a row that has none.

        Raises:
            ValueError: as `tokenize`, or the text's language is not the row's.
        """
        language, transcript = tagged_transcript(text)
        named = row.get("language") or language
        if language is not None and language_code(str(named)) != language_code(language):
            raise ValueError(
                f"the row's language is {named!r}, and its text begins with 'language {language}<asr_text>'. Correct "
                "one of them, or leave the text's beginning out"
            )
        return self.tokenize(transcript, language=named, task=row.get("task"), prompt=self.row_prompt(row))

    def row_prompt(self, row: Mapping[str, Any]) -> str | None:
        """The row's `prompt` with its `hotwords` written into it; what every reader of rows asks for.

        Raises:
            ValueError: a prompt that is no text, hot words that are no words, or nowhere to write them.
        """
        prompt, hotwords = read_prompt(row)
        return self.prompt_with_hotwords(prompt, hotwords) if hotwords else prompt

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """A row's prompt, or None, and its hot words (at least one) as one prompt, in the form this model knows.

        Raises:
            ValueError: this model reads no prompt, or has no place for hot words in it.
        """
        raise ValueError(
            "this model has no place for hotwords. Leave the column out; for a reward alone, give it another name"
        )

    def words(self, text: str) -> str:
        """A transcript without marks that are not spoken, such as timestamps: what error rates compare."""
        return tagged_transcript(text).text

    def last_time(self, text: str) -> float | None:
        """The latest time that a transcript mentions, in seconds from the start of its clip; None if it has none."""
        return None

    def least_seconds(self, text: str) -> float:
        """The shortest clip that can say a text (CTC writes at most a symbol for each frame); 0 where any can."""
        return 0.0

    def set_defaults(self, *, language: str | None = None, task: str | None = None) -> None:
        """Language and task of rows that name none; None leaves what the processor says.

        Raises:
            ValueError: this checkpoint has no such language or task.
        """
        if language or task:
            raise ValueError(f"{type(self).__name__} has no languages or tasks to choose from. Leave them out.")

    @abstractmethod
    def text(self, batch_tokens: Tensor, keep: Tensor) -> list[list[str]]:
        """`tokens` (B, K, T + 1) and `keep` (B, K, T) -> B lists of K transcripts."""

"""What a family of speech models does with clips, texts and rows, without touching weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from transformers import AutoProcessor

from audiorl.audio.sources import not_unicode, short_repr
from audiorl.text.error_rates import tagged_transcript
from audiorl.text.history import HISTORY_COLUMN, HYPOTHESIS_COLUMN, read_history
from audiorl.text.keywords import HOTWORDS_COLUMN, read_hotwords
from audiorl.text.languages import language_code


class TokenizedText(NamedTuple):
    """A transcript as one family's tokens."""

    ids: list[int]  # prefix, transcript, end token
    first_kept: int  # position of the first token that counts: the length of the prefix


class RowLimits(NamedTuple):
    """What a family can take of a row, for `audiorl.datasets.RowJudge`, whose fields these are."""

    tokenize: Callable[[str, Mapping[str, Any]], TokenizedText]
    max_seconds: float | None
    min_seconds: float
    last_time: Callable[[str], float | None]
    least_seconds: Callable[[str], float]
    setting_columns: Sequence[str]


# What manifests call the kind of their rows, beside the tasks that models know: these say no more than the family does.
TASKS_OF_MANIFESTS = {
    **dict.fromkeys(("asr", "automatic-speech-recognition", "speech-recognition"), "transcribe"),
    **dict.fromkeys(("classification", "audio-classification", "tts", "text-to-speech")),
}


def row_task(row: Mapping[str, Any]) -> str | None:
    """A row's task as models know it: "asr" is transcribe, and "classification" and "tts" ask nothing of a model."""
    task = row.get("task")
    return TASKS_OF_MANIFESTS.get(task.strip().lower(), task) if isinstance(task, str) else task


def read_prompt(row: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """A row's `prompt`, or None, and its `hotwords`: names and terms that its clip may hold.

    A family writes the hot words into its prompt (`prompt_with_hotwords`), and that is the prompt everywhere: scoring,
    sampling, evaluation and mining.

    Raises:
        ValueError: the prompt is no text, or the hot words are no words.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, str | None):
        raise ValueError(f"prompt is {short_repr(prompt)} ({type(prompt).__name__}), not text. Give a string")
    if prompt is not None and not_unicode(prompt):
        raise ValueError(f"prompt {short_repr(prompt)} holds half of a surrogate pair. Write it as UTF-8 anew")
    return prompt, read_hotwords(row.get(HOTWORDS_COLUMN))


class FamilyData(ABC):
    """The half of a `SpeechFamily` that touches no weights.

    Attributes:
        sampling_rate: Hz at which the model hears.
        max_seconds: the longest clip the model takes; None where there is no limit.
        min_seconds: the shortest clip it takes.
        mel_bins: M of the mel spectrogram among its features; None where the model hears the waveform.
        end_token: id of the token that ends a hypothesis; also used as padding in `tokens`.
        setting_columns: columns of a row that have to be text or nothing, because the model reads them.
        history_source: where `row_prompt` finds what was said before a clip, a name of `audiorl.text.history.SOURCES`.
    """

    sampling_rate: int
    max_seconds: float | None = None
    min_seconds: float = 0.0
    mel_bins: int | None = None
    end_token: int
    setting_columns: Sequence[str] = ("language", "task")
    history_source: str = "transcript"

    @property
    def limits(self) -> RowLimits:
        """What `audiorl.datasets.check_rows` and `judge_row` hold rows against: `check_rows(rows, **limits._asdict(),
        text_columns=..., distinct=...)`."""
        return RowLimits(
            self.tokenize_row,
            self.max_seconds,
            self.min_seconds,
            self.last_time,
            self.least_seconds,
            self.setting_columns,
        )

    def __init__(self, model: nn.Module, processor: Any):
        self.processor = processor

    @classmethod  # noqa: B027
    def require_packages(cls) -> None:
        """Called before a checkpoint is loaded.

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
        settings: dict[str, Any] = {"language": named, "task": row_task(row)}
        if self.history_source == "transcript" and row.get(HYPOTHESIS_COLUMN):
            # training may draw it in place of the history, and then it is too late to refuse the row
            try:
                other = self.row_prompt({**row, HISTORY_COLUMN: read_history(row, "hypothesis")})
                self.tokenize(transcript, **settings, prompt=other)
            except ValueError as error:
                raise ValueError(f"{error} ({HYPOTHESIS_COLUMN} was read in place of {HISTORY_COLUMN})") from error
        return self.tokenize(transcript, **settings, prompt=self.row_prompt(row))

    def row_prompt(self, row: Mapping[str, Any]) -> str | None:
        """The row's `prompt` with its history and its `hotwords` written into it; what every reader of rows asks for.

        Raises:
            ValueError: a prompt or history that is not text, hot words that are not words, or no place for them.
        """
        prompt, hotwords = read_prompt(row)
        history = read_history(row, self.history_source)
        if history is not None:
            self.refuse_marks("history", history)
            prompt = self.prompt_with_history(prompt, history)
        return self.prompt_with_hotwords(prompt, hotwords) if hotwords else prompt

    def refuse_marks(self, what: str, text: str) -> None:  # noqa: B027
        """Refuse a text with special tokens in it, where this model's tokenizer reads marks in texts.

        Args:
            what: the text is, for the message.

        Raises:
            ValueError: it has some.
        """

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        """A row's prompt, or None, and what was said before its clip, as one prompt in the form this model knows.

        Raises:
            ValueError: this model reads no prompt, or has no place for what was said before.
        """
        raise ValueError(
            "this model has no place for history, what was said before the clip. Leave the column out, or give it "
            "another name"
        )

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


def check_ids(base: Any, expected: Mapping[str, Any]) -> None:
    """Compare the ids that a model's config and generation config name with the processor's, before anything is spent.

    Args:
        base: the transformers model.
        expected: the processor's ids, or tables of ids, by their names in the configs; what these lack is not compared.

    Raises:
        ValueError: they are those of another checkpoint.
    """
    for place, config in (("config", base.config), ("generation_config", getattr(base, "generation_config", None))):
        for name, ours in expected.items():
            theirs = getattr(config, name, None)
            if isinstance(theirs, list | tuple) and ours in theirs:  # several tokens may end a transcript
                continue
            if isinstance(ours, dict) and isinstance(theirs, dict):
                ours, theirs = ({key: table.get(key) for key in theirs} for table in (ours, theirs))
            if theirs is not None and theirs != ours:
                shown = _first_difference(ours, theirs)
                raise ValueError(
                    f"The processor belongs to another checkpoint: its {name} is {shown[0]}, the model's {place} says "
                    f"{shown[1]}, so transcripts would follow the wrong tokens. Load the processor from the "
                    "model's own checkpoint."
                )


def _first_difference(ours: Any, theirs: Any) -> tuple[Any, Any]:
    if not isinstance(ours, dict):
        return ours, theirs
    return next(({key: ours[key]}, {key: theirs[key]}) for key in theirs if ours[key] != theirs[key])


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Refuse a tokenizer with ids that the model has no place for.

    Raises:
        ValueError: it is of another checkpoint, or the model's embeddings were not resized after tokens were added.
    """
    if (last := max(tokenizer.get_vocab().values())) >= vocab_size:
        raise ValueError(
            f"The tokenizer does not fit the model: its ids go up to {last}, the model's to {vocab_size - 1}. Load the "
            "processor from the model's own checkpoint; after tokenizer.add_tokens call model.resize_token_embeddings."
        )


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of what a tokenizer reads as marks wherever they stand: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if not isinstance(added, Mapping):  # mistral-common's reads no marks in texts
        added = {}
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if getattr(token, "special", False))}

"""Whisper's text side: transcripts to tokens and back, with the prefix each checkpoint and row asks for.

    [<|startofprev|> prompt] <|startoftranscript|> [<|language|> <|task|>] [<|notimestamps|>] transcript <|endoftext|>

English-only checkpoints take no language and task, though their vocabulary has the tokens. A transcript with timestamps
begins with one, they do not go back, and there is no `<|notimestamps|>`. The prefix is built from the vocabulary and
not by the tokenizer's own `prefix_tokens`, which puts an end token where a checkpoint does not know the language.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from audiorl.models.family import TokenizedText
from audiorl.models.family_data import special_ids
from audiorl.text.languages import DETECT, language_code, language_names, nearest_language

START, END, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
PROMPT_START = "<|startofprev|>"
TIMESTAMP = re.compile(r"<\|(\d+\.\d\d)\|>")
# Tokens of the released multilingual checkpoints; the English-only ones have one less. (openai-whisper,
# `Whisper.is_multilingual`)
MULTILINGUAL_VOCABULARY = 51_865
# Languages whose transcripts begin without a space. (openai-whisper, `Tokenizer.split_to_word_tokens`)
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
# Their scripts: Thai, Lao, Burmese, Chinese and Japanese, with full-width and half-width forms.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\uaa60-\uaa7f\u2e80-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
    r"\U00020000-\U0003ffff]"
)


class WhisperText:
    """Tokenizes transcripts for one Whisper checkpoint.

    Args:
        tokenizer: the checkpoint's.
        vocab_size: tokens that the model knows.
        max_tokens: positions of the decoder.
        multilingual: whether the checkpoint takes a language and a task, as its generation config says
            (`is_multilingual`). None, where it does not say, goes by the size of the vocabulary.

    Attributes:
        multilingual: see above.
        languages: code -> id of its token, of the languages that the checkpoint takes; none where it is English-only.
        default_language, default_task: used for rows that name none; from the processor
            (`WhisperProcessor.from_pretrained(..., language="german")`) until a trainer's config says otherwise.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, max_tokens: int, multilingual: bool | None = None):
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocab: dict[str, int] = tokenizer.get_vocab()
        self.multilingual = vocab_size >= MULTILINGUAL_VOCABULARY if multilingual is None else multilingual
        needed = [START, END, NO_TIMESTAMPS, *(["<|transcribe|>", "<|translate|>"] if self.multilingual else [])]
        missing = [token for token in needed if token not in self.vocab]
        if missing or max(self.vocab.values()) >= vocab_size:
            raise ValueError(
                f"The tokenizer does not fit the model: its ids go up to {max(self.vocab.values())}, its vocabulary to "
                f"{vocab_size - 1}" + (f" and lacks {missing}" if missing else "") + ". "
                "Load the processor from the model's own checkpoint."
            )
        self.end = self.vocab[END]
        codes = dict.fromkeys(language_names().values()) if self.multilingual else {}
        self.languages = {code: self.vocab[f"<|{code}|>"] for code in codes if f"<|{code}|>" in self.vocab}
        self.default_language: str | None = getattr(tokenizer, "language", None)
        self.default_task: str = getattr(tokenizer, "task", None) or "transcribe"
        self._special = {i for token, i in self.vocab.items() if token.startswith("<|") and token.endswith("|>")}
        self._special |= special_ids(tokenizer)

    def set_defaults(self, *, language: str | None, task: str | None) -> None:
        """See `SpeechFamily.set_defaults`."""
        if language or task:
            # a task alone is right or wrong whatever language the rows name
            self._language_and_task(language or self.default_language or "en", task)
        self.default_language = language or self.default_language
        self.default_task = task or self.default_task

    def tokenize(
        self, text: str, *, language: str | None = None, task: str | None = None, prompt: str | None = None
    ) -> TokenizedText:
        """See `SpeechFamily.tokenize`."""
        prefix = self.prefix(language, task, prompt, timed=self._is_timed(text))
        ids = [*prefix, *self._transcript(text, self._is_spaced(language, task)), self.end]
        # the decoder reads all but the last token, and Whisper predicts at most max_tokens of them
        if len(ids) > self.max_tokens:
            raise ValueError(
                f"the transcript makes {len(ids)} tokens with its prefix and end, the decoder has {self.max_tokens} "
                "positions. Cut the clip and its transcript into shorter pieces"
            )
        return TokenizedText(ids, len(prefix))

    def prefix(
        self, language: str | None, task: str | None, prompt: str | None = None, *, timed: bool = False
    ) -> list[int]:
        """What stands before a transcript.

        Args:
            language, task: None for the default.
            timed: whether timestamps follow.

        Raises:
            ValueError: see `SpeechFamily.tokenize`; or no language is known.
        """
        ids = [*self.prompt_ids(prompt), self.vocab[START], *self._language_and_task(language, task)]
        return ids if timed else [*ids, self.vocab[NO_TIMESTAMPS]]

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids -> transcript, special tokens left out, outer spaces stripped."""
        said = [i for i in ids if i not in self._special]
        # checkpoints ask for spaces before punctuation to be taken out, which is meant for other kinds of tokenizers
        return self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def words(self, text: str) -> str:
        """See `SpeechFamily.words`."""
        if not TIMESTAMP.search(text):
            return text.strip()
        pieces = [piece.strip() for piece in TIMESTAMP.split(text)[::2]]  # every second one is a time
        said = ""
        for piece in filter(None, pieces):
            # the language is not known here, so that the scripts on both sides decide
            unspaced = not said or UNSPACED.match(said[-1]) or UNSPACED.match(piece)
            said += piece if unspaced else f" {piece}"
        return said

    def last_time(self, text: str) -> float | None:
        """See `SpeechFamily.last_time`."""
        return max(map(float, TIMESTAMP.findall(text)), default=None)

    def generation_language(self, languages: Sequence[str | None] | None, task: str) -> dict[str, Any]:
        """Keywords for Whisper's `generate`; no language for English-only checkpoints or where none is known.

        Raises:
            ValueError: this checkpoint has no such language or task, or some clips name a language and some do not.
        """
        chosen = [language or self.default_language for language in languages or [None]]
        for language in dict.fromkeys(chosen):
            self._language_and_task(language or "en", task)
        if not self.multilingual:
            return {}
        if all(chosen):
            return {"language": chosen if len(chosen) > 1 else chosen[0], "task": task}
        if any(chosen):
            raise ValueError(
                "Some rows of the batch name a language and some do not, so they cannot be decoded together. "
                "Fill the language column for every row, or set `language` in the config."
            )
        # the model finds the language and then transcribes of its own accord; only a translation has to be asked for
        return {} if task == "transcribe" else {"task": task}

    def prompt_ids(self, prompt: str | None) -> list[int]:
        """<|startofprev|> and the prompt, in at most half of the decoder's positions (224); none for no prompt.

        OpenAI's decoder and transformers keep the last 223 tokens of a longer prompt.

        Raises:
            ValueError: a longer prompt, one with special tokens in it, or a checkpoint that takes none.
        """
        if not prompt:
            return []
        if PROMPT_START not in self.vocab:
            raise ValueError(
                f"this checkpoint takes no prompt: its vocabulary has no {PROMPT_START}. Drop the prompt and hotwords"
            )
        ids = [self.vocab[PROMPT_START], *self.plain_ids(" " + prompt.strip(), "prompt")]
        if len(ids) > (most := self.max_tokens // 2):
            raise ValueError(
                f"the prompt makes {len(ids)} tokens with its history and hotwords, and Whisper reads at most {most}. "
                "Shorten it; nothing is cut. `audiorl history --history_characters` makes histories that fit"
            )
        return ids

    def prompt_with_history(self, prompt: str | None, history: str) -> str:
        """What was said before the clip, which is what the place is for, behind the row's prompt."""
        return f"{prompt.strip()} {history}" if prompt else history

    def prompt_with_hotwords(self, prompt: str | None, hotwords: Sequence[str]) -> str:
        """A glossary in front of the row's prompt, which stands for what was said just before the clip.

        Source: OpenAI Cookbook, Whisper prompting guide, for "Glossary: ..."; the order is ours.
        """
        glossary = f"Glossary: {', '.join(hotwords)}."
        return f"{glossary} {prompt.strip()}" if prompt else glossary

    def _language_and_task(self, language: str | None, task: str | None) -> list[int]:
        task = task or self.default_task
        if task not in ("transcribe", "translate"):
            raise ValueError(f"unknown task {task!r}. Use 'transcribe', or 'translate' (into English)")
        language = language or self.default_language
        code = language_code(language) if language else ""
        if code == DETECT:
            raise ValueError(
                f"the language is {language!r}: languages are not detected in training, because the language's token "
                "comes before each transcript. Name the language; in evaluation leave it out, and the model finds it"
            )
        if not self.multilingual:
            if code not in ("", "en") or task != "transcribe":
                raise ValueError(
                    f"this checkpoint only transcribes English; it is asked for language {language or 'en'!r}, task "
                    f"{task!r}. Use a multilingual checkpoint (its generation config says is_multilingual, or it has "
                    f"{MULTILINGUAL_VOCABULARY} tokens or more), or leave language and task out, as column and as flag"
                )
            return []
        if not code:
            raise ValueError(
                "no language is named for a multilingual checkpoint. Add a language column or set language"
            )
        if code not in self.languages:
            near = nearest_language(str(language), self.languages)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"unknown language {language!r} for this checkpoint{hint}. Use a name or code it knows")
        return [self.languages[code], self.vocab[f"<|{task}|>"]]

    def _is_spaced(self, language: str | None, task: str | None) -> bool:
        """Whether what is written begins with a space: by its language, which is English for translations."""
        if not self.multilingual or (task or self.default_task) == "translate":
            return True
        return language_code(language or self.default_language or "") not in UNSPACED_LANGUAGES

    def _is_timed(self, text: str) -> bool:
        """Whether a transcript has timestamps; raises ValueError where they are not at the start or not in order."""
        times = [float(time) for time in TIMESTAMP.findall(text)]
        if not times:
            return False
        if not TIMESTAMP.match(text.strip()):
            raise ValueError(
                "the text has timestamps but does not begin with one. Begin it with the time at which the speech "
                "starts, for example <|0.00|>, or remove all of them"
            )
        for before, after in pairwise(times):
            if after < before:
                raise ValueError(f"the timestamps go back from {before:.2f} s to {after:.2f} s. Put them in order")
        return True

    def _transcript(self, text: str, spaced: bool) -> list[int]:
        """OpenAI's checkpoints begin a transcript, and each timed piece of it, with a space in the languages that use
        spaces; so do we, that it is scored as the model would write it."""
        ids: list[int] = []
        position = 0
        for match in [*TIMESTAMP.finditer(text), None]:
            piece = text[position : match.start() if match else len(text)].strip()
            if piece:
                ids += self.plain_ids(" " + piece if spaced else piece)
            if match:
                if match.group() not in self.vocab:
                    raise ValueError(f"unknown timestamp {match.group()}. Use multiples of 0.02 s inside the window")
                ids.append(self.vocab[match.group()])
                position = match.end()
        return ids

    def plain_ids(self, text: str, what: str = "text") -> list[int]:
        """The tokens of a text in which nothing is a mark, timestamps among them."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if special := [i for i in ids if i in self._special]:
            tokens = self.tokenizer.convert_ids_to_tokens(special)
            raise ValueError(
                f"the {what} contains special tokens {tokens}, which the model reads as marks. Remove them"
            )
        return ids

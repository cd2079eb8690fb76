"""Hot words: names and terms that a row's clip may hold, for models that read a prompt.

A row's column `hotwords` is a list of strings, or one string with commas between the words (",", "，" or "、"). Each
family writes them into its prompt (`SpeechFamily.prompt_with_hotwords`), which is then the prompt everywhere: scoring,
sampling, evaluation and mining.
"""  # noqa: RUF002

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiorl.audio.sources import not_unicode, short_repr
from audiorl.text.hotwords import COLUMN, read_hotwords


def read_prompt(row: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """A row's `prompt`, or None, and its `hotwords`.

    Raises:
        ValueError: the prompt is no text, or the hot words are no words.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, str | None):
        raise ValueError(f"prompt is {short_repr(prompt)} ({type(prompt).__name__}), not text. Give a string")
    if prompt is not None and not_unicode(prompt):
        raise ValueError(f"prompt {short_repr(prompt)} holds half of a surrogate pair. Write it as UTF-8 anew")
    return prompt, read_hotwords(row.get(COLUMN))

"""Hot words: names and terms that a row's clip may hold, for models that read a prompt.

A row's column `hotwords` is a list of strings, or one string with commas between the words (",", "，" or "、"). Each
family writes them into its prompt (`SpeechFamily.prompt_with_hotwords`), which is then the prompt everywhere: scoring,
sampling, evaluation and mining.
"""  # noqa: RUF002

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from audiorl.audio_sources import short_repr

COMMAS = re.compile("[,，、]")  # noqa: RUF001


def read_prompt(row: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """A row's `prompt`, or None, and its `hotwords`.

    Raises:
        ValueError: the prompt is no text, or the hot words are no words.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, str | None):
        raise ValueError(f"prompt is {short_repr(prompt)} ({type(prompt).__name__}), not text. Give a string")
    return prompt, read_hotwords(row.get("hotwords"))


def read_hotwords(value: Any) -> list[str]:
    """The words in a row's `hotwords`, outer spaces stripped; none for None, an empty list or a blank string.

    What is blank between two commas of a string is no word.

    Raises:
        ValueError: neither a string nor a list of words.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [word.strip() for word in COMMAS.split(value) if word.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"hotwords is {short_repr(value)} ({type(value).__name__}), not words. Give a list of strings, or one "
            "string with commas between the words"
        )
    for word in value:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(
                f"hotwords has {short_repr(word)} ({type(word).__name__}) in its list, which is no word. Make every "
                "entry a string with something in it"
            )
    return [word.strip() for word in value]


def behind_request(request: str, hotwords: Sequence[str]) -> str:
    """A request in words, and on the next line a sentence that names the hot words.

    The sentence is ours, for models whose authors publish no form for hot words.
    """
    return f"{request}\nThese words may occur: {', '.join(hotwords)}."

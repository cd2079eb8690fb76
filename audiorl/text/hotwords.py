"""The hot words of a row: names and terms that its clip may hold.

A row's column `hotwords` is a list of strings, or one string with commas between the words (",", "，" or "、").
"""  # noqa: RUF002

from __future__ import annotations

import re
from typing import Any

from audiorl.audio.sources import not_unicode, short_repr

COLUMN = "hotwords"
COMMAS = re.compile("[,，、]")  # noqa: RUF001


def read_hotwords(value: Any) -> list[str]:
    """The words in a row's `hotwords`, outer spaces stripped; none for None, an empty list or a blank string.

    What is blank between two commas of a string is no word.

    Raises:
        ValueError: neither a string nor a list of words.
    """
    if value is None:
        return []
    for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
        if isinstance(text, str) and not_unicode(text):
            raise ValueError(f"hotwords has {short_repr(text)}, half of a surrogate pair. Write it as UTF-8 anew")
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

"""Settings of a description: the reader in a field's metadata reads and checks its setting.

Sound files that are mixed into clips are settings, too: found, looked at before training, decoded once in each
process.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from audiorl.audio import AudioFault, audio_seconds, load_audio
from audiorl.audio.sources import SOUND_SUFFIXES

# Decoded recordings that a process keeps; a minute at 16 kHz is 4 MB.
_KEPT = 16


def find_recordings(paths: Sequence[str], place: str) -> tuple[str, ...]:
    """Sound files by path, folders with all below them; in one order on every machine.

    Args:
        paths: files and folders.
        place: how errors name the setting.

    Raises:
        ValueError: a path that is not there, a folder without sound files, or a file whose header shows that it
            cannot be used.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            below = [os.path.join(base, name) for base, _, names in os.walk(path) for name in names]
            sounds = sorted(name for name in below if name.lower().endswith(SOUND_SUFFIXES))
            if not sounds:
                raise ValueError(
                    f"{place}: the folder {path} holds no sound file. Put some there ({', '.join(SOUND_SUFFIXES)}), or "
                    "name another folder."
                )
            found += sounds
        elif os.path.isfile(path):
            found.append(path)
        else:
            raise ValueError(
                f"{place}: there is no file or folder {path}. Correct the path; relative paths start at the "
                "description's file or, without one, at the working directory."
            )
    for path in found:
        try:
            audio_seconds(path)
        except AudioFault as fault:
            raise ValueError(f"{place}: {fault.problem}. {fault.remedy}") from fault
    return tuple(found)


@lru_cache(maxsize=_KEPT)
def recording(path: str, sampling_rate: int) -> np.ndarray:
    """One sound file, mono at the given rate: (samples,) float32, not silent, not to be written to.

    Raises:
        ValueError: the file breaks on decoding. It is no fault of the row at hand, so that no row is skipped for it.
    """
    try:
        samples = load_audio(path, sampling_rate)
    except AudioFault as fault:
        raise ValueError(f"A recording for augmentation cannot be used: {fault.problem}. {fault.remedy}") from fault
    samples.flags.writeable = False
    return samples


Settings = TypeVar("Settings")
# (value as written, its place in the description, folder that relative paths start from) -> value
Reader = Callable[[Any, str, str], Any]


class Range(NamedTuple):
    """Numbers from `low` to `high`; one number is a range of its own."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))

    def draw_integer(self, rng: np.random.Generator) -> int:
        """From `low` to `high`, both included."""
        return int(rng.integers(int(self.low), int(self.high) + 1))


def ranged(low: float, high: float, unit: str, *, whole: bool = False) -> dict[str, Reader]:
    """A number or [low, high], within these limits."""

    def read(value: Any, place: str, folder: str) -> Range:
        pair = list(value) if isinstance(value, list | tuple) else [value, value]
        kinds = int if whole else int | float
        if len(pair) != 2 or any(isinstance(x, bool) or not isinstance(x, kinds) for x in pair):
            noun = "whole number" if whole else "number"
            raise ValueError(
                f"{place} is {value!r}, not a {noun} or a range of {unit}. Write a {noun} or [low, high], within "
                f"{low:g} to {high:g}; in YAML 1.0e-3, because 1e-3 is text there."
            )
        if not low <= pair[0] <= pair[1] <= high:
            raise ValueError(
                f"{place} is {value!r}, outside {low:g} to {high:g} {unit} or not in order. Choose a number there, or "
                "[low, high] with low <= high."
            )
        return Range(*map(float, pair))

    return {"read": read}


def number(low: float, high: float, unit: str, *, whole: bool = False) -> dict[str, Reader]:
    """One number within these limits."""

    def read(value: Any, place: str, folder: str) -> float:
        kinds = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            noun = "whole number" if whole else "number"
            raise ValueError(f"{place} is {value!r}. Write one {noun} from {low:g} to {high:g} ({unit}).")
        return value

    return {"read": read}


def flag() -> dict[str, Reader]:
    """True or false."""

    def read(value: Any, place: str, folder: str) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{place} is {value!r}. Write true or false.")
        return value

    return {"read": read}


def choice(*choices: str) -> dict[str, Reader]:
    """One of these names."""

    def read(value: Any, place: str, folder: str) -> str:
        if value not in choices:
            raise ValueError(f"{place} is {value!r}, which is not offered. {nearest(str(value), choices)}")
        return value

    return {"read": read}


def recordings() -> dict[str, Reader]:
    """Sound files: a file, a folder, or a list of them; found and looked at now."""

    def read(value: Any, place: str, folder: str) -> tuple[str, ...]:
        given = value if isinstance(value, list | tuple) else [value]
        if not given or not all(isinstance(path, str | os.PathLike) for path in given):
            raise ValueError(f"{place} is {value!r}. Write the path of a sound file or a folder, or a list of them.")
        return find_recordings([os.path.join(folder, path) for path in given], place)

    return {"read": read}


def read_settings(kind: type[Settings], written: Any, place: str, folder: str) -> Settings:
    """Build a transform from what its description says.

    Args:
        kind: a dataclass whose fields come from the functions above.
        written: the settings, a dict.
        place: how errors name it, e.g. "augmentation: speed".
        folder: where relative paths start.

    Raises:
        ValueError: settings that are no dict, unknown, missing, of a wrong type or out of range.
    """
    if not isinstance(written, Mapping):
        raise ValueError(f"{place} is {written!r}, not a dict of settings. Write {{{example(kind)}}}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in written:
        if name not in fields:
            raise ValueError(f"{place} has no setting {name!r}. {nearest(str(name), fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING
        if needed and name not in written:
            raise ValueError(f"{place} lacks {name!r}. Write {{{example(kind)}}}.")
    read = {name: fields[name].metadata["read"](value, f"{place}.{name}", folder) for name, value in written.items()}
    return kind(**read)


def nearest(name: str, known: Any) -> str:
    """The remedy for a misspelt name."""
    near = get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(known)}."


def example(kind: Any) -> str:
    return kind.example

"""The forms in which a row may give its clip, and the fault of an entry in any other form."""

from __future__ import annotations

import base64
import binascii
import logging
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np

logger = logging.getLogger(__name__)

# Files of a folder that are taken for audio
SOUND_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff"),
    *(".w64", ".au", ".caf", ".m4a", ".aac", ".amr", ".wma", ".webm", ".mka"),
)
# Columns that say which part of its recording a row is, beside `duration`
SEGMENT_COLUMNS = ("start", "offset", "end")
# More than this is a spectrogram or a batch given by mistake, which averaging would turn into noise.
MOST_CHANNELS = 32

_ARRAY_REMEDY = "Give (samples,), (channels, samples) or (samples, channels): floats in [-1, 1], or int16."

# Recorders' rates lie between; at 1 Hz a second's samples would be hours, and resampling them would take as long.
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000


class AudioFault(ValueError):
    """A clip that cannot be used, and what to do about it.

    Args:
        problem: what is wrong with which clip, without a full stop.
        remedy: what to do instead, a sentence.
    """

    def __init__(self, problem: str, remedy: str = ""):
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}" if self.remedy else self.problem


class Clip(NamedTuple):
    """Decoded sound.

    Args:
        samples: (samples,) or (samples, channels) float32, nominally in [-1, 1].
        sampling_rate: Hz.
        lossy: whether a lossy codec made them, whose decoders overshoot full scale a little.
    """

    samples: np.ndarray
    sampling_rate: int
    lossy: bool = False

    @property
    def shape(self) -> ClipShape:
        """Its length, rate and channels."""
        channels = 1 if self.samples.ndim == 1 else self.samples.shape[1]
        return ClipShape(len(self.samples), self.sampling_rate, channels)


class ClipShape(NamedTuple):
    """What is known about a clip before it is decoded."""

    samples: int  # of each channel
    sampling_rate: int  # Hz
    channels: int


_said: set[str] = set()


def say_once(kind: str, message: str) -> None:
    """Warn about the first clip that is read differently than its file says; once for each kind and process."""
    if kind not in _said:
        _said.add(kind)
        logger.warning(f"{message} Further clips of this kind are read the same way without a message.")


def holds_array(source: Any) -> bool:
    """Whether an entry has samples; they take precedence over its path."""
    return isinstance(source, Mapping) and source.get("array") is not None


def array_clip(entry: Mapping[str, Any]) -> Clip:
    """Check and scale the samples of an `{"array", "sampling_rate"}` entry.

    Raises:
        AudioFault: no usable rate, samples that are not numbers, 64-bit integers, or no clip's shape.
    """
    rate: Any = entry.get("sampling_rate")
    numeric = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not numeric or not LOWEST_RATE <= rate <= HIGHEST_RATE or rate % 1:
        raise AudioFault(
            f"the audio array's sampling_rate is {short_repr(rate)}",
            f"Give the rate the array was recorded at, a whole number of Hz from {LOWEST_RATE} to {HIGHEST_RATE}.",
        )
    try:
        samples = np.asarray(entry["array"])
    except (ValueError, TypeError) as error:
        raise AudioFault("the audio array is ragged or not made of numbers", _ARRAY_REMEDY) from error
    return Clip(_scaled(_samples_first(samples)), int(rate))


def _samples_first(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2 and samples.shape[0] <= samples.shape[1]:
        samples = samples.T
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS):
        raise AudioFault(f"the audio array has shape {samples.shape}, which no clip has", _ARRAY_REMEDY)
    return samples[:, 0] if samples.ndim == 2 and samples.shape[1] == 1 else samples


def _scaled(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # out of float32's range is infinite, and refused as such
            return samples.astype(np.float32)
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize == 8:
        raise AudioFault(
            f"the audio array holds {samples.dtype} samples, which have no full scale",
            "Divide them to floats in [-1, 1], or give a NumPy array of int16 or int32.",
        )
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0.0
    return ((samples - middle) / half).astype(np.float32)


def entry_file(source: Any) -> bytes | str:
    """Where an entry's audio file is: its bytes, or the path of the file.

    Raises:
        AudioFault: the entry is none of the shapes that `load_audio` accepts.
    """
    if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
        source = _bytes_or_path(source)
    if source is None or _is_blank(source):
        raise AudioFault("the audio entry is empty", "Give the clip's path, bytes or array, or remove the row.")
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return _data_address_bytes(path) if path.startswith("data:") else path
    shape = f"keys {sorted(map(str, source))}" if isinstance(source, Mapping) else type(source).__name__
    raise AudioFault(
        f"the audio entry {short_repr(source)} ({shape}) is not a clip",
        'Give a path, bytes, {"path", "bytes"}, {"array", "sampling_rate"} or a data:audio/...;base64, '
        "address; cast a datasets Audio column with Audio(decode=False).",
    )


def _is_blank(source: Any) -> bool:
    return not source.strip() if isinstance(source, str) else isinstance(source, Mapping) and not source


def _bytes_or_path(entry: Mapping[str, Any]) -> Any:
    content = entry.get("bytes")
    if content is not None and not isinstance(content, bytes | bytearray | memoryview):
        raise AudioFault(
            f"the audio entry's bytes are of type {type(content).__name__}",
            "In JSON, give a path or a data:audio/...;base64, address; in Python, give bytes.",
        )
    return entry.get("path") if content is None else content


def _data_address_bytes(address: str) -> bytes:
    head, comma, payload = address.partition(",")
    if not comma or not head.startswith("data:audio/") or not head.endswith(";base64"):
        raise AudioFault(
            f"the data address starts with {short_repr(head)}",
            "Write it as data:audio/wav;base64,... (RFC 2397).",
        )
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except ValueError as error:  # damaged base64, or characters outside ASCII
        reason = "padding or alphabet" if isinstance(error, binascii.Error) else "characters outside ASCII"
        raise AudioFault(
            f"the base64 of the data address does not decode ({reason})",
            "Encode the audio file's bytes again with standard base64, padding included.",
        ) from error


def entry_name(source: Any) -> str:
    """How a fault names the clip: by its path where it has one."""
    if holds_array(source):
        return "the audio array"
    if isinstance(source, Mapping):
        path, inside = source.get("path"), source.get("bytes") is not None
        return f"the audio of {short_repr(path)}" if inside and path else entry_name(path)
    if isinstance(source, str | os.PathLike) and not os.fsdecode(source).startswith("data:"):
        return f"audio file {short_repr(os.fsdecode(source))}"
    return "the audio"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number. True and False are not."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def short_repr(value: object) -> str:
    """repr(), cut short for long values such as base64."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list nested as deep
        return f"<{type(value).__name__}>"
    return text if len(text) <= 160 else f"{text[:120]}...{text[-30:]}"


def not_unicode(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which is no character: JSON and Python allow it, UTF-8 does not.

    Dropping or replacing it would make another text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

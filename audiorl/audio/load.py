"""Load a clip as mono float32 at the model's rate; a clip that cannot be used is refused with a remedy.

A source is one of: a path or fsspec address; the bytes of an audio file; `{"path", "bytes"}` (bytes win);
`{"array", "sampling_rate"}`; a `data:audio/...;base64,` address.

An array is (samples,), or two-dimensional with the shorter axis as the channels: librosa returns
(channels, samples), soundfile (samples, channels), and a clip is longer than it has channels. A square array
is read as librosa's. Integers are divided by their full scale. A clip is silent when no sample of its mono
mix reaches `SILENCE_PEAK`.

Of several channels the clip is one, by its number from 0, or "mix": their mean, also of 5.1 sound. Floats beyond full
scale are scaled down to it, which is told once, up to `LOUDEST_SAMPLE`: a sample beyond that is a damaged exponent, or
an integer that was stored as a float, and a fault. Lossy codecs overshoot full scale a little, and their samples stay
as they are.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile

from audiorl.audio import ffmpeg, libsndfile
from audiorl.audio.containers import Container, inspect_container
from audiorl.audio.sources import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_CHANNELS,
    AudioFault,
    Clip,
    ClipShape,
    array_clip,
    entry_file,
    entry_name,
    holds_array,
    say_once,
    short_repr,
)

Channel = int | Literal["mix"]

# -80 dBFS, three steps of 16-bit PCM: dithered silence stays below, the faintest usable speech is far above.
SILENCE_PEAK = 1e-4
# 40 dB above full scale: what recordings, resampling and gains reach stays far below. 16-bit integers as floats lie
# above, and a flipped high bit of a float's exponent makes 1e30 of the faintest sample.
LOUDEST_SAMPLE = 100.0


# Called with a clip's seconds before anything is decoded; raises to refuse it.
CheckSeconds = Callable[[float], None]


def load_audio(
    source: Any,
    sampling_rate: int,
    *,
    allow_silence: bool = False,
    channel: Channel | None = None,
    check: CheckSeconds | None = None,
) -> np.ndarray:
    """Decode one clip to mono at the given rate.

    Args:
        source: path, bytes, `{"path", "bytes"}`, `{"array", "sampling_rate"}` or `data:audio/...;base64,`.
        sampling_rate: Hz, > 0; the model's rate.
        allow_silence: take a silent clip, which to learn from is a fault, for example to measure what a model makes
            of it.
        channel: which of several channels, from 0, or "mix" (also None) for their mean.
        check: called with what `audio_seconds` says of the clip, before it is decoded and in the same opening of its
            file; what it raises is raised.

    Returns:
        (samples,) float32, nominally within [-1, 1].

    Raises:
        AudioFault: the clip is missing, empty, not audio, cut off, damaged, silent, not finite, beyond all loudness or
            misshapen, or has no such channel.
        ValueError: `sampling_rate` is not above zero.
    """
    if sampling_rate <= 0:
        raise ValueError(
            f"load_audio converts to the model's rate in Hz, which is above zero; got {sampling_rate}. "
            "Pass the feature extractor's sampling_rate, 16000 for most speech models."
        )
    name = entry_name(source)
    clip = _mono(_decode(source, name, None if check is None else _Check(channel, check)), channel, name)
    _require_rate(clip.sampling_rate, name)
    peak = float(np.abs(clip.samples).max(initial=0.0))
    if peak < SILENCE_PEAK and not allow_silence:
        raise AudioFault(
            f"{name} is silent (peak {peak:.1e}, below {SILENCE_PEAK:g})",
            "Remove the row; if a stereo file's channels cancel each other, name one of them in a column channel.",
        )
    return _resample(clip.samples, clip.sampling_rate, sampling_rate)


def load_row_audio(
    row: Mapping[str, Any], sampling_rate: int, *, allow_silence: bool = False, check: CheckSeconds | None = None
) -> np.ndarray:
    """`load_audio` of a row's `audio`, of the channel that its `channel` column names."""
    channel = row.get("channel")
    return load_audio(row.get("audio"), sampling_rate, allow_silence=allow_silence, channel=channel, check=check)


def audio_seconds(source: Any, *, channel: Channel | None = None) -> float:
    """Length of one clip in seconds, from its header or shape if that is exact to the sample.

    An MP3 whose length header is absent or wrong has its frames counted; what FFmpeg reads is decoded, and so is a FLAC
    stream of unknown length.

    Args:
        source, channel: whatever `load_audio` accepts.

    Raises:
        AudioFault: the clip is missing, empty, not audio, of a codec that is not read, visibly cut off or misshapen, or
            has no such channel.
    """
    name = entry_name(source)
    shape = array_clip(source).shape if holds_array(source) else _file_shape(source, name)
    return _seconds(shape, channel, name)


def _seconds(shape: ClipShape, channel: Any, name: str) -> float:
    if not shape.samples:
        raise AudioFault(f"{name} has no samples", "Remove the row, or record the clip again.")
    _channel_number(channel, shape.channels, name)
    _require_rate(shape.sampling_rate, name)
    return shape.samples / shape.sampling_rate


def row_audio_seconds(row: Mapping[str, Any]) -> float:
    """`audio_seconds` of a row's `audio`, which has to have the channel that its `channel` column names."""
    return audio_seconds(row.get("audio"), channel=row.get("channel"))


def audio_bytes(source: Any, *, channel: Channel | None = None) -> bytes:
    """A clip's file as it is, not decoded; of one channel a WAV with its samples, 16 bits each, at the file's rate.

    Args:
        source, channel: whatever `load_audio` accepts, arrays excepted.

    Raises:
        AudioFault: the clip is missing, or no file; of one channel also whatever `load_audio` refuses but silence.
    """
    number = channel_of(channel)
    if number == "mix":
        with _opened(source) as file:
            return file.read()
    name = entry_name(source)
    clip = _mono(_decode(source, name), number, name)
    wav = io.BytesIO()
    soundfile.write(wav, clip.samples, clip.sampling_rate, format="WAV", subtype="PCM_16")
    return wav.getvalue()


# ---- channels and level ----


def channel_of(value: Any) -> Channel:
    """What a `channel` column says: a number from 0, also as text or as a float, or "mix", also by None.

    Raises:
        AudioFault: anything else.
    """
    if value is None or (isinstance(value, str) and value == "mix"):
        return "mix"
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        if value >= 0 and value % 1 == 0:
            return int(value)
    raise AudioFault(
        f"channel is {short_repr(value)}",
        'Give a channel\'s number from 0, or "mix" for the mean of all; rename the column if it means something else.',
    )


def _channel_number(channel: Any, channels: int, name: str) -> Channel:
    number = channel_of(channel)
    if channels > MOST_CHANNELS:
        raise AudioFault(f"{name} has {channels} channels", f"Its header is damaged, or give at most {MOST_CHANNELS}.")
    if number != "mix" and number >= channels:
        has = "one channel, 0" if channels == 1 else f"{channels} channels, 0 to {channels - 1}"
        raise AudioFault(f"{name} has {has}; the row asks for channel {number}", 'Correct the column, or write "mix".')
    return number


def _mono(clip: Clip, channel: Any, name: str) -> Clip:
    """One channel or the mean of all, at most 1 unless a lossy codec made it; what is no sound is an AudioFault."""
    number = _channel_number(channel, clip.shape.channels, name)
    if not len(clip.samples):
        raise AudioFault(f"{name} has no samples", "Remove the row, or record the clip again.")
    if number != "mix" and clip.samples.ndim == 2:
        clip = clip._replace(samples=np.ascontiguousarray(clip.samples[:, number]))
    _require_samples(clip, name)
    mono = clip.samples if clip.samples.ndim == 1 else clip.samples.mean(axis=1, dtype=np.float32)
    peak = float(np.abs(mono).max())
    if peak > 1 and not clip.lossy:
        say_once("floats beyond full scale", f"{name} peaks at {peak:.3g}, beyond full scale, and is scaled down to 1.")
        mono = mono / np.float32(peak)
    return clip._replace(samples=mono)


def _require_samples(clip: Clip, name: str) -> None:
    """Refuse numbers that are no samples, before the channels are mixed and the rate is changed: both spread them."""
    low, high = float(clip.samples.min()), float(clip.samples.max())  # NaN where one is
    if -LOUDEST_SAMPLE <= low and high <= LOUDEST_SAMPLE:
        return
    finite = np.isfinite(clip.samples)
    if not finite.all():
        raise AudioFault(
            f"{name} holds NaN or infinite samples: {_places(~finite, clip.sampling_rate)}",
            "Repair what wrote it, or remove the row.",
        )
    loud = np.abs(clip.samples) > LOUDEST_SAMPLE
    raise AudioFault(
        f"{name} holds samples of up to {max(-low, high):.3g} where full scale is 1: "
        f"{_places(loud, clip.sampling_rate)}",
        "Divide integers by their full scale (32768 for 16 bits) before they become floats; a few such samples are "
        "damage: copy the file again, or remove the row.",
    )


def _require_rate(rate: int, name: str) -> None:
    """Refuse a rate in a header that no recorder has, before one second is resampled to hours."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioFault(
            f"{name} says that it has {rate} samples a second, which no recording has",
            "Its header is damaged or wrong: copy the file again, or write the right rate into it.",
        )


def _places(bad: Any, rate: int) -> str:
    moments = bad if bad.ndim == 1 else np.any(bad, axis=1)
    return f"{int(moments.sum())} of {len(moments)}, the first at {int(moments.argmax()) / rate:.3f} s"


def _resample(mono: np.ndarray, original: int, target: int) -> np.ndarray:
    if original == target:
        return np.ascontiguousarray(mono)
    import librosa  # its first call loads numba, seconds that clips at the model's rate need not spend

    return librosa.resample(mono, orig_sr=original, target_sr=target, res_type="soxr_hq")


# ---- files ----


class _Check(NamedTuple):
    """`CheckSeconds` of one channel."""

    channel: Any
    check: CheckSeconds

    def __call__(self, shape: ClipShape, name: str) -> None:
        self.check(_seconds(shape, self.channel, name))


def _decode(source: Any, name: str, check: _Check | None = None) -> Clip:
    if holds_array(source):
        clip = array_clip(source)
        if check is not None:
            check(clip.shape, name)
        return clip
    with _opened(source) as file:
        container = inspect_container(file, name)
        if check is not None:
            check(_shape(file, container, name), name)
        if container.kind is None or container.kind.libsndfile:
            try:
                return libsndfile.decode(container, name)
            except libsndfile.CannotOpenError:
                pass  # a codec that only FFmpeg knows
        return ffmpeg.decode(container, name)


def _file_shape(source: Any, name: str) -> ClipShape:
    with _opened(source) as file:
        return _shape(file, inspect_container(file, name), name)


def _shape(file: BinaryIO, container: Container, name: str) -> ClipShape:
    """Length of a clip whose file is open."""
    if container.kind is None or container.kind.libsndfile:
        try:
            return libsndfile.clip_shape(container, name)
        except libsndfile.CannotOpenError:
            pass
    path = getattr(file, "name", None)
    if not isinstance(path, str) or not os.path.isfile(path):
        return ffmpeg.clip_shape(container, name)
    found = os.stat(path)
    return _decoded_shape(path, found.st_size, found.st_mtime_ns, name)


@lru_cache(maxsize=1 << 16)
def _decoded_shape(path: str, size: int, changed: int, name: str) -> ClipShape:
    """What FFmpeg has to decode for: checks, bounds and reports ask for a file's length, which is decoded once."""
    with open(path, "rb") as file:
        return ffmpeg.clip_shape(inspect_container(file, name), name)


@contextmanager
def _opened(source: Any) -> Iterator[BinaryIO]:
    content = entry_file(source)
    if isinstance(content, bytes):
        yield io.BytesIO(content)
        return
    name = entry_name(source)
    try:
        file = _open_path(content)
    except FileNotFoundError as error:
        raise AudioFault(
            f"{name} is missing", "Correct the path; in JSON files, paths are relative to the file's folder."
        ) from error
    except IsADirectoryError as error:
        raise AudioFault(f"{name} is a directory", "Give the path of one audio file.") from error
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioFault(f"{name} cannot be opened ({reason})", "Make it a readable regular file.") from error
    with file:
        yield file


def _open_path(path: str) -> BinaryIO:
    path = path.removeprefix("file://")
    if "://" in path:
        import fsspec  # only streamed data sets name remote files

        return fsspec.open(path, "rb").open()
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    if os.path.realpath(path).startswith(("/proc/", "/sys/")):
        raise OSError("a file of the system")  # regular by its type; reading some of them never ends
    return open(path, "rb")

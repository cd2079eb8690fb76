"""Clips in, mono float32 at the model's rate out; a clip that cannot be used is refused with a remedy.

A source is one of: a path or fsspec address; the bytes of an audio file; `{"path", "bytes"}` (bytes win);
`{"array", "sampling_rate"}`; a `data:audio/...;base64,` address.

An array is (samples,), or two-dimensional with the shorter axis as the channels: librosa returns
(channels, samples), soundfile (samples, channels), and a clip is longer than it has channels. A square array
is read as librosa's. Integers are divided by their full scale. A clip is silent when no sample of its mono
mix reaches `SILENCE_PEAK`. Floats may go beyond full scale, but not beyond `LOUDEST_SAMPLE`: such a sample is a damaged
exponent, or an integer that was stored as a float.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import soundfile

from audiorl.audio.containers import inspect_container
from audiorl.audio.sources import AudioFault, Clip, array_clip, entry_file, entry_name, holds_array

__all__ = ["LOUDEST_SAMPLE", "SILENCE_PEAK", "AudioFault", "audio_bytes", "audio_seconds", "load_audio"]

# -80 dBFS, three steps of 16-bit PCM: dithered silence stays below, the faintest usable speech is far above.
SILENCE_PEAK = 1e-4
# 40 dB above full scale: what recordings, resampling and gains reach stays far below. 16-bit integers as floats lie
# above, and so does a float whose exponent has its highest bit flipped.
LOUDEST_SAMPLE = 100.0
# libsndfile's length of a FLAC stream whose header leaves the length open.
_LENGTH_UNKNOWN = 2**62
# A damaged MP3 frame costs a decoder its neighbours too; encoders disagree by one frame on what they count.
_MP3_SLACK = 2 * 1152


def load_audio(source: Any, sampling_rate: int, *, allow_silence: bool = False) -> np.ndarray:
    """Decode one clip to mono at the given rate.

    Args:
        source: path, bytes, `{"path", "bytes"}`, `{"array", "sampling_rate"}` or `data:audio/...;base64,`.
        sampling_rate: Hz, > 0; the model's rate.
        allow_silence: take a silent clip, which to learn from is a fault, for example to measure what a model makes
            of it.

    Returns:
        (samples,) float32, nominally within [-1, 1].

    Raises:
        AudioFault: the clip is missing, empty, not audio, cut off, damaged, silent, not finite, beyond all loudness, or
            misshapen.
        ValueError: `sampling_rate` is not above zero.
    """
    if sampling_rate <= 0:
        raise ValueError(
            f"load_audio converts to the model's rate in Hz, which is above zero; got {sampling_rate}. "
            "Pass the feature extractor's sampling_rate, 16000 for most speech models."
        )
    name = entry_name(source)
    clip = array_clip(source) if holds_array(source) else _decode(source)
    _require_samples(clip, name)
    mono = clip.samples if clip.samples.ndim == 1 else clip.samples.mean(axis=1, dtype=np.float32)
    if not len(mono):
        raise AudioFault(f"{name} has no samples", "Remove the row, or record the clip again.")
    peak = float(np.abs(mono).max())
    if peak < SILENCE_PEAK and not allow_silence:
        raise AudioFault(
            f"{name} is silent (peak {peak:.1e}, below {SILENCE_PEAK:g})",
            "Remove the row; if a stereo file's channels cancel each other, store one of them.",
        )
    return _resample(mono, clip.sampling_rate, sampling_rate)


def audio_seconds(source: Any) -> float:
    """Length of one clip in seconds, from its header or shape alone.

    An MP3 whose length header is absent or wrong has its frames counted, not decoded.

    Args:
        source: whatever `load_audio` accepts.

    Raises:
        AudioFault: the clip is missing, empty, not audio, visibly cut off, or misshapen.
    """
    if holds_array(source):
        clip = array_clip(source)
        samples, rate = len(clip.samples), clip.sampling_rate
    else:
        with _opened(source) as file, _sound(file, entry_name(source)) as sound:
            samples, rate = sound.frames, sound.samplerate
    if not samples:
        raise AudioFault(f"{entry_name(source)} has no samples", "Remove the row, or record the clip again.")
    return samples / rate


def audio_bytes(source: Any) -> bytes:
    """A clip's file as it is, not decoded.

    Args:
        source: whatever `load_audio` accepts, arrays excepted.

    Raises:
        AudioFault: the clip is missing, or no file.
    """
    with _opened(source) as file:
        return file.read()


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
    if "://" in path:
        import fsspec  # only streamed data sets name remote files

        return fsspec.open(path, "rb").open()
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    return open(path, "rb")


@contextmanager
def _sound(file: BinaryIO, name: str) -> Iterator[soundfile.SoundFile]:
    if not file.seek(0, os.SEEK_END):
        raise AudioFault(f"{name} is empty (0 bytes)", "Copy or record the file again.")
    container = inspect_container(file)
    if container.cut_off:
        raise AudioFault(f"{name} is cut off: its header promises more than the file holds", "Copy the file again.")
    try:
        sound = soundfile.SoundFile(container.file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in .raw
        raise AudioFault(
            f"{name} is not audio that can be read, or its start is damaged",
            "Convert it to WAV, FLAC, MP3 or OGG, for example: ffmpeg -i clip.m4a clip.flac.",
        ) from error
    with sound:
        if sound.frames >= _LENGTH_UNKNOWN:
            raise AudioFault(
                f"{name} does not state its length (it was written to a pipe)",
                "Convert it once more, from file to file: ffmpeg -i clip.flac clip.wav.",
            )
        yield sound


def _decode(source: Any) -> Clip:
    name = entry_name(source)
    with _opened(source) as file, _sound(file, name) as sound:
        try:
            samples = sound.read(dtype="float32")
        except soundfile.LibsndfileError as error:
            raise AudioFault(
                f"{name} is cut off or damaged: decoding fails ({error.error_string.rstrip('.')})",
                "Copy the file again, or remove the row.",
            ) from error
        slack = _MP3_SLACK if sound.format == "MP3" else 0
        if len(samples) + slack < sound.frames:
            raise AudioFault(
                f"{name} is cut off or damaged: {len(samples)} of {sound.frames} promised samples decode",
                "Copy the file again, or remove the row.",
            )
        return Clip(samples, sound.samplerate)


def _require_samples(clip: Clip, name: str) -> None:
    """Refuse numbers that are no samples, before the channels are mixed and the rate is changed: both spread them."""
    if not clip.samples.size:
        return
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


def _places(bad: np.ndarray, rate: int) -> str:
    moments = bad.reshape(len(bad), -1).max(axis=1)
    return f"{int(moments.sum())} of {len(moments)}, the first at {int(moments.argmax()) / rate:.3f} s"


def _resample(mono: np.ndarray, original: int, target: int) -> np.ndarray:
    if original == target:
        return np.ascontiguousarray(mono)
    import librosa  # its first call loads numba, seconds that clips at the model's rate need not spend

    return librosa.resample(mono, orig_sr=original, target_sr=target, res_type="soxr_hq")

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

A clip may be a segment of a longer recording, in seconds. The recordings read last stay open: one is opened once for
segments that follow each other. Codecs that store every sample (WAV, FLAC, ...) are read from the segment's start on;
others (OGG, Opus, MP3, M4A, ...) are decoded once and kept while they are among the last.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
    is_number,
    say_once,
    short_repr,
)

Channel = int | Literal["mix"]

# -80 dBFS, three steps of 16-bit PCM: dithered silence stays below, the faintest usable speech is far above.
SILENCE_PEAK = 1e-4
# 40 dB above full scale: what recordings, resampling and gains reach stays far below. 16-bit integers as floats lie
# above, and a flipped high bit of a float's exponent makes 1e30 of the faintest sample.
LOUDEST_SAMPLE = 100.0


# A segment's end may be rounded, or count an MP3's padding. It may lie this many seconds, or this share of its length,
# after the end of its recording; then the recording's end is taken.
_END_SLACK, _END_SHARE = 0.1, 0.02
# Nanoseconds within which a file system may give two states of a file the same time
_SETTLED_NS = 2_000_000_000
# Recordings that stay open, and bytes of samples of those that had to be decoded.
_RECORDINGS, _KEPT_BYTES = 8, 1 << 28


class Segment(NamedTuple):
    """A part of a recording, in seconds from its start."""

    start: float
    end: float | None  # None: up to the recording's end

    def __str__(self) -> str:
        return f"from {self.start:g} s " + ("to its end" if self.end is None else f"to {self.end:g} s")


# Called with a clip's seconds before anything is decoded; raises to refuse it.
CheckSeconds = Callable[[float], None]


def load_audio(
    source: Any,
    sampling_rate: int,
    *,
    allow_silence: bool = False,
    channel: Channel | None = None,
    segment: tuple[float, float | None] | None = None,
    check: CheckSeconds | None = None,
) -> np.ndarray:
    """Decode one clip to mono at the given rate.

    Args:
        source: path, bytes, `{"path", "bytes"}`, `{"array", "sampling_rate"}` or `data:audio/...;base64,`.
        sampling_rate: Hz, > 0; the model's rate.
        allow_silence: take a silent clip, which to learn from is a fault, for example to measure what a model makes
            of it.
        channel: which of several channels, from 0, or "mix" (also None) for their mean.
        segment: start and end in seconds if the clip is a part of the source; an end of None is the source's.
        check: called with what `audio_seconds` says of the clip, before it is decoded and in the same opening of its
            file; what it raises is raised.

    Returns:
        (samples,) float32, nominally within [-1, 1].

    Raises:
        AudioFault: the clip is missing, empty, not audio, cut off, damaged, silent, not finite, beyond all loudness or
            misshapen, or has no such channel or segment.
        ValueError: `sampling_rate` is not above zero.
    """
    if sampling_rate <= 0:
        raise ValueError(
            f"load_audio converts to the model's rate in Hz, which is above zero; got {sampling_rate}. "
            "Pass the feature extractor's sampling_rate, 16000 for most speech models."
        )
    name = entry_name(source)
    asked = None if check is None else _Check(channel, check)
    if segment is None:
        clip = _mono(_decode(source, name, asked), channel, name)
    else:
        part = Segment(*segment)
        clip = _mono(_decode_segment(source, name, part, asked), channel, f"{name} {part}")
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
    """`load_audio` of a row's `audio`: of the channel that its `channel` column names, and of its `row_segment`."""
    return load_audio(
        row.get("audio"),
        sampling_rate,
        allow_silence=allow_silence,
        channel=row.get("channel"),
        segment=row_segment(row),
        check=check,
    )


def audio_seconds(
    source: Any, *, channel: Channel | None = None, segment: tuple[float, float | None] | None = None
) -> float:
    """Length of one clip in seconds, from its header or shape if that is exact to the sample.

    An MP3 whose length header is absent or wrong has its frames counted; what FFmpeg reads is decoded, and so is a FLAC
    stream of unknown length.

    Args:
        source, channel, segment: whatever `load_audio` accepts.

    Raises:
        AudioFault: the clip is missing, empty, not audio, of a codec that is not read, visibly cut off or misshapen, or
            has no such channel or segment.
    """
    name = entry_name(source)
    if segment is None:
        shape = array_clip(source).shape if holds_array(source) else _file_shape(source, name)
    else:
        shape = _recording_shape(source, name)
        first, last = _span(Segment(*segment), shape, name)
        shape = shape._replace(samples=last - first)
    return _seconds(shape, channel, name)


def _seconds(shape: ClipShape, channel: Any, name: str) -> float:
    if not shape.samples:
        raise AudioFault(f"{name} has no samples", "Remove the row, or record the clip again.")
    _channel_number(channel, shape.channels, name)
    _require_rate(shape.sampling_rate, name)
    return shape.samples / shape.sampling_rate


def row_audio_seconds(row: Mapping[str, Any]) -> float:
    """`audio_seconds` of a row's `audio`, which has to have the channel and the segment that the row names."""
    return audio_seconds(row.get("audio"), channel=row.get("channel"), segment=row_segment(row))


def audio_bytes(
    source: Any, *, channel: Channel | None = None, segment: tuple[float, float | None] | None = None
) -> bytes:
    """A clip's file as it is, not decoded; of one channel or a segment a WAV with 16-bit samples at the file's rate.

    Args:
        source, channel, segment: whatever `load_audio` accepts, arrays excepted.

    Raises:
        AudioFault: the clip is missing, or no file; of a part also whatever `load_audio` refuses but silence.
    """
    number = channel_of(channel)
    if number == "mix" and segment is None:
        with _opened(source) as file:
            return file.read()
    name = entry_name(source)
    clip = _decode(source, name) if segment is None else _decode_segment(source, name, Segment(*segment))
    clip = _mono(clip, number, name)
    wav = io.BytesIO()
    soundfile.write(wav, clip.samples, clip.sampling_rate, format="WAV", subtype="PCM_16")
    return wav.getvalue()


def row_audio_bytes(row: Mapping[str, Any]) -> bytes:
    """`audio_bytes` of a row's `audio`, its channel and its segment."""
    return audio_bytes(row.get("audio"), channel=row.get("channel"), segment=row_segment(row))


def row_audio_digest(row: Mapping[str, Any]) -> str:
    """What tells a row's clip from every other: the content of its file or array, its channel and its segment.

    Returns:
        64 hexadecimal digits. The same sound in another file format has others.

    Raises:
        AudioFault: there is no such file, or the entry is no clip.
    """
    source: Any = row.get("audio")
    if holds_array(source):
        clip = array_clip(source)
        content = hashlib.sha256(np.ascontiguousarray(clip.samples).data).hexdigest()
        content += f" {clip.samples.shape} {clip.sampling_rate}"
    else:
        content = _content_digest(source)
    part = (content, channel_of(row.get("channel")), row_segment(row))
    return hashlib.sha256(repr(part).encode()).hexdigest()


def _content_digest(source: Any) -> str:
    with _opened(source) as file:
        path = getattr(file, "name", None)
        if not isinstance(path, str) or not os.path.isfile(path):
            return hashlib.sha256(file.read()).hexdigest()
        found = os.fstat(file.fileno())
        return _file_digest(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _file_digest(path: str, size: int, changed: int) -> str:
    """Segments of one recording ask for the same file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- segments ----

_SECONDS_REMEDY = (
    "Give seconds from the recording's start. If the column means something else, rename it, for example with "
    "--columns source_{0}={0}."
)


def row_segment(row: Mapping[str, Any]) -> Segment | None:
    """The part of its recording that a row is: from `start` to `end`, or `duration` seconds from `offset` on.

    Either name of the start goes with either of the length. Without an end or a duration the segment reaches to the end
    of the recording. None where the row is its whole file: no start and no end, or a start of 0 alone. A duration
    alone makes no segment; it says how long the clip is.

    Raises:
        AudioFault: values that are no seconds, or that contradict each other.
    """
    given = {name: row[name] for name in ("start", "offset", "end") if row.get(name) is not None}
    if not given:
        return None
    for name, value in given.items():
        if not is_number(value) or value < 0:
            raise AudioFault(
                f"{name} is {short_repr(value)} ({type(value).__name__}), not seconds of a recording",
                _SECONDS_REMEDY.format(name),
            )
    start, offset = given.get("start"), given.get("offset")
    if start is not None and offset is not None and start != offset:
        raise AudioFault(
            f"the column start says that the segment starts at {start:g} s, the column offset says {offset:g} s",
            "Keep the column that is right; rename the other, for example with --columns source_start=start.",
        )
    begin = float(start if start is not None else offset or 0.0)
    duration, end = row.get("duration"), given.get("end")
    if end is None and duration is not None and is_number(duration) and duration > 0:
        end = begin + duration
    if end is None and begin == 0:
        return None
    if end is not None and end <= begin:
        raise AudioFault(
            f"the segment ends at {end:g} s, not after its start at {begin:g} s",
            "Correct start and end, which are seconds from the recording's start, or remove the row.",
        )
    return Segment(begin, None if end is None else float(end))


def _span(segment: Segment, shape: ClipShape, name: str) -> tuple[int, int]:
    """The segment's first sample, and the one behind its last."""
    _require_rate(shape.sampling_rate, name)
    seconds = shape.samples / shape.sampling_rate
    first = round(segment.start * shape.sampling_rate)
    last = shape.samples if segment.end is None else round(segment.end * shape.sampling_rate)
    if first < shape.samples < last and _is_rounded(segment, seconds):
        last = shape.samples
    if not 0 <= first < last <= shape.samples:
        raise AudioFault(
            f"the segment {segment} does not lie inside {name}, which is {seconds:.2f} s long",
            "Correct offset and duration, or start and end: seconds from the recording's start. If the clip is cut "
            "already, drop or rename these columns, for example with --columns source_start=start.",
        )
    return first, last


def _is_rounded(segment: Segment, seconds: float) -> bool:
    """Whether an end behind the recording's is that end, rounded; from a start of 0, whole seconds may be."""
    length, left = (segment.end or seconds) - segment.start, seconds - segment.start
    off = length - left
    return off <= max(_END_SLACK, _END_SHARE * left) or (segment.start == 0 and length == round(length) and off < 1)


class _Recording:
    """An open recording of which segments are read; where its codec cannot seek, its samples."""

    def __init__(self, source: Any, name: str):
        self._files = ExitStack()
        self._samples: np.ndarray | None = None
        try:
            container = inspect_container(self._files.enter_context(_opened(source)), name)
            self._sound = libsndfile.open_for_seeking(container)
            if self._sound is None:
                clip = _decoded(container, name)
                self.shape, self._samples, self._lossy = clip.shape, clip.samples, clip.lossy
                self._files.close()
            else:
                self.shape = ClipShape(self._sound.frames, self._sound.samplerate, self._sound.channels)
        except BaseException:
            self._files.close()
            raise

    @property
    def kept_bytes(self) -> int:
        return 0 if self._samples is None else self._samples.nbytes

    def read(self, first: int, last: int, name: str) -> Clip:
        if self._samples is not None:
            return Clip(self._samples[first:last], self.shape.sampling_rate, self._lossy)
        return Clip(libsndfile.read_span(self._sound, first, last, name), self.shape.sampling_rate)

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._files.close()


class _Recordings:
    """The recordings of the last segments. A process that was forked opens its own: a file has one position."""

    def __init__(self) -> None:
        self._open: OrderedDict[Any, _Recording] = OrderedDict()
        self._decoded: set[Any] = set()
        self.lock = threading.RLock()

    def get(self, key: Any, source: Any, name: str) -> _Recording:
        """To be called, and its result read, under the lock."""
        if key not in self._open:
            self._open[key] = _Recording(source, name)
            if self._open[key].kept_bytes:
                if key in self._decoded:
                    say_once(
                        "recordings decoded again",
                        f"{name} was decoded as a whole once more for another segment: its codec cannot be read "
                        "from the middle. Convert it to FLAC, or sort the rows by recording.",
                    )
                self._decoded.add(key)
        self._open.move_to_end(key)
        while len(self._open) > 1 and (len(self._open) > _RECORDINGS or self._bytes() > _KEPT_BYTES):
            self._open.popitem(last=False)[1].close()
        return self._open[key]

    def _bytes(self) -> int:
        return sum(recording.kept_bytes for recording in self._open.values())

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def forked(self) -> None:
        self.lock = threading.RLock()
        self.close()


_recordings = _Recordings()
atexit.register(_recordings.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recordings.forked)


def _decode_segment(source: Any, name: str, segment: Segment, check: _Check | None = None) -> Clip:
    if holds_array(source):
        clip = array_clip(source)
        first, last = _checked_span(segment, clip.shape, name, check)
        return clip._replace(samples=clip.samples[first:last])
    content = entry_file(source)
    if isinstance(content, bytes):  # a file of its own, with nothing to keep open
        recording = _Recording(content, name)
        try:
            return recording.read(*_checked_span(segment, recording.shape, name, check), name)
        finally:
            recording.close()
    with _recordings.lock:
        recording = _recordings.get((content, _stamp(content)), source, name)
        return recording.read(*_checked_span(segment, recording.shape, name, check), name)


def _checked_span(segment: Segment, shape: ClipShape, name: str, check: _Check | None) -> tuple[int, int]:
    first, last = _span(segment, shape, name)
    if check is not None:
        check(shape._replace(samples=last - first), name)
    return first, last


def recording_shape(source: Any) -> ClipShape:
    """Samples, rate and channels of a whole recording, from its header; see `audio_seconds`."""
    return _recording_shape(source, entry_name(source))


def _recording_shape(source: Any, name: str) -> ClipShape:
    """The shape of a recording, whose file is opened once for all its segments."""
    if holds_array(source):
        return array_clip(source).shape
    content = entry_file(source)
    stamp = None if isinstance(content, bytes) else _stamp(content)
    if stamp is None or isinstance(content, bytes):
        return _file_shape(source, name)
    with _recordings.lock:
        return _known_shape(content, stamp, name)


@lru_cache(maxsize=1 << 16)
def _known_shape(path: str, stamp: tuple[int, int], name: str) -> ClipShape:
    return _file_shape(path, name)


def _stamp(path: str) -> tuple[int, int] | None:
    """By which a file is known again, size and time of its last change; None of what is no file here."""
    try:
        found = os.stat(path.removeprefix("file://"))
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


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
        raise AudioFault(
            f"{name} has {channels} channels",
            f"Its header may be damaged; a file may have at most {MOST_CHANNELS} channels.",
        )
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
            "Repair the program that wrote it, or remove the row.",
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
        return _decoded(container, name)


def _decoded(container: Container, name: str) -> Clip:
    if container.kind is None or container.kind.libsndfile:
        try:
            return libsndfile.decode(container, name)
        except libsndfile.CannotOpenError:
            pass  # a codec that only FFmpeg knows
    return ffmpeg.decode(container, name)


def _file_shape(source: Any, name: str) -> ClipShape:
    """Length of a clip; bounds, checks and the order of batches ask for it, and each file is opened once for all."""
    content = entry_file(source)
    if isinstance(content, str) and (state := _state_of(content)) is not None:
        return _settled_shape(content, state, name)
    with _opened(source) as file:
        return _shape(file, inspect_container(file, name), name)


def _state_of(path: str) -> tuple[int, ...] | None:
    """Size and times of a file; None where it is none, or may change again without another time."""
    try:
        found = os.stat(path.removeprefix("file://"))
    except (OSError, ValueError):
        return None
    latest = max(found.st_mtime_ns, found.st_ctime_ns)
    settled = latest < time.time_ns() - _SETTLED_NS
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if settled else None


@lru_cache(maxsize=1 << 16)
def _settled_shape(path: str, state: tuple[int, ...], name: str) -> ClipShape:
    with _opened(path) as file:
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

"""Files that phones, browsers and meetings leave (M4A, WebM, AMR, ...), decoded by FFmpeg in PyAV's wheel.

    pip install "audiorl[av]"

1. A file's bytes decide whether it is read here, never the installed packages. So rows are the same on every machine,
   or refused on one without the extra.
2. Only the demuxer of the file's kind is used, on the bytes at hand: a playlist or a reference to another file opens
   nothing.
3. The stream is FFmpeg's best audio stream; a file with several causes one warning. Priming samples at its start are
   removed as FFmpeg does. No silence is inserted if a stream starts late or has gaps.
4. A length is that of the decoded samples: what these containers state is rounded, estimated or absent. Where a
   container states it to the sample (MP4) or to the millisecond (Matroska), fewer are a cut file. A cut does not show
   where nothing is stated: WebM of a browser's recorder, AAC, AMR, AC-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from audiorl.audio.containers import Container, Kind
from audiorl.audio.sources import MOST_CHANNELS, AudioFault, Clip, ClipShape, say_once

EXTRA = 'pip install "audiorl[av]"'
# Containers whose stated length is written down, not estimated from a bitrate.
_STATED = ("mov", "matroska", "wv", "tta", "ape", "caf", "wav", "w64")
# Seconds by which a whole file may be shorter than stated: times in milliseconds, delays that are trimmed.
_SLACK = 0.12
_REMEDY = "Copy the file again, or remove the row."


def clip_shape(container: Container, name: str) -> ClipShape:
    """Length of a clip, decoded to count its samples.

    Raises:
        AudioFault: no PyAV, no audio in it, or a stream that does not decode.
    """
    samples, rate, channels = 0, 1, 1
    with _opened(container, name) as (kind, found, stream):
        for frame in _frames(kind, found, stream, name):
            samples, rate, channels = samples + frame.samples, frame.sample_rate, len(frame.layout.channels)
    return ClipShape(samples, rate, channels)


def decode(container: Container, name: str) -> Clip:
    """All samples of a clip; raises as `clip_shape`."""
    parts: list[np.ndarray] = []
    with _opened(container, name) as (kind, found, stream):
        resampler = _av(kind, name).AudioResampler(format="flt")  # keeps rate and channels
        for frame in _frames(kind, found, stream, name):
            rate, channels = _shape(frame)
            # one plane for all channels: of more than eight planes PyAV reads memory that is not the frame's
            parts += [part.to_ndarray().reshape(-1, channels) for part in resampler.resample(frame)]
        lossy = not stream.codec_context.name.startswith("pcm_")
    samples = np.concatenate(parts)
    return Clip(samples[:, 0] if samples.shape[1] == 1 else samples, rate, lossy)


def _av(kind: Kind, name: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise AudioFault(f"{name} is {kind.name}{_codec(kind)}", _converting(kind)) from error
    return av


@contextmanager
def _opened(container: Container, name: str) -> Iterator[tuple[Kind, Any, Any]]:
    kind = container.kind
    if kind is None or kind.demuxer is None:
        raise AudioFault(f"{name} is not audio that can be read, or its start is damaged", _converting(None))
    av = _av(kind, name)
    container.file.seek(0)
    try:
        with av.open(container.file, format=kind.demuxer, metadata_errors="replace") as found:
            stream = found.streams.best("audio") if found.streams.audio else None
            if stream is None:
                raise AudioFault(f"{name} is {kind.name} without sound", "Give the path of one.")
            if len(found.streams.audio) > 1:
                say_once(
                    "several audio streams",
                    f"{name} holds {len(found.streams.audio)} audio streams; number {stream.index} of its streams, "
                    "FFmpeg's best, is read.",
                )
            yield kind, found, stream
    except IndexError as error:  # of PyAV: a damaged file whose streams come and go
        raise AudioFault(f"{name} is {kind.name} whose streams are damaged", _REMEDY) from error
    except av.FFmpegError as error:
        raise AudioFault(
            f"{name} is {kind.name} that is cut off or damaged, or of a codec that FFmpeg does not know "
            f"({error.strerror})",
            _REMEDY,
        ) from error


def _frames(kind: Kind, found: Any, stream: Any, name: str) -> Iterator[Any]:
    """Decoded frames, at least one, all of one rate and layout, as many as the container promises."""
    samples, shape = 0, None
    for frame in found.decode(stream):
        shape = shape or _shape(frame)
        if _shape(frame) != shape or frame.is_corrupt:
            what = "is damaged" if frame.is_corrupt else "changes its rate or its channels"
            raise AudioFault(f"{name} {what} at {samples / frame.sample_rate:.3f} s", _REMEDY)
        if shape[1] > MOST_CHANNELS:
            raise AudioFault(f"{name} has {shape[1]} channels", f"Give at most {MOST_CHANNELS}.")
        samples += frame.samples
        yield frame
    if shape is None:
        raise AudioFault(f"{name} is cut off or damaged: no sample decodes", _REMEDY)
    seconds, stated = samples / shape[0], _stated_seconds(found, stream, kind)
    if stated is not None and seconds + _SLACK < stated:
        raise AudioFault(f"{name} is cut off or damaged: {seconds:.2f} of {stated:.2f} s decode", _REMEDY)


def _shape(frame: Any) -> tuple[int, int]:
    return frame.sample_rate, len(frame.layout.channels)


def _stated_seconds(found: Any, stream: Any, kind: Kind) -> float | None:
    if kind.demuxer not in _STATED:
        return None
    if stream.duration is not None:
        return float(stream.duration * Fraction(stream.time_base))
    alone = len(found.streams) == 1  # else it is the longest stream's, a video's for example
    return found.duration / 1e6 if alone and found.duration is not None else None


def _codec(kind: Kind) -> str:
    return " of a codec that libsndfile does not read, or its start is damaged" if kind.libsndfile else ""


def _converting(kind: Kind | None) -> str:
    extra = "" if kind is None else f"Install FFmpeg's decoders with: {EXTRA}. Or convert"
    return f"{extra or 'Convert'} it to WAV, FLAC, MP3 or OGG, for example: ffmpeg -i clip.m4a clip.flac."

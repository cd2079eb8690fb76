"""Files that libsndfile reads: which of them, how long they are, and their samples.

1. Files are read from the start in one go: some codecs of telephony cannot seek.
2. A container is read only if a missing end shows, in its structure (`containers`) or to libsndfile, or if it states no
   length at all.
3. A FLAC stream is read as one of unknown length: what its header leaves out shows then.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile

from audiorl.audio.containers import MP3, Container, checked_mp3
from audiorl.audio.sources import AudioFault, Clip, ClipShape, say_once

# libsndfile's length of a FLAC stream whose header leaves the length open.
_LENGTH_UNKNOWN = 2**62
# A damaged MP3 frame costs a decoder its neighbours too; encoders disagree by one frame on what they count.
_MP3_SLACK = 2 * 1152
_BLOCK = 1 << 16
# Most samples for which room is made because a header says so, an hour at 16 kHz; what says more is read in blocks.
_AT_ONCE = 1 << 26
# Longest block of a codec of telephony, in samples, and the one that libsndfile adds to it.
_LONGEST_CODEC_BLOCK = 4096
_REMEDY = "Copy the file again, or remove the row."

# libsndfile's formats that are read.
READ = (
    "WAV",
    "WAVEX",
    "RF64",
    "W64",
    "AIFF",
    "AU",
    "CAF",
    "FLAC",
    "OGG",
    "MP3",
    "NIST",
    "SVX",
    "HTK",
    "PVF",
    "IRCAM",
    "PAF",
)
# The others that it opens -> why they are not.
REFUSED = {
    **dict.fromkeys(("AVR", "MAT5", "MPC2K", "VOC", "XI"), "libsndfile does not notice when its end is missing"),
    "MAT4": "it holds matrices, and any of them may be the sound",
    "SDS": "libsndfile loses its last samples",
    "WVE": "its rate is not stated",
}
# Codecs that store every sample, so that reading may start at any.
_SEEKABLE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")


class CannotOpenError(Exception):
    """libsndfile does not know this kind of file, or its codec."""


class _Bytes:
    """A file for libsndfile: a seek to nowhere, which damaged headers ask for, leaves it where it is.

    An exception in the callback would be printed and not raised.
    """

    def __init__(self, file: Any):
        self._file = file
        self.tell, self.read, self.readinto = file.tell, file.read, file.readinto

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError, OSError):
            return self._file.tell()


class _Forward(soundfile.SoundFile):
    """A file that is read from its start to its end; soundfile seeks behind every read where it can."""

    def seekable(self) -> bool:
        return False


def clip_shape(container: Container, name: str) -> ClipShape:
    """Length of a clip from its header, of a FLAC stream without one by decoding.

    Raises:
        CannotOpenError: not a file for libsndfile.
        AudioFault: a container that is not read, or a stream without a length that does not decode.
    """
    with _opened(container, name) as sound:
        if sound.frames < _LENGTH_UNKNOWN:
            return ClipShape(_recorded(sound.frames, container, name), sound.samplerate, sound.channels)
        return ClipShape(sum(map(len, _blocks(sound, name))), sound.samplerate, sound.channels)


def decode(container: Container, name: str) -> Clip:
    """All samples of a clip.

    Raises:
        CannotOpenError: not a file for libsndfile.
        AudioFault: decoding fails, or gives another number of samples than the header says.
    """
    with _opened(container, name) as sound:
        promised, kind, lossy = sound.frames, sound.format, sound.subtype in _LOSSY
    if kind == "FLAC":
        container = Container(_of_unknown_length(container), container.kind)
    with _opened(container, name) as sound:
        if promised * sound.channels > _AT_ONCE:
            samples = np.concatenate([*_blocks(sound, name)])
        else:
            samples = _read(sound, promised, name)
        if promised < _LENGTH_UNKNOWN:
            _require_all(sound, len(samples), promised, name)
            samples = samples[: _recorded(promised, container, name)]
        if kind == "FLAC":
            _require_no_more(sound, container, len(samples), promised, name)
        return Clip(samples, sound.samplerate, lossy)


def open_for_seeking(container: Container) -> soundfile.SoundFile | None:
    """A file of which any part can be read without the parts before it; None if its codec does not allow that."""
    if (container.kind is not None and not container.kind.libsndfile) or container.samples is not None:
        return None
    container.file.seek(0)
    try:
        sound = soundfile.SoundFile(_Bytes(container.file))
    except soundfile.LibsndfileError:
        return None
    if sound.format in READ and sound.subtype in _SEEKABLE and sound.frames < _LENGTH_UNKNOWN:
        return sound
    sound.close()
    return None


def read_span(sound: soundfile.SoundFile, first: int, last: int, name: str) -> np.ndarray:
    """The samples from `first` to the one before `last` of a file from `open_for_seeking`.

    Raises:
        AudioFault: they do not decode.
    """
    try:
        sound.seek(first)
    except soundfile.LibsndfileError as error:
        raise AudioFault(f"{name} is cut off or damaged at {first / sound.samplerate:.3f} s", _REMEDY) from error
    samples = _read(sound, last - first, name)
    if len(samples) < last - first:
        raise AudioFault(f"{name} is cut off or damaged: {len(samples)} of {last - first} samples decode", _REMEDY)
    return samples


@contextmanager
def _opened(container: Container, name: str) -> Iterator[soundfile.SoundFile]:
    container.file.seek(0)
    try:
        sound = _Forward(_Bytes(container.file))
    except soundfile.LibsndfileError as error:
        raise CannotOpenError(str(error)) from error
    with sound:
        if sound.format not in READ:
            reason = REFUSED.get(sound.format, "it was not tried")
            raise AudioFault(
                f"{name} is {sound.format_info}, which is not read: {reason}",
                "Convert it to WAV or FLAC with the program that wrote it, or with sox.",
            )
        if sound.format == "MP3" and container.kind is not MP3:  # bytes that are no frame in front of the first one
            container = Container(checked_mp3(container.file, name), MP3)
        else:
            yield sound
            return
    with _opened(container, name) as sound:
        yield sound


def _recorded(frames: int, container: Container, name: str) -> int:
    """Samples without what fills the last block of a codec."""
    known = container.samples
    if known is None or frames == known:
        return frames
    if container.blocks and 0 <= frames - known <= _LONGEST_CODEC_BLOCK:
        return known
    say_once(
        "counts of samples",
        f"{name}: its header counts {known} samples, the file holds {frames}; all of them are read.",
    )
    return frames


def _read(sound: soundfile.SoundFile, frames: int, name: str) -> np.ndarray:
    try:
        return sound.read(frames, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise AudioFault(
            f"{name} is cut off or damaged: decoding fails ({error.error_string.rstrip('.')})", _REMEDY
        ) from error


def _blocks(sound: soundfile.SoundFile, name: str) -> Iterator[np.ndarray]:
    """All samples up to the end, at least one block, if an empty one."""
    while True:
        block = _read(sound, _BLOCK, name)
        yield block
        if len(block) < _BLOCK:
            return


def _require_all(sound: soundfile.SoundFile, found: int, promised: int, name: str) -> None:
    slack = _MP3_SLACK if sound.format == "MP3" else 0
    if found + slack < promised:
        raise AudioFault(f"{name} is cut off or damaged: {found} of {promised} promised samples decode", _REMEDY)


# ---- FLAC ----


def _of_unknown_length(container: Container) -> io.BytesIO:
    """The stream with a sample count of 0, which means unknown (RFC 9639, 8.2)."""
    container.file.seek(0)
    data = bytearray(container.file.read())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return io.BytesIO(bytes(data))


def _require_no_more(sound: soundfile.SoundFile, container: Container, found: int, promised: int, name: str) -> None:
    """Refuse a stream that goes on behind its stated end, or is followed by another one."""
    try:
        more = found > promised or len(sound.read(_BLOCK, dtype="float32"))
    except soundfile.LibsndfileError:  # no frame: a tag, or another stream's header
        container.file.seek(4)
        data = container.file.read()
        more = int(b"fLaC\0\0\0\x22" in data or b"fLaC\x80\0\0\x22" in data)
    if more:
        raise AudioFault(
            f"{name} holds sound after the {promised} samples that its header states",
            "Write it anew, for example: ffmpeg -i clip.flac whole.flac; or remove the row.",
        )

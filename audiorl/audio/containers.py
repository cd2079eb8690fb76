"""What libsndfile does not tell about WAV, Ogg and MP3 files: whether they are cut off, how long an MP3 is.

libsndfile shortens a cut WAV or Opus file without a word. It estimates the length of an MP3 without a length
header from the bitrate of the first frame and reads no further: a clip of variable bitrate that starts loud
is cut to less than half. So the containers are checked here by their own structure, without decoding.

Not seen: up to one frame (at most 72 ms) missing from the end of an MP3, and any cut of an MP3 without a
length header.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO, NamedTuple

# Sizes that a writer leaves when it cannot seek back to the header: the length is open, not wrong.
_OPEN_WAV_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_END_OF_STREAM = 4

_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44100, 48000, 32000)
_RATE_HALVINGS = {3: 0, 2: 1, 0: 2}  # by the version bits of MPEG 1, 2 and 2.5
_ID3V1_BYTES = 128
# Version, layer and sampling rate: what all frames of one clip share.
_SHARED_BITS = 0xFFFE0C00


class Container(NamedTuple):
    """A file to decode, and whether its own structure says that its end is missing."""

    file: BinaryIO
    cut_off: bool


def inspect_container(file: BinaryIO) -> Container:
    """Check the structure of an audio file; an MP3 whose stated length is absent or wrong gets the right one.

    Args:
        file: seekable; WAV, Ogg and MP3 are looked into, anything else is passed on.

    Returns:
        The file at its start, or for a mended MP3 a stream of the same frames behind a correct length header.
    """
    file.seek(0)
    head = file.read(12)
    container = Container(file, cut_off=False)
    if head.startswith(b"RIFF") and head[8:] == b"WAVE":
        container = Container(file, _wav_is_cut(file))
    elif head.startswith(b"OggS"):
        container = Container(file, _ogg_is_cut(file))
    elif head.startswith(b"ID3") or head[:1] == b"\xff":
        file.seek(0)
        container = _inspect_mp3(file)
    container.file.seek(0)
    return container


def _wav_is_cut(file: BinaryIO) -> bool:
    end = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= end:
        file.seek(position)
        chunk = file.read(8)
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return size not in _OPEN_WAV_SIZES and position + 8 + size > end
        position += 8 + size + size % 2
    return False


def _ogg_is_cut(file: BinaryIO) -> bool:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _LONGEST_OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    complete = len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    return not (complete and page[5] & _OGG_END_OF_STREAM)


class _Mp3Frame(NamedTuple):
    header: int
    bytes: int
    samples: int
    xing_offset: int  # where a length header lies in the first frame: behind the side information


def _mp3_frame(data: bytes, position: int) -> _Mp3Frame | None:
    """Parse a layer III frame header; source: ISO/IEC 11172-3, 2.4.1.3, and 13818-3, 2.4.2.3."""
    header = int.from_bytes(data[position : position + 4], "big")
    version, layer = header >> 19 & 3, header >> 17 & 3
    kbits, rate = header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:
        return None
    mpeg1, mono = version == 3, header >> 6 & 3 == 3
    samples = 1152 if mpeg1 else 576
    hertz = _MPEG1_RATES[rate] >> _RATE_HALVINGS[version]
    bits = 1000 * (_KBITS_MPEG1 if mpeg1 else _KBITS_MPEG2)[kbits]
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    return _Mp3Frame(header, samples // 8 * bits // hertz + (header >> 9 & 1), samples, 4 + side)


def _behind_id3(data: bytes, position: int) -> int:
    while data.startswith(b"ID3", position) and position + 10 <= len(data):
        high, upper, lower, low = data[position + 6 : position + 10]
        position += 10 + (high << 21 | upper << 14 | lower << 7 | low)
    return position


def _mp3_frames(data: bytes) -> tuple[_Mp3Frame | None, list[int]]:
    """The first frame and where all whole frames start, tags and damage between them left out."""
    first: _Mp3Frame | None = None
    starts: list[int] = []
    position, in_step = 0, False
    while 0 <= position <= len(data) - 4:
        position = _behind_id3(data, position)
        frame = _mp3_frame(data, position)
        if first and frame and (frame.header ^ first.header) & _SHARED_BITS:
            frame = None
        end = position + frame.bytes if frame else 0
        # Bytes that look like a header occur anywhere; outside the chain the next frame has to confirm it.
        if frame and end <= len(data) and (in_step or end == len(data) or _mp3_frame(data, end)):
            first = first or frame
            starts.append(position)
            position, in_step = end, True
        else:
            position, in_step = data.find(b"\xff", position + 1), False
    return first, starts


class _LengthTag(NamedTuple):
    present: bool
    frames: int  # 0: not stated
    bytes: int  # 0: not stated


def _length_tag(data: bytes, start: int, first: _Mp3Frame) -> _LengthTag:
    tag = data[start + first.xing_offset :][:16]
    if len(tag) < 16 or tag[:4] not in (b"Xing", b"Info"):
        return _LengthTag(False, 0, 0)
    frames, size = (int.from_bytes(tag[at : at + 4], "big") for at in (8, 12))
    return _LengthTag(True, frames if tag[7] & 1 else 0, size if tag[7] & 3 == 3 else 0)


def _inspect_mp3(file: BinaryIO) -> Container:
    data = file.read()
    start = _behind_id3(data, 0)
    first = _mp3_frame(data, start)
    # The usual file says its size in bytes, and has it: no need to walk through its frames.
    size = _length_tag(data, start, first).bytes if first else 0
    if size and len(data) - start - size in (0, _ID3V1_BYTES):
        return Container(file, cut_off=False)
    first, starts = _mp3_frames(data)
    if first is None:
        return Container(file, cut_off=False)
    tag = _length_tag(data, starts[0], first)
    counted = len(starts) - tag.present  # the frame of the tag holds no audio
    if tag.frames in (counted, counted + 1):  # some encoders count the tag's frame
        return Container(file, cut_off=False)
    if tag.frames > counted:
        return Container(file, cut_off=True)
    audio = data[starts[1] if tag.present else starts[0] :]
    return Container(io.BytesIO(_length_frame(first, counted) + audio), cut_off=False)


def _length_frame(first: _Mp3Frame, count: int) -> bytes:
    """A frame without audio that states how many frames follow, as encoders write it (the Xing tag)."""
    roomy, no_padding, no_checksum = 9 << 12, ~(1 << 9), 1 << 16
    header = first.header & ~(15 << 12) & no_padding | roomy | no_checksum
    start = header.to_bytes(4, "big")
    empty = _mp3_frame(start, 0)
    assert empty is not None  # the first frame was valid, and so is its header at another bitrate
    content = start.ljust(first.xing_offset, b"\0") + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return content.ljust(empty.bytes, b"\0")

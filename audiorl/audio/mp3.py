"""How long an MP3 is, and whether its end is missing: counted frame by frame, without decoding.

libsndfile estimates the length of an MP3 without a length header from the bitrate of the first frame and reads no
further: a clip of variable bitrate that starts loud is cut to less than half. Packages that read tags estimate it too
(mutagen says 1.67 s of the 8.1 s of such a clip, and the length of the first one of two that are joined).

Not seen: up to one frame (at most 72 ms) missing from the end of an MP3, and any cut of an MP3 without a length
header.
"""

from __future__ import annotations

import io
from typing import BinaryIO, NamedTuple

_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44100, 48000, 32000)
_RATE_HALVINGS = {3: 0, 2: 1, 0: 2}  # by the version bits of MPEG 1, 2 and 2.5
_ID3V1_BYTES = 128
# Version, layer and sampling rate: what all frames of one clip share.
_SHARED_BITS = 0xFFFE0C00


class _Mp3Frame(NamedTuple):
    header: int
    bytes: int
    samples: int
    xing_offset: int  # where a length header lies in the first frame: after the side information


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


def id3_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that a file's first ten bytes start, 0 for none; source: id3.org, ID3v2.4, 3.1."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    high, upper, lower, low = head[6:10]
    footer = 10 if head[5] & 0x10 else 0
    return 10 + (high << 21 | upper << 14 | lower << 7 | low) + footer


def _behind_id3(data: bytes, position: int) -> int:
    while size := id3_bytes(data[position : position + 10]):
        position += size
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


class InspectedMp3(NamedTuple):
    """An MP3 to decode, and whether its own structure says that its end is missing."""

    file: BinaryIO
    cut_off: bool
    more: tuple[int, int] | None = None  # frames that the header counts, and the more that there are


def inspect_mp3(file: BinaryIO) -> InspectedMp3:
    """Count the frames of an MP3 whose stated length is absent or wrong.

    Args:
        file: seekable; read from its start.

    Returns:
        The file at its start, or a stream of the same frames behind a correct length header.
    """
    file.seek(0)
    data = file.read()
    file.seek(0)
    first, starts = _mp3_frames(data)
    if first is None:
        return InspectedMp3(file, cut_off=False)
    tag = _length_tag(data, starts[0], first)
    counted = len(starts) - tag.present  # the frame of the tag holds no audio
    if tag.frames in (counted, counted + 1):  # some encoders count the tag's frame
        return InspectedMp3(file, cut_off=False)
    if tag.frames > counted:  # frames are missing: at the end, or damaged in the middle of a file that has its size
        whole = tag.bytes and len(data) - starts[0] - tag.bytes in (0, _ID3V1_BYTES)
        return InspectedMp3(file, cut_off=not whole)
    audio = data[starts[1] if tag.present else starts[0] :]
    more = (tag.frames, counted) if tag.frames else None
    return InspectedMp3(io.BytesIO(_length_frame(first, counted) + audio), False, more)


def _length_frame(first: _Mp3Frame, count: int) -> bytes:
    """A frame without audio that states how many frames follow, as encoders write it (the Xing tag)."""
    roomy, no_padding, no_checksum = 9 << 12, ~(1 << 9), 1 << 16
    header = first.header & ~(15 << 12) & no_padding | roomy | no_checksum
    start = header.to_bytes(4, "big")
    empty = _mp3_frame(start, 0)
    assert empty is not None  # the first frame was valid, and so is its header at another bitrate
    content = start.ljust(first.xing_offset, b"\0") + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return content.ljust(empty.bytes, b"\0")

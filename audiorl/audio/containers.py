"""What a file's first bytes and its own structure say: its kind, where its samples are, whether any are missing.

Decoders do not tell. libsndfile shortens a cut file without a word, takes an ID3 tag in front of a WAV off its end, and
reads the first of two joined Ogg streams; FFmpeg decodes what there is. So containers are checked here before
anything is decoded, and mended where it is plain what was meant:

1. an ID3v2 tag in front is taken off;
2. a size that a writer left open (0, or near 2^31 or 2^32: it wrote to a pipe) means "to the end of the file";
3. a size that exceeds the file by no more bytes than its header has, and 128 (a pad byte, the header counted in), is
   taken for a slip if what is there is whole frames, and told once;
4. any other size beyond the end is a cut file, and bytes behind the stated end that are no chunk, no tag and not zero
   are sound that the header leaves out: both are faults.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from audiorl.audio.mp3 import id3_bytes, inspect_mp3
from audiorl.audio.sources import AudioFault, say_once

_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_END_OF_STREAM = 4
# MP3 in a WAV, by the format tag of its header.
_MP3_IN_WAV = 0x55
# Longest header that a writer counts into the size of the samples.
_SLIP_BYTES = 128
# Bytes after the stated end that are too few to be sound: padding.
_TRAILING_BYTES = 8
_TRAILING_MARKS = (b"TAG", b"ID3", b"3DI", b"APETAGEX", b"LYRICS", b"LIST", b"id3 ", b"bext", b"iXML", b"_PMX", b"FLLR")
_CUT_REMEDY = "Copy the file again, or remove the row."


class Kind(NamedTuple):
    """A kind of audio file.

    Args:
        name: for messages.
        demuxer: FFmpeg's name of it, None where FFmpeg has none.
        libsndfile: whether libsndfile reads files of this kind, if it knows their codec.
        suffix: how their names end.
    """

    name: str
    demuxer: str | None
    libsndfile: bool
    suffix: str


WAV = Kind("WAV", "wav", True, ".wav")
_W64 = Kind("Wave64", "w64", True, ".w64")
_AIFF = Kind("AIFF", "aiff", True, ".aiff")
_SVX = Kind("IFF", "iff", True, ".iff")
_AU = Kind("AU", "au", True, ".au")
_CAF = Kind("CAF", "caf", True, ".caf")
_NIST = Kind("NIST Sphere", "nistsphere", True, ".sph")
_FLAC = Kind("FLAC", "flac", True, ".flac")
_OGG = Kind("Ogg", "ogg", True, ".ogg")
MP3 = Kind("MP3", None, True, ".mp3")
_MP4 = Kind("MP4, M4A, MOV or 3GP", "mov", False, ".m4a")
_MATROSKA = Kind("WebM or Matroska", "matroska", False, ".webm")
_AAC = Kind("AAC", "aac", False, ".aac")
_JOINED_OGG = Kind("Ogg with several streams, one behind the other", "ogg", False, ".ogg")

# offset, first bytes, kind; the first that fits
_KINDS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"RF64", WAV),
    (0, b"RIFX", WAV),
    (0, b"BW64", Kind("BW64", "wav", False, ".wav")),
    (0, b"riff\x2e\x91\xcf\x11", _W64),
    (0, b".snd", _AU),
    (0, b"caff", _CAF),
    (0, b"NIST_1A", _NIST),
    (0, b"fLaC", _FLAC),
    (0, b"OggS", _OGG),
    *((4, box, _MP4) for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    (0, b"\x1a\x45\xdf\xa3", _MATROSKA),
    (0, b"#!AMR", Kind("AMR", "amr", False, ".amr")),
    (0, b"FLV\x01", Kind("FLV", "flv", False, ".flv")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("WMA", "asf", False, ".wma")),
    (0, b"wvpk", Kind("WavPack", "wv", False, ".wv")),
    (0, b"MAC ", Kind("Monkey's Audio", "ape", False, ".ape")),
    (0, b"TTA1", Kind("True Audio", "tta", False, ".tta")),
    (0, b"\x00\x00\x01\xba", Kind("MPEG program stream", "mpeg", False, ".mpg")),
)

# Format tags of WAV codecs that write sample by sample: integers, floats, A-law, mu-law, and what says so further down.
_SAMPLE_CODECS = (1, 3, 6, 7, 0xFFFE)

_DOWNLOAD = "Download it again from an address that gives the file itself, or remove the row."
# offset, first bytes, what it is, what to do
_NO_AUDIO: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer", "Run: git lfs pull."),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it with gunzip or tar, and name the clip inside."),
    (0, b"PK\x03\x04", "a ZIP archive", "Unpack it, and name the clip inside."),
    (0, b"BZh", "a bzip2 archive", "Unpack it with bunzip2 or tar, and name the clip inside."),
    (0, b"\xfd7zXZ\x00", "an xz archive", "Unpack it with unxz or tar, and name the clip inside."),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it with unzstd, and name the clip inside."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, and name the clip inside."),
    (0, b"Rar!", "a RAR archive", "Unpack it, and name the clip inside."),
    (257, b"ustar", "a tar archive", "Unpack it, and name the clip inside."),
    (0, b"PAR1", "a Parquet file", "Load it with datasets.load_dataset, and pass the rows."),
    (0, b"\x93NUMPY", "a NumPy file", 'Load it with numpy.load, and give {"array", "sampling_rate"}.'),
    (0, b"MThd", "a MIDI file, which holds notes", "Render it to WAV, or remove the row."),
    (0, b"%PDF", "a PDF document", "Give the path of the clip."),
    (0, b"\x89PNG", "a PNG image", "Give the path of the clip."),
    (0, b"\xff\xd8\xff", "a JPEG image", "Give the path of the clip."),
    (0, b"GIF8", "a GIF image", "Give the path of the clip."),
    (0, b"\xff\xfe", "a text in UTF-16", "Give the path of the clip."),
)
# how a text starts, in lower case, what it is
_TEXTS = (
    (b"<!doctype html", "an HTML page, as servers send in place of a file"),
    (b"<html", "an HTML page, as servers send in place of a file"),
    (b"<?xml", "an XML document, as servers send in place of a file"),
    (b"<error", "an XML document, as servers send in place of a file"),
    (b"{", "a JSON text, as servers send in place of a file"),
    (b"#extm3u", "a playlist, which names clips and holds none"),
)


_Order = Literal["little", "big"]


class Container(NamedTuple):
    """A file to decode.

    Args:
        file: at its start.
        kind: None where nothing is known of it.
        samples: how many there are of each channel, as the header says beside the size of the samples; None where it
            does not.
        blocks: whether blocks of a codec hold more than were recorded, so that `samples` says where they end.
    """

    file: BinaryIO
    kind: Kind | None
    samples: int | None = None
    blocks: bool = False


def inspect_container(file: BinaryIO, name: str) -> Container:
    """Find out what a file is, and check that it holds all that its structure promises.

    Args:
        file: seekable.
        name: how messages call it.

    Returns:
        The file, or a mended copy of it in memory.

    Raises:
        AudioFault: the file is empty, no audio, cut off, or holds more than its header says.
    """
    if not file.seek(0, os.SEEK_END):
        raise AudioFault(f"{name} is empty (0 bytes)", "Download, copy or record it again.")
    file = _without_tag(file, name)
    head = _read_at(file, 0, 512)
    kind = _kind_of(head)
    if kind is None:
        _refuse_other_files(file, head, name)
    elif kind is MP3:
        file = checked_mp3(file, name)
    elif kind is WAV and _payload_is_mp3(file):
        return _mp3_in_wav(file, name)
    elif kind is _OGG:
        kind = _checked_ogg(file, name)
    elif kind in _EXTENTS:
        file = _checked_extent(file, kind, name)
    elif kind is _MP4:
        _check_sample_tables(file, name)
    samples, blocks = _recorded(file, kind) if kind in _LAYOUTS else (None, False)
    file.seek(0)
    return Container(file, kind, samples, blocks)


def audio_suffix(content: bytes) -> str:
    """How the name of a file with these bytes ends, `.wav` for example; "" where they do not tell."""
    start = 0
    while size := id3_bytes(content[start : start + 10]):
        start += size
    kind = _kind_of(content[start : start + 512])
    return "" if kind is None else kind.suffix


def cut_off(name: str, detail: str = "") -> AudioFault:
    """The fault of a file whose end is missing."""
    return AudioFault(f"{name} is cut off: its header promises more than the file holds{detail}", _CUT_REMEDY)


# ---- what it is ----


def _read_at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _without_tag(file: BinaryIO, name: str) -> BinaryIO:
    """The file behind its ID3v2 tags: libsndfile skips a tag, and loses as many bytes at the end."""
    position, end = 0, file.seek(0, os.SEEK_END)
    while size := id3_bytes(_read_at(file, position, 10)):
        position += size
    if not position:
        return file
    if position >= end:
        raise AudioFault(f"{name} is cut off within the ID3 tag at its start", _CUT_REMEDY)
    file.seek(position)
    return io.BytesIO(file.read())


def _kind_of(head: bytes) -> Kind | None:
    if head.startswith(b"RIFF"):
        return WAV if head[8:12] == b"WAVE" else Kind("AVI", "avi", False, ".avi") if head[8:12] == b"AVI " else None
    if head.startswith(b"FORM"):
        return {b"AIFF": _AIFF, b"AIFC": _AIFF, b"8SVX": _SVX, b"16SV": _SVX}.get(head[8:12])
    for offset, mark, kind in _KINDS:
        if head.startswith(mark, offset):
            return kind
    if head.startswith(b"\x0b\x77") and len(head) > 5:  # ATSC A/52, 5.4.2.1: the syntax's version
        return Kind("E-AC-3", "eac3", False, ".eac3") if head[5] >> 3 > 10 else Kind("AC-3", "ac3", False, ".ac3")
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return Kind("MPEG transport stream", "mpegts", False, ".ts")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFE:  # not a text in UTF-16
        return _AAC if head[1] & 0xF6 == 0xF0 else MP3 if head[1] & 0x06 else None
    return None


def _refuse_other_files(file: BinaryIO, head: bytes, name: str) -> None:
    """Call a file what it is, where its first bytes tell."""
    for offset, mark, what, remedy in _NO_AUDIO:
        if head.startswith(mark, offset):
            raise AudioFault(f"{name} is not audio but {what}", remedy)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    text = not any(byte < 32 and byte not in b"\t\n\r\f" for byte in start)
    for mark, what in _TEXTS:
        if text and start.lower().startswith(mark):
            raise AudioFault(f"{name} is not audio but {what}", _DOWNLOAD)
    file.seek(0)
    if not head.strip(b"\0") and not any(piece.strip(b"\0") for piece in iter(lambda: file.read(1 << 20), b"")):
        raise AudioFault(f"{name} holds only zero bytes", "Its copy was not finished: copy or download it again.")


# ---- MP3 and Ogg ----


def checked_mp3(file: BinaryIO, name: str) -> BinaryIO:
    """An MP3 that states its right length; raises AudioFault where its end is missing."""
    found = inspect_mp3(file)
    if found.cut_off:
        raise cut_off(name)
    if found.more is not None:
        stated, counted = found.more
        say_once(
            "counts of frames",
            f"{name}: its header counts {stated} frames of MP3, but the file holds {counted}; all of them are read.",
        )
    return found.file


def _payload_is_mp3(file: BinaryIO) -> bool:
    chunk = next((chunk for chunk in _chunks(file, _RIFF) if chunk.name == b"fmt "), None)
    return chunk is not None and int.from_bytes(_read_at(file, chunk.start, 2), "little") == _MP3_IN_WAV


def _mp3_in_wav(file: BinaryIO, name: str) -> Container:
    """The MP3 alone: libsndfile guesses its length inside a WAV."""
    extent = _chunked_extent(file, WAV)
    if extent is not None:
        _checked_extent(file, WAV, name)
        file.seek(extent.start)
        file = io.BytesIO(file.read() if _is_open(extent.stated) else file.read(extent.stated))
    return Container(checked_mp3(file, name), MP3)


def _checked_ogg(file: BinaryIO, name: str) -> Kind:
    """The kind of an Ogg file: several streams one behind the other are not libsndfile's, which reads the first."""
    end = file.seek(0, os.SEEK_END)
    tail = _read_at(file, max(0, end - _LONGEST_OGG_PAGE), _LONGEST_OGG_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        raise cut_off(name)
    complete = len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    if not (complete and page[5] & _OGG_END_OF_STREAM):
        raise cut_off(name)
    if _ogg_starts_again(file):
        return _JOINED_OGG
    _check_ogg_end(file, end - len(page), page, name)
    return _OGG


def _check_ogg_end(file: BinaryIO, start: int, page: bytes, name: str) -> None:
    """A last page may end the sound within itself (RFC 3533, 6), not within the page of its stream before it."""
    before = max(0, start - 2 * _LONGEST_OGG_PAGE)
    data = _read_at(file, before, start - before)
    at = data.rfind(b"OggS\0")
    while at >= 0 and data[at + 14 : at + 18] != page[14:18]:
        at = data.rfind(b"OggS\0", 0, at)
    last, earlier = (int.from_bytes(one[6:14], "little", signed=True) for one in (page, data[at:] if at >= 0 else b""))
    if at >= 0 and 0 <= last < earlier:
        raise AudioFault(
            f"{name} holds sound after the end that its last page states ({last} samples, the page before it ends at "
            f"{earlier})",
            "Write it anew, for example: ffmpeg -i clip.ogg whole.flac; or remove the row.",
        )


def _ogg_starts_again(file: BinaryIO) -> bool:
    """Whether a stream starts behind pages of another one; streams side by side all start in front (RFC 3533, 4)."""
    data = _read_at(file, 0, file.seek(0, os.SEEK_END))
    before, position = 0, data.find(b"OggS\0", 1)
    while position > 0:
        flags, number = data[position + 5 : position + 6], data[position + 18 : position + 22]
        if flags and flags[0] & 2 and number == bytes(4) and not data[before + 5] & 2:
            return True
        before, position = position, data.find(b"OggS\0", position + 1)
    return False


# ---- boxes: MP4 and its relatives ----

# Boxes that hold boxes, on the way to the tables; and where a table counts its samples (ISO/IEC 14496-12).
_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_TABLES = {b"stsz": 8, b"stz2": 8, b"trun": 4}


def _check_sample_tables(file: BinaryIO, name: str) -> None:
    """Refuse a table of more samples than the file has bytes: FFmpeg makes room for all of them, whatever they are."""
    end = file.seek(0, os.SEEK_END)
    parts = [(0, end)]
    while parts:
        position, stop = parts.pop()
        while position + 8 <= stop:
            head = _read_at(file, position, 16)
            size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], position + 8
            if size == 1:
                size, start = int.from_bytes(head[8:16], "big"), position + 16
            size = size or stop - position  # 0: to the end
            if kind in _BOXES:
                parts.append((start, min(position + size, stop)))
            elif kind in _TABLES and _number(file, start + _TABLES[kind], 4, "big") > end:
                raise AudioFault(f"{name} is damaged: it counts more samples than it has bytes", _CUT_REMEDY)
            if size < 8:
                break
            position += size


# ---- chunks: RIFF and its relatives ----


class _Layout(NamedTuple):
    """How a family of containers writes its chunks."""

    first: int  # where the first chunk starts
    name_bytes: int
    size_bytes: int
    order: _Order  # of the bytes in a size
    align: int
    inclusive: bool  # whether a size counts the chunk's header
    sound: bytes  # how the name of the chunk with the samples starts


_RIFF = _Layout(12, 4, 4, "little", 2, False, b"data")
_LAYOUTS = {
    WAV: _RIFF,
    _W64: _Layout(40, 16, 8, "little", 8, True, b"data"),
    _AIFF: _Layout(12, 4, 4, "big", 2, False, b"SSND"),
    _SVX: _Layout(12, 4, 4, "big", 2, False, b"BODY"),
    _CAF: _Layout(8, 4, 8, "big", 1, False, b"data"),
}


class _Chunk(NamedTuple):
    name: bytes
    size: int  # of its content, as stated
    start: int  # of its content
    size_at: int


def _chunks(file: BinaryIO, layout: _Layout, position: int | None = None) -> Iterator[_Chunk]:
    end = file.seek(0, os.SEEK_END)
    position = layout.first if position is None else position
    header = layout.name_bytes + layout.size_bytes
    while position + header <= end:
        found = _read_at(file, position, header)
        size = int.from_bytes(found[layout.name_bytes :], layout.order) - header * layout.inclusive
        yield _Chunk(found[:4], size, position + header, position + layout.name_bytes)
        if size < 0:
            return
        position += header + size
        position += -position % layout.align


class _Block(NamedTuple):
    bytes: int
    samples: int


# Codecs of AIFF-C that write blocks, of each channel one, and are counted in samples; IMA's are counted in blocks.
_AIFC_BLOCKS = {b"GSM ": _Block(33, 160)}
_AIFC_COUNTED_IN_BLOCKS = b"ima4"


class _Extent(NamedTuple):
    """Where a container's samples are, as its header says."""

    start: int
    stated: int  # bytes
    step: int  # bytes of a frame, or of a block of frames; 1 where it is not known
    size_at: int | None  # where the size stands, None where it need not be mended
    size_bytes: int = 4
    order: _Order = "little"
    extra: int = 0  # what the size counts besides the samples
    layout: _Layout | None = None  # how chunks after the samples are written
    promised: int = 0  # bytes that the header counts in another place, where it is certain which of both is meant


def _chunked_extent(file: BinaryIO, kind: Kind) -> _Extent | None:
    layout = _LAYOUTS[kind]
    if kind is WAV and _read_at(file, 0, 4) == b"RIFX":
        layout = layout._replace(order="big")
    found: dict[bytes, _Chunk] = {}
    for chunk in _chunks(file, layout):
        found.setdefault(chunk.name, chunk)
        if chunk.name == layout.sound:
            break
    sound = found.get(layout.sound)
    if sound is None:
        return None
    extent = _Extent(
        sound.start, sound.size, _step(file, kind, found, layout), sound.size_at, layout.size_bytes, layout.order
    )._replace(layout=layout)
    if kind is _W64:
        extent = extent._replace(extra=24)
    elif kind is _AIFF:
        extent = _aiff_extent(file, extent, sound, found.get(b"COMM"))
    elif kind is _CAF:  # a size of -1: to the end of the file
        extent = extent._replace(
            start=sound.start + 4, stated=sound.size - 4 if sound.size != 2**64 - 1 else 0, extra=4
        )
    elif kind is WAV and sound.size == 0xFFFFFFFF and b"ds64" in found:  # EBU Tech 3306: the size stands elsewhere
        at = found[b"ds64"].start + 8
        size = int.from_bytes(_read_at(file, at, 8), "little")
        extent = extent._replace(stated=size, size_at=at, size_bytes=8)
    return extent


def _aiff_extent(file: BinaryIO, extent: _Extent, sound: _Chunk, comm: _Chunk | None) -> _Extent:
    """The samples that COMM counts, where they lie behind a space of the SSND chunk."""
    skipped = 8 + int.from_bytes(_read_at(file, sound.start, 4), "big")
    stated, promised = max(0, sound.size - skipped), 0
    frames = 0 if comm is None else _number(file, comm.start + 2, 4, "big")
    if comm is not None and frames and extent.step > 1:
        promised = frames * extent.step * (not _is_open(sound.size))
        stated = min(stated, frames * extent.step)
    elif comm is not None and (block := _AIFC_BLOCKS.get(_read_at(file, comm.start + 18, 4))):
        blocks = math.ceil(frames / block.samples)
        stated = min(stated, blocks * block.bytes * _number(file, comm.start, 2, "big"))
    return extent._replace(start=sound.start + skipped, stated=stated, extra=skipped, promised=promised)


def _step(file: BinaryIO, kind: Kind, found: dict[bytes, _Chunk], layout: _Layout) -> int:
    """Bytes of one frame or block."""
    order = layout.order
    if kind in (WAV, _W64) and b"fmt " in found:
        return _number(file, found[b"fmt "].start + 12, 2, order) or 1
    if kind is _AIFF and b"COMM" in found:
        comm = found[b"COMM"]
        plain = comm.size <= 18 or _read_at(file, comm.start + 18, 4) in (b"NONE", b"twos", b"sowt", b"fl32", b"fl64")
        bits = _number(file, comm.start + 6, 2, order)
        return (_number(file, comm.start, 2, order) * math.ceil(bits / 8) or 1) if plain else 1
    if kind is _CAF and b"desc" in found:
        return _number(file, found[b"desc"].start + 16, 4, order) or 1
    return 1


# Where containers count their samples beside the size of the chunk that holds them: chunk, place in it, bytes.
_COUNTS = {
    WAV: (b"fact", 0, 4),
    _W64: (b"fact", 0, 4),
    _AIFF: (b"COMM", 2, 4),
    _SVX: (b"VHDR", 0, 4),
    _CAF: (b"pakt", 8, 8),
}


def _recorded(file: BinaryIO, kind: Kind) -> tuple[int | None, bool]:
    """The number of samples that a header counts, None for none, and whether the codec writes blocks."""
    layout = _LAYOUTS[kind]
    head = _read_at(file, 0, 4)
    order: _Order = "big" if head == b"RIFX" else layout.order
    found: dict[bytes, _Chunk] = {}
    for chunk in _chunks(file, layout._replace(order=order)):
        found.setdefault(chunk.name, chunk)
    name, at, count = _COUNTS[kind]
    if head == b"RF64" and b"ds64" in found:  # EBU Tech 3306: sizes of file and samples, then their number
        name, at, count = b"ds64", 16, 8
    if name not in found or found[name].size < at + count:
        return None, False
    if kind is _AIFF and _read_at(file, found[name].start + 18, 4) == _AIFC_COUNTED_IN_BLOCKS:
        return None, False
    samples = _number(file, found[name].start + at, count, order)
    blocks = kind in (WAV, _W64) and b"fmt " in found
    blocks = blocks and _number(file, found[b"fmt "].start, 2, order) not in _SAMPLE_CODECS
    return (None if _is_open(samples) else samples), blocks


def _number(file: BinaryIO, position: int, count: int, order: _Order) -> int:
    return int.from_bytes(_read_at(file, position, count), order)


# ---- other headers ----

# Bytes of one sample, by the encoding of an AU header.
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def _au_extent(file: BinaryIO, kind: Kind) -> _Extent:
    start, size, encoding, _, channels = (_number(file, 4 * i, 4, "big") for i in range(1, 6))
    return _Extent(start, size, _AU_BYTES.get(encoding, 0) * channels or 1, 8, 4, "big")


def _nist_extent(file: BinaryIO, kind: Kind) -> _Extent | None:
    """Source: the header's lines are `name -type value`; the second line of the file is the header's length."""
    head = _read_at(file, 0, 1024).split(b"\n")
    fields = {}
    for line in head:
        words = line.split()
        if len(words) >= 3 and words[1] == b"-i" and words[2].isdigit():
            fields[words[0]] = int(words[2])
    if len(head) < 2 or not head[1].strip().isdigit() or b"sample_count" not in fields:
        return None
    step = fields.get(b"channel_count", 1) * fields.get(b"sample_n_bytes", 1)
    return _Extent(int(head[1]), fields[b"sample_count"] * step, step or 1, None)


_EXTENTS = {**dict.fromkeys(_LAYOUTS, _chunked_extent), _AU: _au_extent, _NIST: _nist_extent}


# ---- what is stated against what is there ----


def _is_open(size: int) -> bool:
    """Whether a size is one that writers to a pipe leave: 0, or one near 2^31, 2^32 or 2^64."""
    return size == 0 or 0x7FFF0000 <= size <= 0x80000000 or 0xFFFF0000 <= size <= 0xFFFFFFFF or size >= 2**62


def _checked_extent(file: BinaryIO, kind: Kind, name: str) -> BinaryIO:
    """The file, its size mended where it was left open."""
    extent = _EXTENTS[kind](file, kind)
    if extent is None:
        return file
    held = file.seek(0, os.SEEK_END) - extent.start
    if held > 0 and extent.stated != held and _is_open(extent.stated):
        if extent.stated == 0 and not _sound_behind(file, extent):
            return file
        # libsndfile reads a plain WAV with such a size to the end of the file
        return file if kind is WAV and extent.size_bytes == 4 and extent.stated else _mended(file, extent, held)
    lacking = max(extent.stated - held, extent.promised - extent.stated)
    if lacking > 0:
        if lacking > min(extent.start, _SLIP_BYTES) or held <= 0 or min(held, extent.stated) % extent.step:
            raise cut_off(name)
        say_once(
            "sizes beyond the file",
            f"{name}: its header states {lacking} bytes more than the file holds (some programs count the header or "
            "a pad byte too); all whole frames are read.",
        )
    elif extent.stated < held and (behind := _sound_behind(file, extent)):
        raise AudioFault(
            f"{name} holds {behind} bytes after the end that its header states, which look like sound",
            "Write its header anew, for example: ffmpeg -ignore_length 1 -i clip.wav whole.wav; or remove the row.",
        )
    return file


def _sound_behind(file: BinaryIO, extent: _Extent) -> int:
    """Bytes behind the stated end that may be sound: no chunks, no tag, not zero."""
    end = file.seek(0, os.SEEK_END)
    position = extent.start + extent.stated
    starts = [position]
    if extent.layout is not None and position % extent.layout.align:
        starts.insert(0, position + -position % extent.layout.align)
    if any(_only_chunks(file, extent.layout, start, end) for start in starts):
        return 0
    rest = _read_at(file, position, end - position)
    if len(rest) <= _TRAILING_BYTES * bool(extent.stated) or not rest.strip(b"\0"):
        return 0
    return 0 if rest.lstrip(b"\0").startswith(_TRAILING_MARKS) else len(rest)


def _only_chunks(file: BinaryIO, layout: _Layout | None, start: int, end: int) -> bool:
    """Whether from here on chunks follow one another up to the end of the file."""
    if layout is None or start >= end:
        return start >= end
    position = start
    for chunk in _chunks(file, layout, start):
        if not all(32 <= byte < 127 for byte in chunk.name) or chunk.size < 0 or chunk.start + chunk.size > end:
            return False
        position = chunk.start + chunk.size
    return position > start and end - position <= layout.align


def _mended(file: BinaryIO, extent: _Extent, held: int) -> BinaryIO:
    if extent.size_at is None:
        return file
    file.seek(0)
    data = bytearray(file.read())
    size = (held - held % extent.step + extent.extra).to_bytes(extent.size_bytes, extent.order)
    data[extent.size_at : extent.size_at + extent.size_bytes] = size
    return io.BytesIO(bytes(data))

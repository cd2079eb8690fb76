"""What containers say of themselves: tags, open and wrong sizes, missing ends, sound after the end, other files."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from audiorl.audio import AudioFault, audio_seconds, load_audio
from audiorl.audio.containers import inspect_container
from tests.audio.sounds import RATE, encoded, sine

# libsndfile's containers that state how many samples there are, with a codec each, blocks of telephony among them
STATED = [
    *[("WAV", codec) for codec in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "GSM610", "IMA_ADPCM", "MS_ADPCM", "G721_32")],
    *[
        ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("W64", "FLOAT"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
    ],
    *[("AIFF", codec) for codec in ("PCM_16", "FLOAT", "ULAW", "GSM610")],
    *[("AU", "PCM_16"), ("AU", "G721_32"), ("NIST", "PCM_16"), ("SVX", "PCM_16"), ("HTK", "PCM_16")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")],
]
ONLY_LOADING_TELLS = ("FLAC",)  # its header stays whole
BOTH = (audio_seconds, lambda source: load_audio(source, RATE))


def noise(seconds: float = 2.66) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, int(seconds * RATE)).astype(np.float32)


def id3(size: int) -> bytes:
    """An ID3v2 tag of `size` bytes, 10 of them its header."""
    content = size - 10
    return b"ID3\x04\0\0" + bytes(content >> shift & 127 for shift in (21, 14, 7, 0)) + b"\xa5" * content


def with_size(wav: bytes, size: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + size.to_bytes(4, "little") + wav[at + 4 :]


# ---- tags in front ----


@pytest.mark.parametrize("size", [10, 20, 1000, 20_000, 60_000, 84_000, 100_000])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "rf64"])
def test_a_tag_in_front_of_any_container_costs_no_sample(kind, size):
    content = encoded(noise(), kind)
    assert audio_seconds(id3(size) + content) == audio_seconds(content) == 2.66
    assert (load_audio(id3(size) + content, RATE) == load_audio(content, RATE)).all()


def test_two_tags_a_footer_and_a_tag_that_is_all_there_is():
    wav = encoded(noise())
    footed = bytearray(id3(500))
    footed[5] |= 0x10
    assert len(load_audio(id3(300) + id3(400) + wav, RATE)) == len(noise())
    assert len(load_audio(bytes(footed) + b"3DI\x04\0\x10\0\0\x03\x6a" + wav, RATE)) == len(noise())
    for read in BOTH:
        with pytest.raises(AudioFault, match="cut off within the ID3 tag"):
            read(id3(500)[:400])


# ---- sizes ----


@pytest.mark.parametrize(
    "size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x7FFFFFDB, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB, 0xFFFF0000]
)
@pytest.mark.parametrize("codec", ["PCM_16", "FLOAT", "ULAW", "GSM610", "G721_32", "MS_ADPCM"])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(codec, size):
    wav = encoded(noise(), subtype=codec)
    for open_wav in (with_size(wav, size), with_size(wav[:4] + b"\xff" * 4 + wav[8:], size)):
        assert audio_seconds(open_wav) == audio_seconds(wav)
        assert (load_audio(open_wav, RATE) == load_audio(wav, RATE)).all()


@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1])
def test_an_rf64_of_open_length_is_read_to_its_end(size):
    rf64 = encoded(noise(), "rf64")
    at = rf64.index(b"ds64") + 16
    open_rf64 = rf64[:at] + size.to_bytes(8, "little") + rf64[at + 8 :]
    assert (load_audio(open_rf64, RATE) == load_audio(rf64, RATE)).all()
    assert audio_seconds(open_rf64) == 2.66


def test_a_wav_without_samples_has_none():
    empty = encoded(np.zeros(0, np.float32))
    assert empty[-4:] == bytes(4)
    for content in (empty, empty + b"LIST\x04\0\0\0INFO"):
        with pytest.raises(AudioFault, match="has no samples"):
            audio_seconds(content)


@pytest.mark.parametrize("more", [1, 2, 8, 36, 44])
def test_a_size_a_few_bytes_beyond_the_file_is_read_and_told_once(more, caplog, monkeypatch):
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    wav = encoded(noise())
    slip = with_size(wav, len(wav) - 44 + more)
    for read in BOTH:
        read(slip)
    assert audio_seconds(slip) == 2.66
    assert (load_audio(slip, RATE) == load_audio(wav, RATE)).all()
    assert len(caplog.records) == 1 and f"states {more} bytes more than the file holds" in caplog.text


def test_a_size_a_few_bytes_beyond_the_file_that_leaves_half_a_frame_is_a_cut_file():
    for read in BOTH:
        with pytest.raises(AudioFault, match="cut off"):
            read(encoded(noise())[:-3])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
@pytest.mark.parametrize(("container", "codec"), STATED)
def test_a_container_that_is_cut_is_refused(container, codec, share):
    content = encoded(noise(), container.lower(), subtype=codec)
    cut = content[: int(share * len(content)) // 8 * 8]
    for read in BOTH[container in ONLY_LOADING_TELLS :]:
        with pytest.raises(AudioFault, match=r"cut off|not audio|damaged"):
            read(cut)


@pytest.mark.parametrize(("container", "codec"), [pair for pair in STATED if pair[0] not in ("OGG", "FLAC", "MP3")])
def test_sound_behind_the_stated_end_is_told(container, codec):
    """A recorder that never went back to its header."""
    content = encoded(noise(), container.lower(), subtype=codec)
    for read in BOTH:
        with pytest.raises(AudioFault, match=r"after the end that its header states|not audio"):
            read(content + content[-9000:][::-1])


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST\x0a\0\0\0INFOISFT\0\0",
        b"id3 \x80\0\0\0" + bytes(128),
        b"LIST\x0a\0\0\0INFOISFT\0\0" + b"cue \x04\0\0\0" + bytes(4),
        b"TAG" + b"x" * 125,
        b"APETAGEX" + b"\x01" * 700,
        b"\x01" * 8,
        bytes(5000),
    ],
)
@pytest.mark.parametrize("kind", ["wav", "rf64"])
def test_chunks_tags_and_zeros_behind_the_samples_are_no_sound(kind, behind):
    content = encoded(noise(), kind)
    assert (load_audio(content + behind, RATE) == load_audio(content, RATE)).all()
    assert audio_seconds(content + behind) == 2.66


@pytest.mark.parametrize("kind", ["mp3", "wav", "ogg", "flac", "aiff", "caf", "w64", "au"])
def test_a_whole_file_passes_untouched(kind):
    file = io.BytesIO(encoded(sine(), kind))
    container = inspect_container(file, "it")
    assert container.file is file
    assert file.tell() == 0


def test_a_big_endian_wav_is_read_and_its_missing_end_seen():
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 1, subtype="PCM_16", endian="BIG", format="WAV") as sound:
        sound.write(noise())
    content = file.getvalue()
    assert content.startswith(b"RIFX")
    assert len(load_audio(content, RATE)) == len(noise())
    with pytest.raises(AudioFault, match="cut off"):
        audio_seconds(content[:50_000])


def test_an_aiff_whose_chunk_holds_more_than_its_frames_is_told():
    aiff = bytearray(encoded(noise(), "aiff"))
    at = aiff.index(b"COMM") + 10
    assert struct.unpack(">I", aiff[at : at + 4])[0] == len(noise())
    aiff[at : at + 4] = struct.pack(">I", 20_000)
    for read in BOTH:
        with pytest.raises(AudioFault, match="after the end"):
            read(bytes(aiff))


@pytest.mark.parametrize("codec", ["PCM_16", "ULAW"])
@pytest.mark.parametrize("behind", [16, 1000])
def test_even_a_few_samples_behind_the_stated_end_are_told(codec, behind):
    wav = encoded(noise(), subtype=codec)
    size = int.from_bytes(wav[(at := wav.index(b"data") + 4) : at + 4], "little")
    with pytest.raises(AudioFault, match=f"holds {behind} bytes after the end"):
        audio_seconds(with_size(wav, size - behind))


def test_a_wrong_count_of_samples_beside_blocks_costs_none_and_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    wav = encoded(noise(), subtype="GSM610")
    at = wav.index(b"fact") + 8
    assert struct.unpack("<I", wav[at : at + 4])[0] == len(noise())
    wrong = wav[:at] + struct.pack("<I", 20_000) + wav[at + 4 :]
    for read in BOTH:
        read(wrong)
    assert len(load_audio(wav, RATE)) == len(noise()) <= len(load_audio(wrong, RATE))
    assert len(caplog.records) == 1 and "counts 20000 samples" in caplog.text


# ---- other files ----


def archive(kind: str) -> bytes:
    content, wav = io.BytesIO(), encoded(sine())
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("clip.wav", wav)
    else:
        with tarfile.open(fileobj=content, mode="w") as file:
            file.addfile(tarfile.TarInfo("clip.wav"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 85164\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>" * 20, "HTML page", "Download it again"),
        (b"\xef\xbb\xbf<HTML><body>Sign in</body></HTML>", "HTML page", "Download it again"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document", "Download it again"),
        (b'{"error": "Repository not found"}', "JSON text", "Download it again"),
        (b"#EXTM3U\nhttp://127.0.0.1:9/secret.wav\n", "playlist", "Download it again"),
        (gzip.compress(encoded(sine())), "gzip archive", "gunzip"),
        (archive("zip"), "ZIP archive", "Unpack"),
        (archive("tar"), "tar archive", "Unpack"),
        (b"\x93NUMPY\x01\0", "NumPy file", "numpy.load"),
        (b"PAR1" + bytes(100), "Parquet file", "load_dataset"),
        (b"MThd\0\0\0\6", "MIDI file", "Render"),
        (b"\x89PNG\r\n\x1a\n", "PNG image", "path of the clip"),
        (b"", r"empty \(0 bytes\)", "Download"),
        (bytes(70_000), "only zero bytes", "download it again"),
        (b"\xff\xfet\0e\0x\0t\0" * 9, "text in UTF-16", "path of the clip"),
        (b"\xff\xfb\xff\xfb" * 99, "not audio", "ffmpeg"),
        (b"words and words " * 9, "not audio", "ffmpeg"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, content, problem, remedy):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    for read in BOTH:
        with pytest.raises(AudioFault, match=problem) as caught:
            read(path)
        assert "clip.wav" in str(caught.value) and remedy in caught.value.remedy


def test_containers_whose_missing_end_nobody_would_see_are_refused_with_the_reason():
    for read in BOTH:
        with pytest.raises(AudioFault, match=r"VOC .*not read: libsndfile does not notice") as caught:
            read(encoded(sine(), "voc", subtype="PCM_16"))
        assert "Convert" in caught.value.remedy


# ---- damage at random ----


@pytest.mark.parametrize(("container", "codec"), STATED)
def test_damaged_bytes_give_a_clip_or_a_fault_and_the_check_never_raises_anything_else(container, codec):
    rng = np.random.default_rng(7)
    content = encoded(noise(0.3), container.lower(), subtype=codec)
    for _ in range(40):
        damaged = bytearray(content)
        where = rng.integers(0, min(len(damaged), 200 if rng.random() < 0.7 else len(damaged)), rng.integers(1, 4))
        for at in where:
            damaged[at] = rng.integers(0, 256)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(1, len(damaged))]
        for read in BOTH:
            try:
                read(bytes(damaged))
            except AudioFault as fault:
                assert fault.remedy


# ---- counts of samples beside the samples ----

# container, codec -> where its header counts samples: the bytes before the number, and how it is written
COUNTED = {
    ("WAV", "FLOAT"): (b"fact\4\0\0\0", "<I"),
    ("WAV", "ULAW"): (b"fact\4\0\0\0", "<I"),
    ("WAV", "GSM610"): (b"fact\4\0\0\0", "<I"),
    ("RF64", "PCM_16"): (None, "<Q"),  # its place is known
    ("W64", "FLOAT"): (b"fact\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a\x20\0\0\0\0\0\0\0", "<Q"),
    ("AIFF", "PCM_16"): (b"COMM\0\0\0\x12\0\1", ">I"),
    ("AIFF", "ULAW"): (None, ">I"),
    ("AIFF", "GSM610"): (None, ">I"),
    ("SVX", "PCM_16"): (b"VHDR\0\0\0\x14", ">I"),
    ("CAF", "ALAC_16"): (None, ">q"),
    ("FLAC", "PCM_16"): (None, "flac"),
    ("OGG", "OPUS"): (None, "ogg"),
    ("MP3", "MPEG_LAYER_III"): (None, "mp3"),
}
# what becomes of a count that is 5,000 samples too small, and of one that is as much too large
TOLD, REFUSED = "told", "refused"
WRONG = {
    ("WAV", "FLOAT"): (TOLD, TOLD),
    ("WAV", "ULAW"): (TOLD, TOLD),
    ("WAV", "GSM610"): (TOLD, TOLD),
    ("RF64", "PCM_16"): (TOLD, TOLD),
    ("W64", "FLOAT"): (TOLD, TOLD),
    ("AIFF", "PCM_16"): (REFUSED, REFUSED),
    ("AIFF", "ULAW"): (TOLD, TOLD),
    ("AIFF", "GSM610"): (REFUSED, TOLD),
    ("SVX", "PCM_16"): (TOLD, TOLD),
    ("CAF", "ALAC_16"): (TOLD, TOLD),
    ("FLAC", "PCM_16"): (REFUSED, REFUSED),
    ("OGG", "OPUS"): (REFUSED, REFUSED),
    ("MP3", "MPEG_LAYER_III"): (TOLD, REFUSED),
}
LENGTH = 20_000


def ogg_checksum(page: bytes) -> int:
    """Source: RFC 3533, 6: polynomial 0x04c11db7, not reflected."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found & 1 << 31 else 0)) & 0xFFFFFFFF
    return found


def with_count(content: bytes, container: str, codec: str, change: int) -> bytes:
    """The file with another count of samples in its header, everything else as it was."""
    changed, (mark, kind) = bytearray(content), COUNTED[container, codec]
    if kind == "flac":  # the lowest 36 bits
        changed[21] &= 0xF0
        changed[22:26] = (LENGTH + change).to_bytes(4, "big")
        return bytes(changed)
    if kind == "mp3":
        at, kind, change = max(content.find(b"Xing"), content.find(b"Info")) + 8, ">I", change // 576
    elif kind == "ogg":
        page = content.rfind(b"OggS")
        at, kind, change = page + 6, "<q", 3 * change  # Opus counts at 48 kHz
    elif mark is None:
        name, behind = {"RF64": (b"ds64", 24), "AIFF": (b"COMM", 10), "CAF": (b"pakt", 20)}[container]
        at = content.index(name) + behind
    else:
        at = content.index(mark) + len(mark)
    end = at + struct.calcsize(kind)
    changed[at:end] = struct.pack(kind, struct.unpack(kind, changed[at:end])[0] + change)
    if container == "OGG":
        changed[page + 22 : page + 26] = bytes(4)
        changed[page + 22 : page + 26] = struct.pack("<I", ogg_checksum(changed[page:]))
    return bytes(changed)


@pytest.mark.parametrize(("container", "codec"), COUNTED)
def test_a_count_that_is_not_what_the_file_holds_is_told_and_costs_no_sample(container, codec, caplog, monkeypatch):
    right = encoded(noise(LENGTH / RATE), container, subtype=codec)
    assert len(load_audio(with_count(right, container, codec, 0), RATE)) == LENGTH
    assert not caplog.records
    for change, expected in zip((-5000, 5000), WRONG[container, codec], strict=True):
        wrong = with_count(right, container, codec, change)
        monkeypatch.setattr("audiorl.audio.sources._said", set())
        caplog.clear()
        if expected == REFUSED:
            with pytest.raises(AudioFault, match=r"cut off|after the"):
                load_audio(wrong, RATE)
            continue
        assert len(load_audio(wrong, RATE)) >= LENGTH
        assert len(caplog.records) == 1 and "its header counts" in caplog.text, change


def test_an_aiff_that_counts_more_frames_than_its_chunk_holds_is_cut_off_though_chunks_follow():
    aiff = encoded(noise(LENGTH / RATE), "aiff")
    followed = with_count(aiff, "AIFF", "PCM_16", 5000) + b"ANNO" + (10_000).to_bytes(4, "big") + bytes(10_000)
    for read in BOTH:
        with pytest.raises(AudioFault, match="cut off"):
            read(followed)


def test_joined_mp3s_whose_first_one_states_its_own_length_are_heard_whole(caplog, monkeypatch):
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    one = encoded(noise(1.0), "mp3")
    at = max(one.find(b"Xing"), one.find(b"Info"))
    tagged_size = bytearray(one + one)
    if one[at + 7] & 2:  # and the size of both, as a tool that joins files may write it
        tagged_size[at + 12 : at + 16] = (2 * len(one)).to_bytes(4, "big")
    assert audio_seconds(bytes(tagged_size)) >= 2.0 and len(load_audio(bytes(tagged_size), RATE)) >= 2 * RATE
    assert "its header counts" in caplog.text

"""Files of phones, browsers and meetings, read by FFmpeg's decoders."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiorl.audio import AudioFault, audio_seconds, ffmpeg, load, load_audio
from audiorl.audio.containers import Container, Kind
from audiorl.datasets import BadRowsError
from audiorl.trainers.dpo import DPOConfig, DPOTrainer
from tests.audio.sounds import RATE, encoded, sine
from tests.tiny_models import tiny_whisper
from tests.trainers.pair_rows import CHOSEN, REJECTED, settings

av = pytest.importorskip("av")

from audio_formats import SAMPLES, by_ffmpeg, clip  # noqa: E402

M4A = ("ipod", "aac", RATE)
FORMS = [M4A, ("webm", "libopus", 48_000), ("matroska", "aac", RATE), ("adts", "aac", RATE), ("ac3", "ac3", 48_000)]
BOTH = (audio_seconds, lambda source: load_audio(source, RATE))


def decoded_by_ffmpeg(content: bytes) -> np.ndarray:
    """The oracle: PyAV's own loop over one file, FFmpeg choosing demuxer and stream."""
    with av.open(io.BytesIO(content)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize("form", FORMS)
def test_the_samples_are_those_of_ffmpeg(form):
    content = by_ffmpeg(clip(), *form)
    assert (load_audio(content, form[2]) == decoded_by_ffmpeg(content)[0]).all()
    assert audio_seconds(content) == decoded_by_ffmpeg(content).shape[1] / form[2]


def test_priming_samples_of_an_m4a_are_gone():
    loaded = load_audio(by_ffmpeg(clip(), *M4A), RATE)
    assert SAMPLES <= len(loaded) < SAMPLES + 1024
    lags = [float(loaded[lag : SAMPLES - 100 + lag] @ clip()[100:SAMPLES]) for lag in range(200)]
    assert np.argmax(lags) == 100


def test_streams_that_come_and_go_in_a_damaged_file_are_a_fault(monkeypatch):
    """PyAV raises IndexError where FFmpeg finds fewer streams than it had announced."""
    content = by_ffmpeg(clip(), *M4A)

    def no_such_stream(*_):
        raise IndexError("list index out of range")
        yield

    monkeypatch.setattr(ffmpeg, "_frames", no_such_stream)
    for read in BOTH:
        with pytest.raises(AudioFault, match="MP4, M4A, MOV or 3GP whose streams are damaged") as told:
            read(content)
    assert isinstance(told.value.__cause__, IndexError)


@pytest.mark.parametrize("form", [("3gp", "libopencore_amrnb", 8000), ("mov", "pcm_s16le", RATE)])
def test_a_table_of_more_samples_than_the_file_has_bytes_takes_no_room(form):
    """FFmpeg makes 32 bytes for each: 12 seconds and 17 GB for half a billion."""
    content = bytearray(by_ffmpeg(clip(), *form))
    assert audio_seconds(bytes(content)) > 2
    at, chunks = content.index(b"stsz") + 12, content.index(b"stsc") + 16
    content[at : at + 4] = content[chunks : chunks + 4] = (2**29).to_bytes(4, "big")
    for read in BOTH:
        with pytest.raises(AudioFault, match="counts more samples than it has bytes"):
            read(bytes(content))


def with_video(audio_first: bool, starts_at: float = 0.0) -> bytes:
    """An MP4 with a picture, and sound that starts later."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        add = [lambda: container.add_stream("aac", rate=RATE), lambda: container.add_stream("mpeg4", rate=25)]
        streams = [make() for make in (add if audio_first else add[::-1])]
        sound, video = streams if audio_first else streams[::-1]
        video.width, video.height, video.pix_fmt, sound.layout = 64, 64, "yuv420p", "mono"
        for i in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 5 * i, np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        samples = clip()
        for start in range(0, SAMPLES, 1024):
            part = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = RATE, start + round(starts_at * RATE)
            container.mux(sound.encode(part))
        for stream in streams:
            container.mux(stream.encode(None))
    return content.getvalue()


@pytest.mark.parametrize("audio_first", [True, False])
@pytest.mark.parametrize("starts_at", [0.0, 0.5])
def test_the_sound_of_a_video_is_found_and_no_silence_put_before_a_late_start(audio_first, starts_at):
    content = with_video(audio_first, starts_at)
    loaded = load_audio(content, RATE)
    assert SAMPLES <= len(loaded) < SAMPLES + 2048
    assert (loaded == decoded_by_ffmpeg(content)[0]).all()
    assert audio_seconds(content) == len(loaded) / RATE


def test_a_video_without_sound_is_refused():
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
    for read in BOTH:
        with pytest.raises(AudioFault, match="without sound"):
            read(content.getvalue())


def test_a_file_with_several_streams_gives_ffmpegs_best_and_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE) for _ in range(2)]
        for stream in streams:
            stream.layout = "mono"
        for stream, hertz in zip(streams, (440, 880), strict=True):
            samples = (sine(hertz) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
    for read in BOTH:
        read(content.getvalue())
    best = av.open(io.BytesIO(content.getvalue())).streams.best("audio").index
    expected = sine((440, 880)[best])
    assert load_audio(content.getvalue(), RATE) == pytest.approx(expected, abs=1e-3)
    assert len(caplog.records) == 1 and "holds 2 audio streams" in caplog.text


@pytest.mark.parametrize("form", [M4A, ("webm", "libopus", 48_000), ("matroska", "aac", RATE), ("wv", "wavpack", RATE)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_refused(form, share):
    content = by_ffmpeg(clip(), *form)
    for read in BOTH:
        with pytest.raises(AudioFault, match="cut off"):
            read(content[: int(share * len(content))])


def test_the_length_of_a_file_is_decoded_once_until_the_file_changes(tmp_path, monkeypatch):
    decoded = []
    shape = ffmpeg.clip_shape
    monkeypatch.setattr(ffmpeg, "clip_shape", lambda *args: decoded.append(args) or shape(*args))
    path = tmp_path / "clip.m4a"
    path.write_bytes(by_ffmpeg(clip(), *M4A))
    long = [audio_seconds(path), audio_seconds({"path": str(path), "bytes": None}), audio_seconds(str(path))]
    assert len(set(long)) == 1 and len(decoded) == 1
    path.write_bytes(by_ffmpeg(clip()[:8000], *M4A))
    assert audio_seconds(path) < 0.6 and len(decoded) == 2


class Lengths(torch.utils.data.Dataset):
    def __init__(self, content: bytes):
        self.content = content

    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> int:
        return len(load_audio(self.content, RATE))


def test_threads_of_the_check_and_processes_of_a_loader_decode_alike():
    content = by_ffmpeg(clip(), *M4A)
    with ThreadPoolExecutor(4) as pool:
        (seconds,) = set(pool.map(audio_seconds, [content] * 16))
    loaded = torch.utils.data.DataLoader(Lengths(content), batch_size=4, num_workers=2)
    assert {int(length) for batch in loaded for length in batch} == {round(seconds * RATE)}


def test_channels_are_kept_apart():
    two = by_ffmpeg(clip(), *M4A, channels=2)
    one = load_audio(two, RATE, channel=1)
    assert one == pytest.approx(load_audio(two, RATE, channel=0), abs=1e-2)
    with pytest.raises(AudioFault, match="2 channels"):
        audio_seconds(two, channel=2)


@pytest.mark.parametrize("channels", [6, 12, 32, 33, 64])
def test_many_channels_are_read_apart_or_refused(channels):
    content = io.BytesIO()
    each = np.arange(channels) / channels
    soundfile.write(content, np.tile(each, (2000, 1)), RATE, format="AIFF", subtype="PCM_16")
    file = Container(content, Kind("AIFF", "aiff", False, ".aiff"))
    if channels > 32:
        with pytest.raises(AudioFault, match=f"has {channels} channels"):
            ffmpeg.decode(file, "it")
        return
    samples = ffmpeg.decode(file, "it").samples
    assert samples == pytest.approx(np.tile(each, (2000, 1)), abs=1e-4)


def test_joined_ogg_streams_are_heard_whole():
    """libsndfile reads the first."""
    for kind in ("ogg", "opus"):
        one = encoded(clip(), kind)
        assert audio_seconds(one + one) == pytest.approx(2 * SAMPLES / RATE, abs=0.1)
        loaded = load_audio(one + one, RATE)
        assert loaded[200:SAMPLES] == pytest.approx(load_audio(one, RATE)[200:], abs=5e-3)


def test_without_the_extra_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    heads = {
        "MP4, M4A": b"\0\0\0\x1cftypM4A \0\0\2\0",
        "WebM": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81",
        "AMR": b"#!AMR\n\x04",
        "AC-3": b"\x0b\x77\xcc\xd4\x0c\x40",
        "AAC": b"\xff\xf1\x60\x40\x37\xbf\xfc",
        "Ogg with several streams": encoded(sine(), "ogg") * 2,
    }
    for name, content in heads.items():
        for read in BOTH:
            with pytest.raises(AudioFault, match=f"is {name}") as caught:
                read(content)
            assert 'pip install "audiorl[av]"' in caught.value.remedy and "ffmpeg" in caught.value.remedy


def test_a_wav_codec_that_libsndfile_does_not_know_is_ffmpegs(monkeypatch):
    g726 = by_ffmpeg(clip(), "wav", "g726", 8000)
    assert audio_seconds(g726) == pytest.approx(2.66, abs=1e-3)
    monkeypatch.setitem(sys.modules, "av", None)
    for read in BOTH:
        with pytest.raises(AudioFault, match="a codec that libsndfile does not read") as caught:
            read(g726)
        assert "audiorl[av]" in caught.value.remedy


def recordings(folder: Path) -> list[dict[str, Any]]:
    """Rows as phones, browsers and call centres leave them."""
    contents = {
        "phone.m4a": by_ffmpeg(clip()[:12_000], *M4A),
        "browser.webm": by_ffmpeg(clip()[:12_000], "webm", "libopus", 48_000),
        "phone.amr": by_ffmpeg(clip()[:12_000], "amr", "libopencore_amrnb", 8000),
        "call.wav": encoded(clip()[:12_000], subtype="GSM610"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    texts = [{"chosen": CHOSEN[i], "rejected": REJECTED[i]} for i in range(len(contents))]
    return [{"audio": str(folder / name), **text} for name, text in zip(contents, texts, strict=True)]


def test_a_trainer_takes_them_or_names_all_rows_and_the_extra_before_it_starts(tmp_path, monkeypatch):
    model, processor = tiny_whisper()
    args = DPOConfig(**settings(tmp_path / "out"))
    rows = recordings(tmp_path)
    trainer = DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    trainer.train()
    assert trainer.state.global_step == 2
    load._decoded_shape.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadRowsError, match="3 faults in 3 rows") as caught:
        DPOTrainer(model, args=args, train_dataset=rows, processing_class=processor)
    assert [fault.row_id for fault in caught.value.faults] == [0, 1, 2]
    assert all("audiorl[av]" in fault.remedy for fault in caught.value.faults)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_bytes_give_a_clip_or_a_fault(form):
    rng = np.random.default_rng(3)
    content = by_ffmpeg(clip()[:8000], *form)
    for _ in range(30):
        damaged = bytearray(content)
        for at in rng.integers(0, len(damaged), rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        for read in BOTH:
            try:
                read(bytes(damaged))
            except AudioFault as fault:
                assert fault.remedy

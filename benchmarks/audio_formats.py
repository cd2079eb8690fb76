"""Which audio files are read: every container and codec that soundfile lists, and what FFmpeg's decoders add.

    python benchmarks/audio_formats.py                            # the table
    python benchmarks/audio_formats.py --page docs/pages/data.md  # put in place of the one on that page

A clip is written in each form, then judged as the check before training judges it (`audio_seconds`) and read as
training reads it (`load_audio`). The two have to agree: a form is read by both, with the clip's samples and length, or
refused by both with one reason. tests/audio/test_formats.py holds the table on the page to this.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from audiorl.audio import AudioFault, audio_seconds, load_audio

RATE = 16_000
SAMPLES = 42_560  # 2.66 s, no multiple of any codec's frame but 160's
BEGIN, END = "<!-- audio formats: begin -->", "<!-- audio formats: end -->"

# Codecs without loss up to the width of their samples: how far a sample may be off.
EXACT = dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW", "wavpack", "tta"), 1 / 64)
LOSSY = ("VORBIS", "OPUS", "MPEG", "GSM", "G72", "ADPCM", "aac", "opus", "amr", "ac3", "mp2", "mp3", "wma", "g72")
# Of lossy codecs: the cosine between what was written and what is read. At an offset of 1 ms it is far below.
LEAST_COSINE = 0.85
# Containers that do not say how many samples of priming a codec put in front: they stay, as in FFmpeg's own output.
UNTRIMMED = (
    *("AMR", "3GP", "AAC", "AC-3", "E-AC-3", "WMA", "FLV", "MPEG transport stream", "AVI", "WAV"),
    "MPEG_LAYER_II",
)
# AMR keeps how a voice sounds, not its waveform.
LEAST_COSINE_OF = {"amrnb": 0.5}
# FFmpeg's own encoder of WMA puts no priming in front, so its decoder takes the first frame for that; seconds.
LEFT_OUT = {"wmav2": 0.05}
# Longest frame or padding of a codec in seconds, by which a clip may become longer.
FRAME = 0.13

# How soundfile writes what it writes to nothing but a file of its own name or rate.
RATES = {"WVE": 8000}
NOT_WRITTEN = "not tried: no encoder for it is at hand"

# FFmpeg's: container for people, its muxer, codec, encoder, rate
FFMPEG = (
    ("M4A", "ipod", "aac", RATE),
    ("M4A", "ipod", "alac", RATE),
    ("MP4", "mp4", "aac", RATE),
    ("MP4", "mp4", "libopus", 48_000),
    ("MP4", "mp4", "flac", RATE),
    ("MP4", "mp4", "mp3", RATE),
    ("MOV", "mov", "aac", RATE),
    ("MOV", "mov", "pcm_s16le", RATE),
    ("3GP", "3gp", "libopencore_amrnb", 8000),
    ("3GP", "3gp", "aac", RATE),
    ("AMR", "amr", "libopencore_amrnb", 8000),
    ("AAC", "adts", "aac", RATE),
    ("WebM", "webm", "libopus", 48_000),
    ("Matroska", "matroska", "libopus", 48_000),
    ("Matroska", "matroska", "aac", RATE),
    ("Matroska", "matroska", "flac", RATE),
    ("Matroska", "matroska", "pcm_s16le", RATE),
    ("AC-3", "ac3", "ac3", 48_000),
    ("E-AC-3", "eac3", "eac3", 48_000),
    ("WMA", "asf", "wmav2", 44_100),
    ("FLV", "flv", "aac", 44_100),
    ("MPEG transport stream", "mpegts", "aac", RATE),
    ("AVI", "avi", "mp3", RATE),
    ("Ogg", "ogg", "flac", RATE),
    ("WAV", "wav", "g726", 8000),
    ("WavPack", "wv", "wavpack", RATE),
    ("True Audio", "tta", "tta", RATE),
)


class Form(NamedTuple):
    """A container and a codec, and how a clip is written in it."""

    container: str
    codec: str
    write: Callable[[np.ndarray], bytes]


class Verdict(NamedTuple):
    """Who reads a form, or why nobody does."""

    container: str
    codec: str
    reader: str  # "libsndfile", "FFmpeg" or ""
    reason: str = ""


def clip() -> np.ndarray:
    """Syllables of voiced sound between 150 and 800 Hz, (SAMPLES,) float32 at `RATE`: what codecs of telephony keep."""
    time = np.arange(SAMPLES) / RATE
    pitch = 2 * np.pi * np.cumsum(150 + 30 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    voice = sum(np.sin(k * pitch + k) / k for k in range(1, 6))
    return (0.15 * voice * (0.55 + 0.45 * np.sin(2 * np.pi * 2.5 * time))).astype(np.float32)


# ---- forms ----


def forms() -> Iterator[Form]:
    """All that soundfile lists, then what FFmpeg adds; those that nothing here can write have no bytes."""
    for container in soundfile.available_formats():
        for codec in soundfile.available_subtypes(container):
            yield Form(container, codec, lambda samples, f=container, c=codec: _by_soundfile(samples, f, c))
    for container, muxer, encoder, rate in FFMPEG:
        codec = encoder.removeprefix("libopencore_").removeprefix("lib")
        yield Form(container, codec, lambda samples, m=muxer, e=encoder, r=rate: by_ffmpeg(samples, m, e, r))


def _by_soundfile(samples: np.ndarray, container: str, codec: str) -> bytes:
    by_others = {("MP3", "MPEG_LAYER_II"): ("mp2", "mp2"), ("WAV", "MPEG_LAYER_III"): ("wav", "mp3")}
    if (container, codec) in by_others:
        return by_ffmpeg(samples, *by_others[container, codec], RATE)
    rate = RATES.get(container, RATE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with soundfile.SoundFile(path, "w", rate, 1, subtype=codec, format=container) as file:
            file.write(samples)
        return path.read_bytes()


def by_ffmpeg(samples: np.ndarray, muxer: str, encoder: str, rate: int, channels: int = 1) -> bytes:
    """A clip at `RATE` written by FFmpeg, resampled to `rate`, the same in all channels."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format=muxer) as container:
        stream = container.add_stream("adpcm_g726" if encoder == "g726" else encoder, rate=rate)
        stream.layout = "mono" if channels == 1 else "stereo"
        stream.bit_rate = 64_000  # which some encoders have no default for
        resampler = av.AudioResampler(stream.format.name, stream.layout, rate, stream.codec_context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return content.getvalue()


# ---- verdicts ----


def verdict(form: Form) -> Verdict:
    """Judge one form.

    Raises:
        AssertionError: the check and the loading disagree, or what is read is not what was written.
    """
    samples = clip()
    try:
        content = form.write(samples)
    except (soundfile.LibsndfileError, ValueError):
        return Verdict(form.container, form.codec, "", NOT_WRITTEN)
    try:
        seconds = audio_seconds(content)
    except AudioFault as fault:
        return Verdict(form.container, form.codec, "", _refused_by_loading(content, fault))
    loaded = load_audio(content, RATE)
    same_clip(loaded, samples, form)
    assert abs(seconds - len(loaded) / RATE) < 1e-3, f"{seconds} s checked, {len(loaded) / RATE} s loaded"
    return Verdict(form.container, form.codec, _reader(content))


def _refused_by_loading(content: bytes, fault: AudioFault) -> str:
    with contextlib.suppress(AudioFault):
        load_audio(content, RATE)
        raise AssertionError(f"refused by the check alone: {fault}")
    return fault.problem.partition("not read: ")[2] or fault.problem.removeprefix("the audio ")


def same_clip(loaded: np.ndarray, samples: np.ndarray, form: Form) -> None:
    """Raise AssertionError unless the samples are those that were written, as far as the codec keeps them."""
    surplus = (len(loaded) - len(samples)) / RATE
    assert -LEFT_OUT.get(form.codec, 1 / RATE) <= surplus <= FRAME, f"{len(loaded)} of {len(samples)} samples"
    if not any(name in form.codec for name in LOSSY):
        error = float(np.abs(loaded[: len(samples)] - samples[: len(loaded)]).max())
        assert error <= EXACT.get(form.codec, 1e-3), f"off by {error}"
        return
    if form.codec in LEFT_OUT:
        loaded, samples = samples, loaded
    untrimmed = form.container in UNTRIMMED or form.codec in UNTRIMMED
    cosine = max(_cosine(loaded[lag:], samples) for lag in range(round(FRAME * RATE) if untrimmed else 1))
    assert cosine > LEAST_COSINE_OF.get(form.codec, LEAST_COSINE), f"cosine {cosine:.3f}"


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    common = min(len(one), len(other))
    one, other = one[:common], other[:common]
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def _reader(content: bytes) -> str:
    from audiorl.audio import libsndfile
    from audiorl.audio.containers import inspect_container

    container = inspect_container(io.BytesIO(content), "")
    if container.kind is not None and not container.kind.libsndfile:
        return "FFmpeg"
    try:
        libsndfile.clip_shape(container, "")
    except libsndfile.CannotOpenError:
        return "FFmpeg"
    return "libsndfile"


def table(verdicts: list[Verdict]) -> str:
    """Markdown: one line for each container and outcome, with its codecs."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for found in verdicts:
        groups.setdefault((found.container, found.reader, found.reason), []).append(found.codec)
    lines = ["| container | codecs | read by, or why not |", "|---|---|---|"]
    for (container, reader, reason), codecs in groups.items():
        outcome = {"": f"**refused**: {reason}", "FFmpeg": "FFmpeg, `audiorl[av]`"}.get(reader, reader)
        outcome = reason if reason == NOT_WRITTEN else outcome
        lines.append(f"| {container} | {', '.join(f'`{codec}`' for codec in codecs)} | {outcome} |")
    return "\n".join(lines)


def on_page(page: Path) -> str:
    """The table as it stands on a page."""
    return page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Which audio files are read.")
    parser.add_argument("--page", type=Path, help="write the table between the two marks of this page")
    page = parser.parse_args().page
    made = table([verdict(form) for form in forms()])
    print(made)
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()

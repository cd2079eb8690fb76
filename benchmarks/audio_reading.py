"""How many clips are read in a second? WAV, FLAC, MP3, M4A and telephone WAV, 10 s each, one thread.

    python benchmarks/audio_reading.py --out audio_reading.json

Three ways for each file, from its bytes in memory, turn by turn: the check before training (`audio_seconds`), the clip
at 16 kHz (`load_audio`), and the same by the decoder alone, with nothing looked at: soundfile or PyAV's own loop, and
soxr. Before timing the two have to give the same samples. The median of the rounds
counts; process time, because other users of the machine do not lengthen it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import librosa
import numpy as np
import soundfile
from audio_formats import RATE, by_ffmpeg, clip
from measuring import environment, hardware_line, report, table

from audiorl.audio import audio_seconds, load_audio

CLIPS, SECONDS = 20, 10


class File(NamedTuple):
    """One kind of file and the decoder that reads it."""

    name: str
    content: bytes
    decode: Callable[[bytes], np.ndarray]
    channel: int | str = "mix"


def speech(rate: int, channels: int = 1) -> np.ndarray:
    """(samples, channels) at `rate`, a little different in each channel."""
    whole = np.resize(clip(), SECONDS * RATE)
    noise = np.random.default_rng(0).normal(0, 0.003, (channels, len(whole)))
    return librosa.resample(whole + noise, orig_sr=RATE, target_sr=rate).T


def by_soundfile(rate: int, channels: int, **options: Any) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, speech(rate, channels), rate, **options)
    return content.getvalue()


def with_soundfile(content: bytes, channel: int | None = None) -> np.ndarray:
    """With the number of frames, without which soundfile reads no GSM 6.10: that cannot seek."""
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        samples, rate = sound.read(sound.frames, dtype="float32", always_2d=True), sound.samplerate
    mono = samples.mean(axis=1) if channel is None else np.ascontiguousarray(samples[:, channel])
    return mono if rate == RATE else librosa.resample(mono, orig_sr=rate, target_sr=RATE)


def with_av(content: bytes) -> np.ndarray:
    import av

    with av.open(io.BytesIO(content)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]


def files() -> list[File]:
    mono = speech(RATE)[:, 0].astype(np.float32)
    mulaw = by_soundfile(8000, 2, format="WAV", subtype="ULAW")
    return [
        File("WAV, 16 kHz, 16 bits", by_soundfile(RATE, 1, format="WAV"), with_soundfile),
        File("WAV, 44.1 kHz, two channels", by_soundfile(44_100, 2, format="WAV"), with_soundfile),
        File("FLAC, 16 kHz", by_soundfile(RATE, 1, format="FLAC"), with_soundfile),
        File("MP3, 16 kHz", by_soundfile(RATE, 1, format="MP3"), with_soundfile),
        File("M4A (AAC), 16 kHz", by_ffmpeg(mono, "ipod", "aac", RATE), with_av),
        File("telephone WAV: mu-law, 8 kHz, one of two channels", mulaw, partial(with_soundfile, channel=0), 0),
        File("telephone WAV: GSM 6.10, 8 kHz", by_soundfile(8000, 1, format="WAV", subtype="GSM610"), with_soundfile),
    ]


def require_same(file: File) -> None:
    """Raise RuntimeError where our samples are not the decoder's."""
    ours, theirs = load_audio(file.content, RATE, channel=file.channel), file.decode(file.content)
    common = min(len(ours), len(theirs))
    if abs(len(ours) - len(theirs)) > 700 or np.abs(ours[:common] - theirs[:common]).max() > 1e-4:
        raise RuntimeError(f"{file.name}: {len(ours)} samples here, {len(theirs)} of the decoder's, or other values.")


def clips_per_second(call: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CLIPS):
        call()
    return CLIPS / (time.process_time() - start)


def measure(file: File, repeats: int) -> dict[str, Any]:
    require_same(file)
    ways: dict[str, Callable[[], object]] = {
        "check": lambda: audio_seconds(file.content, channel=file.channel),
        "load": lambda: load_audio(file.content, RATE, channel=file.channel),
        "decoder": lambda: file.decode(file.content),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, call in ways.items():
            found[name].append(clips_per_second(call))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {"file": file.name, "kilobytes": len(file.content) / 1000, **medians, "all": found}


def main() -> None:
    parser = argparse.ArgumentParser(description="How many clips are read in a second?")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, of which the median counts")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    settings = parser.parse_args()
    measured = [measure(file, settings.repeats) for file in files()]
    lines = [
        [
            one["file"],
            f"{one['kilobytes']:.0f}",
            *(f"{one[way]:,.0f}" for way in ("check", "load", "decoder")),
            f"{one['load'] / one['decoder']:.2f}",
        ]
        for one in measured
    ]
    print(table(["10 s", "kB", "checked /s", "loaded /s", "decoder alone /s", "of the decoder's speed"], lines))
    found = environment("cpu", 1)
    print(hardware_line(found))
    report({"benchmark": "audio_reading", "environment": found, "files": measured}, settings.out)


if __name__ == "__main__":
    main()

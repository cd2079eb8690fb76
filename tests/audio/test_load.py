"""Clips on real files: every format and shape that is accepted, and every fault that is refused."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl.audio import SILENCE_PEAK, AudioFault, audio_bytes, audio_seconds, load_audio
from tests.audio.sounds import RATE, encoded, sine

LOSSY = {"mp3", "ogg", "opus"}


def written(folder: Path, content: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def peak_hertz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


# ---- what is accepted ----


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus"])
@pytest.mark.parametrize("form", ["path", "text", "entry", "bytes", "bytes entry", "address"])
def test_every_format_and_form_gives_the_samples_that_were_written(tmp_path, kind, form):
    clip = sine()
    content = encoded(clip, kind)
    path = written(tmp_path, content, f"clip.{kind}")
    source = {
        "path": path,
        "text": str(path),
        "entry": {"path": str(path), "bytes": None},
        "bytes": content,
        "bytes entry": {"path": "gone.wav", "bytes": content},
        "address": f"data:audio/{kind};base64," + base64.b64encode(content).decode(),
    }[form]
    loaded = load_audio(source, RATE)
    assert loaded.dtype == np.float32
    assert loaded.shape == clip.shape
    assert audio_seconds(source) == pytest.approx(1.0)
    difference = np.abs(loaded - clip)[1000:-1000].max()
    assert difference < (0.05 if kind in LOSSY else 1e-4)


def test_bytes_win_over_a_path_to_another_clip(tmp_path):
    path = written(tmp_path, encoded(sine(1000)), "other.wav")
    loaded = load_audio({"path": str(path), "bytes": encoded(sine(500))}, RATE)
    assert peak_hertz(loaded, RATE) == pytest.approx(500, abs=2)


@pytest.mark.parametrize(("original", "target"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 8000)])
def test_resampling_keeps_frequency_level_and_length(original, target):
    loaded = load_audio(encoded(sine(440, rate=original), rate=original), target)
    assert len(loaded) == target
    assert peak_hertz(loaded, target) == pytest.approx(440, abs=2)
    assert np.abs(loaded[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


def test_resampling_removes_what_the_lower_rate_cannot_carry():
    # 7 kHz would fold down to 1 kHz at a rate of 8 kHz
    both = sine(440, rate=RATE) + sine(7000, rate=RATE)
    loaded = load_audio({"array": both, "sampling_rate": RATE}, 8000)
    spectrum = np.abs(np.fft.rfft(loaded * np.hanning(len(loaded))))
    assert spectrum[1000] < 1e-3 * spectrum[440]


def test_stereo_is_the_mean_of_its_channels_in_files_and_in_both_array_orders():
    left, right = sine(440), sine(880)
    mean = (left + right) / 2
    samples_first = np.stack([left, right], axis=1)
    assert load_audio(encoded(samples_first, subtype="FLOAT"), RATE) == pytest.approx(mean, abs=1e-6)
    for array in (samples_first, samples_first.T):
        entry = {"array": array, "sampling_rate": RATE}
        assert load_audio(entry, RATE) == pytest.approx(mean, abs=1e-6)
        assert audio_seconds(entry) == 1.0


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([0, 64, -128], np.int8), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float64), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float16), [0, 0.5, -1]),
        ([0.0, 0.5, -1.0], [0, 0.5, -1]),
        ([[0.0, 0.5, -1.0]], [0, 0.5, -1]),
    ],
)
def test_arrays_are_scaled_by_the_full_scale_of_their_type(array, expected):
    loaded = load_audio({"array": array, "sampling_rate": RATE}, RATE)
    assert loaded.dtype == np.float32
    assert loaded.tolist() == expected


def test_an_address_of_a_file_system_is_opened_through_fsspec():
    import fsspec

    with fsspec.open("memory://clips/a.flac", "wb") as file:
        file.write(encoded(sine(), "flac"))
    assert len(load_audio({"path": "memory://clips/a.flac", "bytes": None}, RATE)) == RATE
    with pytest.raises(AudioFault, match="missing"):
        load_audio("memory://clips/b.flac", RATE)
    with pytest.raises(AudioFault, match="cannot be opened"):
        load_audio("nosuchprotocol://clips/b.flac", RATE)


# ---- MP3: libsndfile guesses the length where the file does not state it ----


def loud_start_mp3() -> bytes:
    """Variable bitrate, two seconds of noise and six of faint tone: the first frame's bitrate misleads."""
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * RATE)
    clip = np.concatenate([noise, 0.01 * sine(300, 6.0)]).astype(np.float32)
    return encoded(clip, "mp3", bitrate_mode="VARIABLE", compression_level=0.5)


def without_length_header(mp3: bytes) -> bytes:
    at = mp3.index(b"Xing")
    return mp3[:at] + b"\0\0\0\0" + mp3[at + 4 :]


def test_an_mp3_without_length_header_is_heard_to_its_end():
    mp3 = without_length_header(loud_start_mp3())
    with soundfile.SoundFile(io.BytesIO(mp3)) as sound:
        assert sound.frames < 7 * RATE  # the trap
    loaded = load_audio(mp3, RATE)
    # encoder delay and padding, which the lost header told, come to less than 0.2 s
    assert 8.0 <= len(loaded) / RATE < 8.2
    assert audio_seconds(mp3) * RATE == pytest.approx(len(loaded))
    assert np.abs(loaded[-RATE : -RATE // 2]).max() == pytest.approx(0.005, rel=0.1)


def test_an_mp3_that_states_days_takes_no_memory_for_them():
    mp3 = bytearray(loud_start_mp3())
    at = mp3.index(b"Xing") + 8
    mp3[at : at + 4] = b"\x7f\xff\xff\xff"  # frames; the size beside it stays right
    with pytest.raises(AudioFault, match=r"of \d+ promised samples decode"):
        load_audio(bytes(mp3), RATE)


def test_joined_mp3s_are_heard_whole():
    one = loud_start_mp3()
    assert len(load_audio(one, RATE)) == 8 * RATE
    assert 16.0 <= len(load_audio(one + one, RATE)) / RATE < 16.3
    assert 16.0 <= audio_seconds(one + one) < 16.3


@pytest.mark.parametrize(
    "decorate",
    [
        lambda mp3: b"ID3\x03\x00\x00\x00\x00\x07\x76" + b"\xff\xfb" * 507 + mp3,
        lambda mp3: mp3 + b"TAG" + b" " * 125,
        lambda mp3: mp3 + b"APETAGEX" + bytes(300),
    ],
    ids=["ID3v2", "ID3v1", "APE"],
)
def test_tags_around_an_mp3_change_nothing(decorate):
    mp3 = loud_start_mp3()
    assert audio_seconds(decorate(mp3)) == 8.0
    assert load_audio(decorate(mp3), RATE) == pytest.approx(load_audio(mp3, RATE))


# ---- what is refused ----


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus"])
def test_a_cut_file_is_refused(tmp_path, kind, share):
    content = encoded(sine(seconds=3.0), kind)
    path = written(tmp_path, content[: int(share * len(content))], f"cut.{kind}")
    with pytest.raises(AudioFault, match=r"cut off") as caught:
        load_audio(path, RATE)
    assert "cut" in caught.value.problem and "Copy" in caught.value.remedy
    assert f"cut.{kind}" in str(caught.value)
    if kind != "flac":  # whose header stays whole
        with pytest.raises(AudioFault, match=r"cut off"):
            audio_seconds(path)


def test_a_flac_damaged_in_the_middle_is_refused():
    flac = bytearray(encoded(np.random.default_rng(0).normal(0, 0.1, 3 * RATE), "flac"))
    middle = len(flac) // 2
    flac[middle : middle + 2000] = bytes(2000)
    with pytest.raises(AudioFault, match="damaged"):
        load_audio(bytes(flac), RATE)


def flac_that_states(samples: int, clip: np.ndarray) -> bytes:
    flac = bytearray(encoded(clip, "flac"))
    flac[21] &= 0xF0
    flac[22:26] = samples.to_bytes(4, "big")
    return bytes(flac)


def test_a_flac_of_unknown_length_is_read_to_its_end():
    flac = flac_that_states(0, sine(seconds=5.3))
    assert audio_seconds(flac) == 5.3
    assert load_audio(flac, RATE) == pytest.approx(sine(seconds=5.3), abs=1e-4)


@pytest.mark.parametrize(
    ("states", "problem"), [(RATE // 2, "holds sound after the 8000 samples"), (2 * RATE, "cut off")]
)
def test_a_flac_that_states_another_length_than_it_has_is_refused(states, problem):
    with pytest.raises(AudioFault, match=problem):
        load_audio(flac_that_states(states, sine()), RATE)


def test_a_flac_with_another_one_behind_it_is_refused_and_with_a_tag_is_read():
    flac = encoded(sine(), "flac")
    with pytest.raises(AudioFault, match="holds sound after"):
        load_audio(flac + flac, RATE)
    assert len(load_audio(flac + b"TAG" + b" " * 125, RATE)) == RATE


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "gone.wav", r"gone\.wav' is missing"),
        (lambda folder: folder, "is a directory"),
        (lambda folder: written(folder, b"", "empty.wav"), "is empty"),
        (lambda folder: written(folder, b"these are words, no sound\n" * 50, "words.wav"), "not audio"),
        (lambda folder: written(folder, bytes(4000), "clip.raw"), "only zero bytes"),
        (lambda folder: written(folder, bytes(range(256)) * 9, "clip.raw"), "not audio"),
        (lambda folder: written(folder, os.urandom(64), "x") / "y.wav", "cannot be opened"),
        (lambda folder: folder / ("long" * 2000), "cannot be opened"),
        (lambda folder: str(folder / "zero\0byte.wav"), "cannot be opened"),
        (lambda folder: written(folder, encoded(np.zeros(0, np.float32)), "none.wav"), "has no samples"),
        (lambda folder: "data:audio/wav;base64,UklGRg=", "base64 of the data address"),
        (lambda folder: "data:audio/wav;base64,UklGRä==", "base64 of the data address"),
        (lambda folder: "data:text/plain;base64,UklGRg==", "data address starts with"),
        (lambda folder: "data:audio/wav,abc", "data address starts with"),
        (lambda folder: "", "entry is empty"),
        (lambda folder: {"path": " "}, "entry is empty"),
        (lambda folder: None, "entry is empty"),
        (lambda folder: {}, "entry is empty"),
        (lambda folder: {"path": None, "bytes": None}, "entry is empty"),
        (lambda folder: {"array": None, "sampling_rate": RATE}, r"keys \['array', 'sampling_rate'\]"),
        (lambda folder: {"url": "http://a/b.wav"}, r"keys \['url'\]"),
        (lambda folder: {"path": 5}, r"5 \(int\)"),
        (lambda folder: {"bytes": "UklGRg=="}, "bytes are of type str"),
        (lambda folder: 17, r"17 \(int\)"),
        (lambda folder: sine(), "ndarray"),
        (lambda folder: {"array": sine()}, "sampling_rate is None"),
        (lambda folder: {"array": sine(), "sampling_rate": 0}, "sampling_rate is 0"),
        (lambda folder: {"array": sine(), "sampling_rate": -RATE}, "sampling_rate is -16000"),
        (lambda folder: {"array": sine(), "sampling_rate": 16000.5}, "sampling_rate is 16000.5"),
        (lambda folder: {"array": sine(), "sampling_rate": float("nan")}, "sampling_rate is nan"),
        (lambda folder: {"array": sine(), "sampling_rate": "16000"}, "sampling_rate is '16000'"),
        (lambda folder: {"array": sine(), "sampling_rate": True}, "sampling_rate is True"),
        (lambda folder: {"array": np.zeros((2, 2, 2)), "sampling_rate": RATE}, r"shape \(2, 2, 2\)"),
        (lambda folder: {"array": np.zeros((80, 3000)), "sampling_rate": RATE}, r"shape \(3000, 80\)"),
        (lambda folder: {"array": np.float32(0.5), "sampling_rate": RATE}, r"shape \(\)"),
        (lambda folder: {"array": [[0.1, 0.2], [0.3]], "sampling_rate": RATE}, "ragged"),
        (lambda folder: {"array": [1, 2, 3], "sampling_rate": RATE}, "int64 samples"),
        (lambda folder: {"array": ["a"], "sampling_rate": RATE}, "samples, which have no full scale"),
        (lambda folder: {"array": [], "sampling_rate": RATE}, "has no samples"),
    ],
)
def test_what_is_no_clip_is_refused_before_decoding_and_when_loaded(tmp_path, make, problem):
    source = make(tmp_path)
    for read in (audio_seconds, lambda source: load_audio(source, RATE)):
        with pytest.raises(AudioFault, match=problem) as caught:
            read(source)
        assert caught.value.remedy.endswith(".")
        assert str(caught.value) == f"{caught.value.problem}. {caught.value.remedy}"
        assert len(str(caught.value)) < 800


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioFault, match="not a regular file"):
        load_audio(tmp_path / "pipe.wav", RATE)


def test_silence_starts_below_its_stated_peak():
    just_heard = np.full(RATE, 1.01 * SILENCE_PEAK, np.float32)
    assert len(load_audio({"array": just_heard, "sampling_rate": RATE}, RATE)) == RATE
    for quiet in (0.99 * just_heard / 1.01, np.zeros(RATE, np.float32)):
        with pytest.raises(AudioFault, match="silent"):
            load_audio(encoded(quiet, subtype="FLOAT"), RATE)


def test_channels_that_cancel_each_other_are_silent_to_the_model():
    with pytest.raises(AudioFault, match="silent"):
        load_audio({"array": np.stack([sine(), -sine()]), "sampling_rate": RATE}, RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_with_their_number_and_time(value):
    clip = np.stack([sine(), sine()], axis=1)
    clip[4000:4010, 1] = value
    for source in ({"array": clip, "sampling_rate": RATE}, encoded(clip, subtype="FLOAT")):
        with pytest.raises(AudioFault, match=r"10 of 16000, the first at 0\.250 s"):
            load_audio(source, RATE)


def test_doubles_beyond_single_precision_are_infinite_and_refused():
    with pytest.raises(AudioFault, match="infinite"):
        load_audio({"array": np.array([0.1, 1e300]), "sampling_rate": RATE}, RATE)


def flipped(clip: np.ndarray) -> np.ndarray:
    """The highest bit of one sample's exponent flipped."""
    damaged = clip.copy()
    damaged.view(np.uint32).flat[4000] ^= 1 << 30
    return damaged


def one_sample(clip: np.ndarray, value: float) -> np.ndarray:
    clip = clip.copy()
    clip.flat[4000] = value
    return clip


@pytest.mark.parametrize("target", [RATE, 8000])
@pytest.mark.parametrize(
    "clip",
    [
        one_sample(sine(), 1e20),
        one_sample(sine(), -1e20),
        flipped(sine()),
        flipped(np.full(RATE, 1e-30, np.float32)),
        np.stack([one_sample(sine(), 3e38)] * 2, axis=1),
        one_sample(sine(), 101.0),
        (32767 * sine()).astype(np.float32),
    ],
    ids=["1e20", "-1e20", "flipped bit", "flipped bit of the faintest", "stereo at 3e38", "41 dB", "integers"],
)
def test_samples_beyond_all_loudness_are_refused_before_mixing_and_resampling(clip, target):
    for source in ({"array": clip, "sampling_rate": RATE}, encoded(clip, subtype="FLOAT")):
        with pytest.raises(AudioFault, match=r"up to .* where full scale is 1: \d+ of 16000, the first at 0\.\d+ s"):
            load_audio(source, target)


def test_floats_beyond_full_scale_are_scaled_down_which_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr("audiorl.audio.sources._said", set())
    loud = 6 * sine()
    for source in (
        {"array": loud, "sampling_rate": RATE},
        encoded(loud, subtype="FLOAT"),
        encoded(loud, subtype="DOUBLE"),
    ):
        assert load_audio(source, RATE) == pytest.approx(2 * sine(), abs=1e-6)
    assert [record.message for record in caplog.records] == [
        "the audio array peaks at 3, beyond full scale, and is scaled down to 1. Further clips of this kind are read "
        "the same way without a message."
    ]


def test_what_a_lossy_codec_overshoots_stays_as_it_is(caplog):
    square = 0.99 * np.sign(sine(200))
    loaded = load_audio(encoded(square.astype(np.float32), "mp3"), RATE)
    assert 1 < np.abs(loaded).max() < 2
    assert not caplog.records


# ---- channels ----


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_a_call_gives_one_speaker_or_both(subtype):
    agent, customer = sine(440, rate=8000), sine(880, rate=8000)
    call = encoded(np.stack([agent, customer], axis=1), rate=8000, subtype=subtype)
    for channel, speaker in ((0, agent), (1, customer), ("1", customer), (1.0, customer), (np.int64(0), agent)):
        assert load_audio(call, 8000, channel=channel) == pytest.approx(speaker, abs=0.02)
        assert audio_seconds(call, channel=channel) == 1.0
    for channel in ("mix", None):
        assert load_audio(call, 8000, channel=channel) == pytest.approx((agent + customer) / 2, abs=0.02)
    assert peak_hertz(load_audio(call, RATE, channel=1), RATE) == pytest.approx(880, abs=2)


def test_every_channel_of_5_1_sound_has_its_number_and_the_mix_is_their_mean():
    speakers = np.stack([sine(200 * (i + 1)) for i in range(6)], axis=1)
    for source in (encoded(speakers), {"array": speakers.T, "sampling_rate": RATE}):
        for i in range(6):
            assert load_audio(source, RATE, channel=i) == pytest.approx(speakers[:, i], abs=1e-4)
        assert load_audio(source, RATE) == pytest.approx(speakers.mean(axis=1), abs=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("rate", [8000, 44_100, 96_000, 192_000])
def test_studio_files_come_at_the_models_rate(subtype, rate):
    wav = encoded(np.stack([sine(440, rate=rate)] * 2, axis=1), rate=rate, subtype=subtype)
    assert audio_seconds(wav) == 1.0
    loaded = load_audio(wav, RATE)
    assert len(loaded) == RATE
    assert loaded[2000:-2000] == pytest.approx(sine()[2000:-2000], abs=0.01)


@pytest.mark.parametrize(
    ("channel", "problem"),
    [
        (2, "has 2 channels, 0 to 1; the row asks for channel 2"),
        (-1, "channel is -1"),
        (0.5, "channel is 0.5"),
        (True, "channel is True"),
        ("left", "channel is 'left'"),
        (float("nan"), "channel is nan"),
        ([0], r"channel is \[0\]"),
    ],
)
def test_a_channel_that_is_not_there_is_refused_before_decoding_and_when_loaded(channel, problem):
    call = encoded(np.stack([sine(), sine(880)], axis=1))
    for read in (audio_seconds, audio_bytes, lambda source, channel: load_audio(source, RATE, channel=channel)):
        with pytest.raises(AudioFault, match=problem) as caught:
            read(call, channel=channel)
        assert "mix" in caught.value.remedy
    with pytest.raises(AudioFault, match="has one channel, 0; the row asks for channel 1"):
        audio_seconds(encoded(sine()), channel=1)


def test_more_channels_than_any_recording_has_are_refused():
    for read in (audio_seconds, lambda source: load_audio(source, RATE)):
        with pytest.raises(AudioFault, match="has 33 channels"):
            read(encoded(np.tile(sine()[:, None], 33)))


def test_damage_in_a_channel_that_nobody_asked_for_is_no_fault():
    clip = np.stack([sine(), np.full(RATE, np.nan, np.float32)], axis=1)
    assert load_audio(encoded(clip, subtype="FLOAT"), RATE, channel=0) == pytest.approx(sine())
    with pytest.raises(AudioFault, match="NaN"):
        load_audio(encoded(clip, subtype="FLOAT"), RATE)


def test_the_bytes_of_one_channel_are_a_wav_of_it_at_the_files_rate():
    call = encoded(np.stack([sine(440, rate=8000), sine(880, rate=8000)], axis=1), rate=8000, subtype="ULAW")
    assert audio_bytes(call) == audio_bytes(call, channel="mix") == call
    samples, rate = soundfile.read(io.BytesIO(audio_bytes(call, channel=1)))
    assert rate == 8000 and samples.ndim == 1
    assert samples == pytest.approx(sine(880, rate=8000), abs=0.02)


def test_a_wrong_rate_of_the_model_is_no_fault_of_the_clip():
    with pytest.raises(ValueError, match="model's rate") as caught:
        load_audio({"array": sine(), "sampling_rate": RATE}, 0)
    assert not isinstance(caught.value, AudioFault)


def test_a_fault_survives_pickling_and_a_single_message():
    fault = pickle.loads(pickle.dumps(AudioFault("it is broken", "Mend it.")))
    assert (fault.problem, fault.remedy, str(fault)) == ("it is broken", "Mend it.", "it is broken. Mend it.")
    assert str(AudioFault("what a worker printed")) == "what a worker printed"


# ---- real speech ----


def listed(folder: Path) -> list[dict]:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [{**row, "audio": str(folder / row["audio"])} for row in map(json.loads, lines)]


@pytest.mark.real_speech
def test_real_mp3s_are_as_long_by_their_header_as_listed_and_as_decoded(test_data):
    for row in listed(test_data / "data" / "librispeech-mini")[:60]:
        seconds = audio_seconds(row["audio"])
        assert seconds == pytest.approx(row["duration"], abs=1e-3)
        assert seconds * RATE == pytest.approx(len(load_audio(row["audio"], RATE)))


@pytest.mark.real_speech
def test_a_real_mp3_cut_in_two_is_refused(test_data):
    content = Path(listed(test_data / "data" / "librispeech-mini")[0]["audio"]).read_bytes()
    with pytest.raises(AudioFault, match="cut off"):
        audio_seconds(content[: len(content) // 2])


@pytest.mark.real_speech
def test_real_digits_at_8_khz_come_at_the_models_rate_with_their_spectrum(test_data):
    for row in listed(test_data / "data" / "fsdd-mini")[:10]:
        original, rate = soundfile.read(row["audio"], dtype="float32")
        loaded = load_audio(row["audio"], RATE)
        assert rate == 8000
        assert len(loaded) == 2 * len(original)
        assert len(loaded) / RATE == pytest.approx(row["duration"], abs=1e-3)
        before, after = np.abs(np.fft.rfft(original)), np.abs(np.fft.rfft(loaded)) / 2
        kept = len(original) * 3 // 8  # up to 3 kHz, below the filter's edge
        assert np.linalg.norm(after[:kept] - before[:kept]) < 0.02 * np.linalg.norm(before[:kept])
        assert np.linalg.norm(after[len(original) * 5 // 8 :]) < 0.02 * np.linalg.norm(before)

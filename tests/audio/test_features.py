"""Level, length, mel spectrogram and MFCC of clips, against loops written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiorl.audio import AudioFault
from audiorl.audio.features import (
    ClipProcessor,
    cut_clip,
    fit_clip,
    log_mel_spectrogram,
    mel_spectrogram,
    mfcc,
    normalise_peak,
)
from tests import oracles_features as oracles

RATE = 8000
# frames of 64 samples every 25
SMALL = {"bands": 10, "frame_seconds": 64 / RATE, "hop_seconds": 25 / RATE}


@pytest.fixture
def noisy() -> np.ndarray:
    time = np.arange(200) / RATE
    noise = np.random.default_rng(0).normal(size=200)
    return (0.4 * np.sin(2 * np.pi * 900 * time) + 0.05 * noise).astype(np.float32)


def test_mel_and_mfcc_are_what_their_definitions_say(noisy):
    expected = oracles.mel_spectrogram(noisy, RATE, 10, 64, 25)
    mel = mel_spectrogram(noisy, RATE, **SMALL)
    assert mel.shape == (10, 9) and mel.dtype == np.float32
    assert mel == pytest.approx(expected, rel=1e-3, abs=1e-6 * expected.max())
    logs = oracles.decibels(expected)
    assert log_mel_spectrogram(noisy, RATE, **SMALL) == pytest.approx(logs, abs=0.01)
    found = mfcc(noisy, RATE, coefficients=4, **SMALL)
    assert found.dtype == np.float32
    assert found == pytest.approx(oracles.mfcc(logs, 4), abs=0.03)


def test_the_usual_shapes_are_frames_of_a_hundredth_of_a_second():
    second = np.random.default_rng(1).normal(size=16000).astype(np.float32)
    assert mel_spectrogram(second, 16000).shape == (80, 101)
    assert mfcc(second, 16000).shape == (40, 101)


def test_levels(noisy):
    assert np.abs(normalise_peak(noisy)).max() == pytest.approx(1)
    assert normalise_peak(noisy, 0.25) == pytest.approx(noisy * 0.25 / np.abs(noisy).max(), rel=1e-6)
    assert normalise_peak(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert normalise_peak(noisy).dtype == np.float32


def test_lengths():
    clip = np.arange(10, dtype=np.float32)
    assert cut_clip(clip, 10, 0.3).tolist() == [0, 1, 2]
    assert cut_clip(clip, 10, 0.3, start=0.5).tolist() == [5, 6, 7]
    assert cut_clip(clip, 10, 5, start=0.8).tolist() == [8, 9]
    assert fit_clip(clip, 10, 0.2).tolist() == [0, 1]
    assert fit_clip(clip[:2], 10, 0.4).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("start", [-0.1, 1.0, 2.0])
def test_a_piece_starts_inside_the_clip(start):
    with pytest.raises(ValueError, match="the clip is 1 s long"):
        cut_clip(np.ones(10), 10, 0.5, start=start)


def test_a_processor_does_all_of_it_on_request_and_nothing_unasked(tmp_path):
    stereo = 0.25 * np.stack([np.sin(np.arange(4000) / 10), np.sin(np.arange(4000) / 10)], 1)
    soundfile.write(tmp_path / "clip.wav", stereo, 8000, subtype="FLOAT")
    plain = ClipProcessor()(tmp_path / "clip.wav")
    assert (len(plain.samples), plain.sampling_rate, plain.seconds, plain.features) == (8000, 16000, 0.5, None)
    assert np.abs(plain.samples).max() == pytest.approx(0.25, abs=0.01)
    full = ClipProcessor(sampling_rate=8000, peak=1.0, seconds=0.3, features="mfcc")(tmp_path / "clip.wav")
    assert (len(full.samples), full.seconds) == (2400, 0.3)
    assert np.abs(full.samples).max() == pytest.approx(1)
    assert full.features == pytest.approx(mfcc(full.samples, 8000))
    array = {"array": stereo.T, "sampling_rate": 8000}
    assert ClipProcessor(sampling_rate=8000, max_seconds=2.0)(array).seconds == 0.5
    assert ClipProcessor(sampling_rate=8000, max_seconds=0.1, features="mel")(array).features.shape == (80, 11)
    assert ClipProcessor(sampling_rate=8000, features="log_mel")(array).features.max() < 80


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"features": "mels"}, "Choose one of"),
        ({"seconds": 1, "max_seconds": 2}, "Leave one of them out"),
        ({"seconds": 0}, "seconds is 0"),
        ({"max_seconds": -1}, "max_seconds is -1"),
        ({"peak": 1.5}, "peak is 1.5"),
        ({"peak": 0}, "peak is 0"),
    ],
)
def test_settings_out_of_range_are_refused_when_it_is_built(settings, problem):
    with pytest.raises(ValueError, match=problem):
        ClipProcessor(**settings)


def test_more_coefficients_than_bands_are_refused(noisy):
    with pytest.raises(ValueError, match="10 mel bands have 1 to 10"):
        mfcc(noisy, RATE, coefficients=11, **SMALL)


def test_a_clip_that_cannot_be_used_is_told():
    with pytest.raises(AudioFault, match="silent"):
        ClipProcessor()({"array": np.zeros(100), "sampling_rate": RATE})

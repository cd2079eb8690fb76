"""Noise at stated ratios, and rooms."""

from __future__ import annotations

import numpy as np
import pytest

from audiorl.demo import NOISE_KINDS, add_noise, reverberate


def speech_like(samples: int = 24_000) -> np.ndarray:
    return (0.1 * np.sin(np.arange(samples) * 0.07)).astype(np.float32)


@pytest.mark.parametrize("kind", sorted(NOISE_KINDS))
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.5, 30.0])
def test_the_ratio_of_powers_is_the_stated_one(kind: str, snr_db: float) -> None:
    speech = speech_like()
    noise = add_noise(speech, snr_db, kind, np.random.default_rng(3)).astype(np.float64) - speech
    measured = 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) / np.mean(noise**2))
    assert measured == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("kind", sorted(NOISE_KINDS))
def test_noise_depends_on_the_generator_alone(kind: str) -> None:
    speech = speech_like()
    np.random.seed(0)
    first = add_noise(speech, 10.0, kind, np.random.default_rng(5))
    np.random.seed(1)
    np.testing.assert_array_equal(first, add_noise(speech, 10.0, kind, np.random.default_rng(5)))
    assert not np.array_equal(first, add_noise(speech, 10.0, kind, np.random.default_rng(6)))


def test_noise_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    for kind in NOISE_KINDS:
        add_noise(speech_like(), 10.0, kind, np.random.default_rng(0))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_pink_noise_loses_three_decibels_an_octave_and_white_none() -> None:
    for kind, expected in (("white", 0.0), ("pink", -3.01)):
        noise = NOISE_KINDS[kind](1 << 18, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [power[1 << octave : 2 << octave].mean() for octave in range(11, 16)]
        slope = np.polyfit(np.arange(5), 10 * np.log10(octaves), 1)[0]
        assert slope == pytest.approx(expected, abs=0.15)


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'brown'.*babble"):
        add_noise(speech_like(), 10.0, "brown", np.random.default_rng(0))


@pytest.mark.parametrize("silent", [np.zeros(100, np.float32), np.zeros(0, np.float32)])
def test_silence_has_no_ratio(silent: np.ndarray) -> None:
    with pytest.raises(ValueError, match="silent"):
        add_noise(silent, 10.0, "white", np.random.default_rng(0))


def test_a_room_rings_after_a_click_for_its_decay_time_and_keeps_the_power() -> None:
    click = np.zeros(16_000, dtype=np.float32)
    click[0] = 1.0
    wet = reverberate(click, 0.25, np.random.default_rng(0))
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2), rel=1e-3)
    assert np.sqrt(np.mean(wet[100:1000] ** 2)) > 10 * np.sqrt(np.mean(wet[3000:4000] ** 2))
    assert np.abs(wet[4100:]).max() < 1e-6


def test_a_room_needs_a_positive_decay() -> None:
    with pytest.raises(ValueError, match="decay_seconds > 0"):
        reverberate(speech_like(), 0.0, np.random.default_rng(0))

"""Oracles: float64 loops, values worked by hand, and what a person says of synthetic speech made worse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from audiorl.demo import Synthesiser, Voice, add_noise
from audiorl.rewards.speech_quality import (
    RAMPS,
    SignalQuality,
    clipped_share,
    dynamic_range_db,
    ramp,
    signal_quality,
    silent_share,
    snr_db,
)
from tests import oracles_signal

RATE = 16_000
SLOW = 1_600  # windows of 40 samples, short enough for loops over a spectrum
SENTENCE = "send thirteen red boats to dan and call jim about the green house"
VOICES = ("en-us+m3", "en-gb-scotland+f2", "en-us+shelby")


@pytest.fixture(scope="module")
def spoken() -> dict[str, np.ndarray]:
    synthesiser = Synthesiser()
    return {name: synthesiser.say(SENTENCE, Voice(name)) for name in VOICES}


def some_clip(seconds: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(1)
    time = np.arange(int(seconds * SLOW)) / SLOW
    swelling = np.sin(2 * np.pi * 3 * time) ** 4
    return (swelling * np.sin(2 * np.pi * 200 * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def test_measures_equal_loops_in_float64():
    clip = some_clip()
    clip[300:340] *= 1e-4  # a pause, and below it a cut
    clip[500:600] = 0.0
    window, hop = 40, 16
    assert snr_db(clip, SLOW) == pytest.approx(oracles_signal.snr_db(clip.tolist(), window, hop), abs=1e-9)
    expected = oracles_signal.dynamic_range_db(clip.tolist(), window, hop)
    assert dynamic_range_db(clip, SLOW) == pytest.approx(expected, abs=1e-9)
    share = oracles_signal.silent_share(clip.tolist(), window, hop)
    assert silent_share(clip, SLOW) == pytest.approx(share) and 0 < share < 1
    clipped = np.clip(clip, -0.4, 0.5)
    assert clipped_share(clipped) == oracles_signal.clipped_share(clipped.tolist()) > 0


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.1, 0.5, 0.5, 0.5, 0.1], 3 / 5),
        ([0.1, 0.5, 0.5, 0.1, 0.5], 0),  # two in a row happen without clipping
        ([-0.5, -0.5, -0.5, 0.5, 0.5, 0.2], 3 / 6),  # the two signs are runs of their own
        ([0.5, 0.5, 0.5, -0.5, -0.5, -0.5], 1),
        ([0.5, 0.5, 0.5, 0.2, -0.3, -0.3, -0.3], 3 / 7),  # flat, but not at the peak
    ],
)
def test_clipped_samples_worked_by_hand(samples, expected):
    assert clipped_share(np.array(samples, np.float32)) == pytest.approx(expected)


def test_a_sine_is_not_clipped_and_has_no_dynamics():
    for frequency in (60, 220, 3000):
        sine = 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
        assert clipped_share(sine) == 0 and dynamic_range_db(sine, RATE) < 1


def test_ramps_are_straight_between_their_ends():
    assert [ramp(x, 0, 20) for x in (-5, 0, 5, 20, 60)] == [0, 0, 0.25, 1, 1]
    assert [ramp(x, 0.9, 0.4) for x in (1, 0.9, 0.65, 0.4, 0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert SignalQuality(10.0, 0.01, 9.0, 0.65).scores == pytest.approx(dict.fromkeys(RAMPS, 0.5))
    assert SignalQuality(10.0, 0.0, 9.0, 0.4).score == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)


@pytest.mark.parametrize("samples", [0, 10, RATE])
def test_nothing_at_all_is_the_worst_of_everything(samples):
    found = signal_quality(np.zeros(samples, np.float32), RATE)
    assert found == (-10, 1, 0, 1) and found.score == 0


def test_a_clip_shorter_than_a_window_has_measures():
    assert np.isfinite(signal_quality(some_clip(0.01), SLOW)).all()


def test_loudness_changes_nothing(spoken):
    for clip in spoken.values():
        assert signal_quality(0.01 * clip, RATE) == pytest.approx(signal_quality(clip, RATE), abs=1e-5)


def test_steady_noise_is_measured_within_four_decibels(spoken):
    for clip in spoken.values():
        for kind in ("white", "pink"):
            for true in (0, 5, 10, 15, 20):
                noisy = add_noise(clip, true, kind, np.random.default_rng(0))
                assert abs(snr_db(noisy, RATE) - true) < 4, (kind, true)


def test_zeros_around_noisy_speech_do_not_hide_the_noise(spoken):
    noisy = add_noise(spoken["en-us+m3"], 5, "white", np.random.default_rng(0))
    padded = np.concatenate([np.zeros(RATE), noisy, np.zeros(RATE)])
    assert snr_db(padded, RATE) == pytest.approx(snr_db(noisy, RATE), abs=1.5)


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("kind", ["white", "pink"])
def test_more_noise_is_worse(spoken, voice, kind):
    levels = (20, 15, 10, 5, 0, -5)
    rng = np.random.default_rng(0)
    scores = [signal_quality(spoken[voice], RATE).score]
    scores += [signal_quality(add_noise(spoken[voice], level, kind, rng), RATE).score for level in levels]
    scores.append(signal_quality(rng.standard_normal(RATE), RATE).score)
    assert all(worse < better for better, worse in itertools.pairwise(scores))
    assert scores[0] > 0.95 and scores[-1] <= 0.5


@pytest.mark.parametrize("voice", VOICES)
def test_harder_clipping_is_worse(spoken, voice):
    clip = spoken[voice] / np.abs(spoken[voice]).max()
    clipped = [clip, *(np.clip(gain * clip, -1, 1) for gain in (1.5, 2, 4))]
    scores = [signal_quality(0.3 * each, RATE).score for each in clipped]
    assert all(worse < better for better, worse in itertools.pairwise(scores))


@pytest.mark.parametrize("voice", VOICES)
def test_long_silence_and_hum_are_worse_than_speech(spoken, voice):
    clip = spoken[voice]
    whole = signal_quality(clip, RATE).score
    stretched = signal_quality(np.concatenate([clip, np.zeros(3 * len(clip))]), RATE).score
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(len(clip)) / RATE)
    assert stretched < whole - 0.1
    assert signal_quality(hum, RATE).score <= 0.5 < signal_quality(clip + 0.1 * hum, RATE).score < whole

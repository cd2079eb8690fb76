"""Noise and rooms for synthetic speech; every random number comes from the caller's generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from audiorl.augment.transforms import pink_noise, white_noise
from audiorl.demo.sentences import random_sentence
from audiorl.demo.synthesiser import SAMPLING_RATE, Synthesiser, Voice
from audiorl.demo.voices import BABBLE_VOICES

__all__ = ["NOISE_KINDS", "add_noise", "reverberate"]

_BABBLE_TALKERS = 5
_BABBLE_UTTERANCES = 24


def babble_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Several synthetic talkers at once, of voices that no split uses: (samples,)."""
    talk = np.zeros(samples)
    for index in rng.integers(_BABBLE_UTTERANCES, size=_BABBLE_TALKERS):
        utterance = _babble_utterances()[index]
        start = int(rng.integers(len(utterance)))
        # Cyclic, so that a talker fills clips longer than the utterance.
        talk += np.resize(np.roll(utterance, -start), samples)
    return talk


@lru_cache(maxsize=1)
def _babble_utterances() -> tuple[np.ndarray, ...]:
    """The talkers' material, spoken once per process; each of unit power."""
    rng = np.random.default_rng(20_240)
    speak = Synthesiser().say
    utterances = []
    for index in range(_BABBLE_UTTERANCES):
        voice = Voice(BABBLE_VOICES[index % len(BABBLE_VOICES)], rate=int(rng.integers(150, 200)))
        speech = speak(f"{random_sentence(rng)} {random_sentence(rng)}", voice)
        utterances.append(speech / np.sqrt(np.mean(np.square(speech))))
    return tuple(utterances)


NOISE_KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
    "babble": babble_noise,
}


def add_noise(speech: np.ndarray, snr_db: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Add noise at a stated signal-to-noise ratio: `10 log10(mean(speech^2) / mean(noise^2)) = snr_db`.

    Args:
        speech: (samples,) float32 at 16 kHz, not silent.
        snr_db: ratio of mean powers over the whole clip, decibels; 0 means equally loud.
        kind: a key of `NOISE_KINDS`: "white", "pink" or "babble".
        rng: the only source of randomness.

    Returns:
        (samples,) float32; not clipped, so it may leave [-1, 1].

    Raises:
        ValueError: unknown `kind`, or silent `speech`.
    """
    if kind not in NOISE_KINDS:
        raise ValueError(
            f"There is no noise of kind {kind!r} in audiorl.demo.noise. Choose one of {sorted(NOISE_KINDS)}."
        )
    speech_power = float(np.mean(np.square(speech, dtype=np.float64))) if len(speech) else 0.0
    if speech_power == 0.0:
        raise ValueError(
            f"A silent clip of {len(speech)} samples has no signal-to-noise ratio (add_noise). "
            "Give add_noise speech, or generate the noise alone from NOISE_KINDS."
        )
    noise = NOISE_KINDS[kind](len(speech), rng)
    gain = np.sqrt(speech_power / (np.mean(np.square(noise)) * 10.0 ** (snr_db / 10.0)))
    return (speech + gain * noise).astype(np.float32)


def reverberate(speech: np.ndarray, decay_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Put speech into a room: convolve with an exponentially decaying noise tail after the direct sound.

    Args:
        speech: (samples,) float32 at 16 kHz.
        decay_seconds: time in which the tail falls by 60 dB, > 0.
        rng: the only source of randomness.

    Returns:
        (samples,) float32: the tail past the end of the clip is cut, the power is that of the input.

    Raises:
        ValueError: `decay_seconds` is not positive.

    Source: Polack 1988, the exponentially decaying stochastic model of a room's late response.
    """
    if decay_seconds <= 0:
        raise ValueError(
            f"A room cannot decay in {decay_seconds} s (reverberate). Give decay_seconds > 0, "
            "for instance 0.3 for an office."
        )
    length = max(2, int(decay_seconds * SAMPLING_RATE))
    envelope = 10.0 ** (-3.0 * np.arange(length) / length)
    response = rng.standard_normal(length) * envelope
    response *= 0.7 / np.sqrt(np.sum(np.square(response)))  # direct sound 3 dB above the whole tail
    response[0] = 1.0
    size = len(speech) + length
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size), size)[: len(speech)]
    wet *= np.sqrt(np.mean(np.square(speech)) / max(float(np.mean(np.square(wet))), 1e-20))
    return wet.astype(np.float32)

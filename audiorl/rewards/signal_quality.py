"""How clean a clip of speech is, from its samples alone: noise, clipping, dynamics, silence.

Frames are 25 ms long and begin every 10 ms; p[t] is the mean square of frame t, and the loudest frame is what the
others are measured by. A clip of zeros has the worst of everything.

These are estimates from one signal, without the clean one beside it. They tell steady noise, hum, clipping, flat and
empty clips; babble in the background, reverberation and a robotic timbre they do not tell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
# A frame counts as silence where it is this far below the loudest one.
SILENT_DB = 40.0
# Frames further below say nothing of the noise beside the speech: a cut or a fade made them, no room is as quiet.
EMPTY_DB = 60.0
# So large a share of the frames leaves a band to the noise, even where a voice never pauses.
NOISE_QUANTILE = 0.05
SNR_RANGE = (-10.0, 60.0)
# Samples that stand at the peak, by this share of it, are clipped where so many of them follow one another.
PEAK_TOLERANCE = 1e-4
SHORTEST_CLIPPED_RUN = 3

# measure -> (worst, best): a score of 0 at and beyond the one, of 1 at and beyond the other, a straight line between
RAMPS: dict[str, tuple[float, float]] = {
    "snr_db": (0.0, 20.0),
    "clipped_share": (0.02, 0.0),
    "dynamic_range_db": (3.0, 15.0),
    "silent_share": (0.9, 0.4),
}


class SignalQuality(NamedTuple):
    """What the samples of a clip say."""

    snr_db: float  # -10 to 60
    clipped_share: float  # of the samples, 0 to 1
    dynamic_range_db: float  # 0 to 40
    silent_share: float  # of the frames, 0 to 1

    @property
    def scores(self) -> dict[str, float]:
        """Each measure on its ramp (`RAMPS`), 0 to 1."""
        return {name: ramp(getattr(self, name), *RAMPS[name]) for name in self._fields}

    @property
    def score(self) -> float:
        """Mean of the four scores, 0 to 1; 0 for a clip that is silent from end to end."""
        return 0.0 if self.silent_share == 1 else math.fsum(self.scores.values()) / len(self)


def signal_quality(clip: np.ndarray, sampling_rate: int) -> SignalQuality:
    """All four measures of a clip.

    Args:
        clip: (samples,) float, mono; samples, at least one window of them, may be all zero or none at all.
        sampling_rate: Hz.
    """
    return SignalQuality(
        snr_db(clip, sampling_rate),
        clipped_share(clip),
        dynamic_range_db(clip, sampling_rate),
        silent_share(clip, sampling_rate),
    )


def snr_db(clip: np.ndarray, sampling_rate: int) -> float:
    """Ratio of speech to steady noise.

        P[t, f] = |windowed spectrum of frame t|^2, frames within 60 dB of the loudest
        noise = sum over f of quantile_0.05(P[:, f]) / -ln(1 - 0.05)
        snr = 10 log10((sum over f of mean(P[:, f]) - noise) / noise)

    Speech leaves every band now and then, so that a low quantile of the band's power is the noise's; noise has
    exponentially distributed power in a band, whose quantile q lies at -ln(1 - q) times its mean.

    Range: [-10, 60] dB; 60 without noise, -10 for noise alone and for silence. Of synthetic speech with white or pink
    noise at 0 to 20 dB the estimate is within 4 dB. Clean speech reaches 20 to 40, according to its pauses; of less
    than a second without one, 15.

    Source: Stahl, Fischer and Bippus 2000, quantile based noise estimation; the correction is the exponential
    distribution's.
    """
    frames = _frames(clip, sampling_rate)
    power = np.square(frames).mean(-1)
    lowest, highest = SNR_RANGE
    if not power.any():
        return lowest
    heard = frames[power >= power.max() * 10 ** (-EMPTY_DB / 10)] * np.hanning(frames.shape[-1])
    spectra = np.square(np.abs(np.fft.rfft(heard)))
    noise = float(np.quantile(spectra, NOISE_QUANTILE, axis=0).sum() / -math.log(1 - NOISE_QUANTILE))
    speech = float(spectra.mean(0).sum()) - noise
    if noise == 0:
        return highest
    return lowest if speech <= 0 else float(np.clip(10 * math.log10(speech / noise), lowest, highest))


def clipped_share(clip: np.ndarray) -> float:
    """Share of samples that stand at the clip's own peak, in runs of three and more of one sign.

    Range: [0, 1]; 1 for silence. A clip that was scaled after it was cut off is found as well; one that was filtered,
    compressed or made noisy afterwards has no flat tops left.
    """
    samples = np.asarray(clip, dtype=np.float64)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0:
        return 1.0
    count = 0
    for side in (samples, -samples):
        flat = np.concatenate([[False], side >= peak * (1 - PEAK_TOLERANCE), [False]])
        starts, ends = np.flatnonzero(~flat[:-1] & flat[1:]), np.flatnonzero(flat[:-1] & ~flat[1:])
        runs = ends - starts
        count += int(runs[runs >= SHORTEST_CLIPPED_RUN].sum())
    return count / len(samples)


def dynamic_range_db(clip: np.ndarray, sampling_rate: int) -> float:
    """How far the loud frames are above the quiet ones, among those that are not silence.

        range = 95th - 10th percentile of 10 log10 p[t] over frames within 40 dB of the loudest

    Range: [0, 40] dB. Speech has 15 and more, noise and hum 1 to 3, speech in loud noise between; 0 for silence.
    """
    power = np.square(_frames(clip, sampling_rate)).mean(-1)
    if not power.any():
        return 0.0
    levels = 10 * np.log10(power[power >= power.max() * 10 ** (-SILENT_DB / 10)])
    quiet, loud = np.percentile(levels, [10, 95])
    return float(loud - quiet)


def silent_share(clip: np.ndarray, sampling_rate: int) -> float:
    """Share of frames more than 40 dB below the loudest.

    Range: [0, 1]; 1 for silence. Pauses make up 0.1 to 0.4 of read speech.
    """
    power = np.square(_frames(clip, sampling_rate)).mean(-1)
    if not power.any():
        return 1.0
    return float((power < power.max() * 10 ** (-SILENT_DB / 10)).mean())


def ramp(value: float, worst: float, best: float) -> float:
    """0 at and beyond `worst`, 1 at and beyond `best`, a straight line between them."""
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def _frames(clip: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(frames, window) float64, one at least: a shorter clip is filled up with zeros."""
    window, hop = round(WINDOW_SECONDS * sampling_rate), round(HOP_SECONDS * sampling_rate)
    samples = np.asarray(clip, dtype=np.float64)
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]

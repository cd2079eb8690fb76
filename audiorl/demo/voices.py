"""Who speaks in which split, and under which conditions.

Accents and variants of the three splits are disjoint, and none of them babbles in the background. `base` is
what the shipped checkpoint was trained on; `tune` and `held_out` share the kinds of difficulty (noise, room,
faster speech, unknown accents) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

__all__ = ["BABBLE_VOICES", "SPLITS", "Split"]


def _cross(accents: tuple[str, ...], variants: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{accent}+{variant}" for accent, variant in product(accents, variants))


@dataclass(frozen=True)
class Split:
    """The speakers of a split and the conditions they speak under.

    Args:
        voices: espeak-ng voice names.
        rate: lowest and highest speaking rate, words per minute.
        pitch: lowest and highest pitch, 0 to 99.
        noisy: share of clips with noise added, 0 to 1.
        snr_db: lowest and highest signal-to-noise ratio of those, decibels.
        reverberant: share of clips in a room, 0 to 1.
    """

    voices: tuple[str, ...]
    rate: tuple[int, int]
    pitch: tuple[int, int]
    noisy: float
    snr_db: tuple[float, float]
    reverberant: float


BABBLE_VOICES = _cross(("en-us", "en-gb-scotland"), ("Alex", "steph2", "max"))

SPLITS: dict[str, Split] = {
    "base": Split(
        voices=_cross(("en-us",), ("m1", "m3", "m7", "f1", "f2", "f4")),
        rate=(165, 190),
        pitch=(40, 60),
        noisy=0.2,
        snr_db=(20.0, 35.0),
        reverberant=0.0,
    ),
    "tune": Split(
        voices=_cross(
            ("en-gb-scotland", "en-029", "en-us-nyc"),
            ("m2", "m4", "m6", "f3", "Andy", "Mike", "linda", "rob", "travis", "shelby"),
        ),
        rate=(170, 215),
        pitch=(30, 70),
        noisy=0.7,
        snr_db=(10.0, 20.0),
        reverberant=0.2,
    ),
    "held_out": Split(
        voices=_cross(
            ("en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd"),
            ("m5", "m8", "f5", "Lee", "ed", "ian", "belinda", "norbert", "aunty", "sandro"),
        ),
        rate=(170, 215),
        pitch=(30, 70),
        noisy=0.7,
        snr_db=(10.0, 20.0),
        reverberant=0.2,
    ),
}

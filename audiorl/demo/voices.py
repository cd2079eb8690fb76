"""Who speaks in which split, and under which conditions.

The speakers (espeak-ng variants) of the three splits are disjoint, and none of them babbles in the background; the
three accents are shared. `base` is what the shipped checkpoint was trained on: many speakers, hardly any noise.
`tune` and `held_out` share the kinds of difficulty (noise it never heard, room, faster speech), and no speaker.
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

_ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland")
# Speakers of one gender and age lie close together, so each split gets its share of every sort.
_BASE = ("m1", "m3", "m7", "f1", "f2", "f4", "Andy", "Mike", "linda", "rob", "Lee", "ed", "belinda", "norbert")
_TUNE = ("m2", "m4", "m6", "f3", "travis", "shelby")
_HELD_OUT = ("m5", "m8", "f5", "ian", "aunty", "sandro")

SPLITS: dict[str, Split] = {
    "base": Split(
        voices=_cross(_ACCENTS, _BASE),
        rate=(160, 195),
        pitch=(35, 65),
        noisy=0.2,
        snr_db=(20.0, 35.0),
        reverberant=0.0,
    ),
    "tune": Split(
        voices=_cross(_ACCENTS, _TUNE),
        rate=(160, 205),
        pitch=(35, 65),
        noisy=1.0,
        snr_db=(5.0, 15.0),
        reverberant=0.1,
    ),
    "held_out": Split(
        voices=_cross(_ACCENTS, _HELD_OUT),
        rate=(160, 205),
        pitch=(35, 65),
        noisy=1.0,
        snr_db=(5.0, 15.0),
        reverberant=0.1,
    ),
}

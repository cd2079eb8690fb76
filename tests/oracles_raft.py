"""RAFT's selection as loops over lists, written from the rules; imports nothing from audiorl."""

from __future__ import annotations

from fractions import Fraction
from math import ceil


def kept_places(
    rewards: list[list[float]], eligible: list[list[bool]], *, most: int, share: Fraction, threshold: float | None
) -> set[tuple[int, int]]:
    """The (clip, hypothesis) pairs that are kept.

    Args:
        most: hypotheses of a clip that stay in.
        share: of those, over all clips, that stay in; exact.
        threshold: smallest reward of those that is kept.
    """
    best_of_clips = []
    for clip, group in enumerate(rewards):
        allowed = [(-reward, k) for k, reward in enumerate(group) if eligible[clip][k]]
        best_of_clips += [(negative, clip, k) for negative, k in sorted(allowed)[:most]]
    ranked = sorted(best_of_clips)[: ceil(share * len(best_of_clips))]
    return {(clip, k) for negative, clip, k in ranked if threshold is None or -negative >= threshold}

"""Sound files that are mixed into clips: found, looked at before training, decoded once in each process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from audiorl.audio import AudioFault, audio_seconds, load_audio
from audiorl.audio.sources import SOUND_SUFFIXES

# Decoded recordings that a process keeps; a minute at 16 kHz is 4 MB.
_KEPT = 16


def find_recordings(paths: Sequence[str], place: str) -> tuple[str, ...]:
    """Sound files by path, folders with all below them; in one order on every machine.

    Args:
        paths: files and folders.
        place: how errors name the setting.

    Raises:
        ValueError: a path that is not there, a folder without sound files, or a file whose header shows that it
            cannot be used.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            below = [os.path.join(base, name) for base, _, names in os.walk(path) for name in names]
            sounds = sorted(name for name in below if name.lower().endswith(SOUND_SUFFIXES))
            if not sounds:
                raise ValueError(
                    f"{place}: the folder {path} holds no sound file. Put some there ({', '.join(SOUND_SUFFIXES)}), or "
                    "name another folder."
                )
            found += sounds
        elif os.path.isfile(path):
            found.append(path)
        else:
            raise ValueError(
                f"{place}: there is no file or folder {path}. Correct the path; relative ones start at the "
                "description's file, or where there is none at the working directory."
            )
    for path in found:
        try:
            audio_seconds(path)
        except AudioFault as fault:
            raise ValueError(f"{place}: {fault.problem}. {fault.remedy}") from fault
    return tuple(found)


@lru_cache(maxsize=_KEPT)
def recording(path: str, sampling_rate: int) -> np.ndarray:
    """One sound file, mono at the given rate: (samples,) float32, not silent, not to be written to.

    Raises:
        ValueError: the file breaks on decoding. It is no fault of the row at hand, so that no row is skipped for it.
    """
    try:
        samples = load_audio(path, sampling_rate)
    except AudioFault as fault:
        raise ValueError(f"A recording for augmentation cannot be used: {fault.problem}. {fault.remedy}") from fault
    samples.flags.writeable = False
    return samples

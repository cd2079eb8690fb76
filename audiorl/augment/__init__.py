"""Clips made harder for training: noise, speed, pitch, gain, rooms, masks, from a description in JSON or YAML.

A description is a dict from transforms to their settings, a string that holds one, or a file that does:

    {"speed": {"factor": [0.9, 1.1]},
     "reverb": {"decay_seconds": [0.1, 0.5], "p": 0.3},
     "noise": {"type": "files", "path": "noises", "snr_db": [5, 20], "p": 0.5},
     "time_mask": {"seconds": [0, 0.4], "count": 2},
     "too_long": "unaugmented"}

A number may be a range `[low, high]`; each clip draws its own value from it. `p` is the probability that a transform is
applied, 1 where it is left out. Transforms act in the order they are written in; masks act last. A list of such dicts
lets a transform occur twice. Paths are relative to the description's file.

| transform | settings |
|---|---|
| `noise` | `type` gaussian (default) or files; `snr_db`, or gaussian `std` of full scale; `path` of files, folders |
| `speed` | `factor`, 0.9 makes the clip 1 / 0.9 as long; `keep_pitch` (default false: the pitch moves along) |
| `pitch` | `steps`, semitones; the duration stays |
| `gain` | `db` |
| `reverb` | `decay_seconds` (60 dB) and `direct_db` (direct sound over tail), or `path` of impulse responses |
| `time_mask` | `seconds` of each mask, at most `max_share` of the clip (default 0.2), `count` masks (default 1) |
| `frequency_mask` | `bins` of the mel spectrogram, `count` masks (default 1); for models that hear one |

`too_long` says what a clip does that grows longer than the model's window: "error" (default) makes it a fault of its
row, found before training and treated as `on_bad_rows` says; "unaugmented" trains on the clip as it is.

Every random number depends on (seed, epoch, row, transform) only. A wrong description is refused when it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from audiorl.audio import AudioFault
from audiorl.augment.settings import nearest, read_settings
from audiorl.augment.transforms import MASKS, TRANSFORMS, FrequencyMask, TimeMask, Transform

__all__ = ["Augmentation", "load_augmentation"]

TOO_LONG = ("error", "unaugmented")


class Augmentation:
    """Transforms for clips and masks for their spectrograms.

    A clip does not depend on the rows beside it, on the worker or process that makes it, on what came before, or on
    global generators. The epoch lies in shared memory, so that workers which outlive an epoch hear of the next one:
    set it before the loader's iterator is made, when nothing of the last epoch is outstanding.

    Args:
        transforms: applied in this order.
        masks: applied after them, in this order.
        seed: an integer >= 0.
        too_long: what becomes of a clip that outgrows the window: "error" or "unaugmented".
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        masks: Sequence[TimeMask | FrequencyMask] = (),
        *,
        seed: int = 0,
        too_long: str = "error",
    ):
        self.transforms = tuple(transforms)
        self.masks = tuple(masks)
        self.seed = seed
        self.too_long = too_long
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which pass over the rows begins, >= 0; workers that run already hear of it too."""
        self._epoch.fill_(epoch)

    @property
    def growth(self) -> float | None:
        """How many times as long as it is a clip has to find room, >= 1; None where every clip keeps its length.

        It is 1 where outgrown clips are left as they are, though others become longer or shorter.
        """
        found = [transform.growth for transform in self.transforms if transform.growth is not None]
        if not found:
            return None
        return 1.0 if self.too_long == "unaugmented" else max(found)

    @property
    def longest(self) -> float:
        """How many times as long as it is a clip can become, >= 1, whatever happens to those that outgrow a window."""
        return max((transform.growth for transform in self.transforms if transform.growth is not None), default=1.0)

    def require_fit(self, mel_bins: int | None) -> None:
        """Check the masks against what a model hears.

        Args:
            mel_bins: M; None where it hears the waveform.

        Raises:
            ValueError: a frequency mask without a spectrogram, or one that could cover all of it.
        """
        for mask in self.masks:
            if not isinstance(mask, FrequencyMask):
                continue
            if mel_bins is None:
                raise ValueError(
                    "augmentation: frequency_mask covers bins of a mel spectrogram, and this model hears the waveform. "
                    "Leave it out; time_mask works here."
                )
            if mask.bins.high >= mel_bins:
                raise ValueError(
                    f"augmentation: frequency_mask.bins reaches {mask.bins.high:g}, and this model has {mel_bins} "
                    f"mel bins; some must stay. Choose at most {mel_bins - 1}; 27 of 80 is usual."
                )

    def clip(
        self,
        clip: np.ndarray,
        sampling_rate: int,
        row_id: int,
        *,
        max_seconds: float | None = None,
        mask: bool = False,
    ) -> np.ndarray:
        """The clip of a row in this epoch.

        Args:
            clip: (samples,) float32, not written to.
            sampling_rate: Hz.
            row_id: >= 0.
            max_seconds: the model's window.
            mask: whether time masks silence the waveform, because there is no spectrogram for `mask_spectrogram`.

        Returns:
            (samples,) float32, possibly `clip` itself.

        Raises:
            AudioFault: the clip outgrew the window, and `too_long` is "error".
        """
        heard = clip
        for place, transform in enumerate(self.transforms):
            rng = self._rng(row_id, place)
            if rng.random() < transform.p:
                heard = transform(heard, sampling_rate, rng)
        if max_seconds is not None and len(heard) > max_seconds * sampling_rate:
            if self.too_long == "error":
                raise AudioFault(
                    f"the augmented clip is {len(heard) / sampling_rate:.2f} s long, the model hears {max_seconds:g} s",
                    'Cut the clip, slow it less, or set too_long to "unaugmented" in the augmentation.',
                )
            heard = clip
        for place, time_mask in enumerate(self.masks if mask else (), len(self.transforms)):
            rng = self._rng(row_id, place)
            if isinstance(time_mask, TimeMask) and rng.random() < time_mask.p:
                heard = time_mask.on_clip(heard, sampling_rate, rng)
        return heard

    def mask_spectrogram(self, mel: Tensor, seconds: float, row_id: int) -> None:
        """Mask the spectrogram of a row's clip in place.

        Args:
            mel: (M, frames), the clip's own frames without padding.
            seconds: how long the clip is, > 0.
            row_id: >= 0.
        """
        for place, mask in enumerate(self.masks, len(self.transforms)):
            rng = self._rng(row_id, place)
            if rng.random() < mask.p:
                mask.on_spectrogram(mel, seconds, rng)

    def _rng(self, row_id: int, place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, row_id, place])


FILE_SUFFIXES = (".json", ".yaml", ".yml")
_EXAMPLE = '{"speed": {"factor": [0.9, 1.1]}, "noise": {"snr_db": [5, 20], "p": 0.5}}'


def load_augmentation(description: Any, *, seed: int = 0) -> Augmentation:
    """Read a description; `audiorl.augment` says what it may hold.

    Args:
        description: dict, list of dicts, JSON or YAML text, or the path of a file with either.
        seed: an integer >= 0 that every clip's random numbers depend on.

    Raises:
        ValueError: no such file, text that cannot be read, an unknown transform or setting, a value of a wrong type or
            out of range, missing recordings, or a transform whose package is not installed.
    """
    written, folder = _written(description)
    steps = _steps(written)
    too_long = "error"
    transforms, masks = [], []
    for name, settings in steps:
        place = f"augmentation: {name}"
        if name == "too_long":
            if settings not in TOO_LONG:
                raise ValueError(f"{place} is {settings!r}, which is not offered. {nearest(str(settings), TOO_LONG)}")
            too_long = settings
        elif name in TRANSFORMS:
            transforms.append(read_settings(TRANSFORMS[name], settings, place, folder))
        elif name in MASKS:
            masks.append(read_settings(MASKS[name], settings, place, folder))
        else:
            known = (*TRANSFORMS, *MASKS, "too_long")
            raise ValueError(f"augmentation has no transform {name!r}. {nearest(str(name), known)}")
    for once in ("speed", "too_long"):
        if sum(name == once for name, _ in steps) > 1:
            raise ValueError(f"augmentation: {once} is there twice. Write it once.")
    if not transforms and not masks:
        raise ValueError(f"The augmentation names no transform. Leave it out altogether, or write {_EXAMPLE}.")
    return Augmentation(transforms, masks, seed=seed, too_long=too_long)


def _steps(written: Any) -> list[tuple[Any, Any]]:
    """The names and settings in their order."""
    parts = written if isinstance(written, list | tuple) else [written]
    for part in parts:
        if not isinstance(part, Mapping):
            raise ValueError(
                f"The augmentation holds {part!r} ({type(part).__name__}), not a dict of transforms. Write {_EXAMPLE}."
            )
    return [step for part in parts for step in part.items()]


def _written(description: Any) -> tuple[Any, str]:
    """What is written, and the folder that its paths start from."""
    if not isinstance(description, str | os.PathLike):
        return description, ""
    name = os.fspath(description)
    if os.path.isfile(name):
        with open(name, encoding="utf-8") as file:
            return _read(file.read(), f"the file {name}"), os.path.dirname(name)
    if name.lower().endswith(FILE_SUFFIXES) and "\n" not in name:
        raise ValueError(
            f"augmentation: there is no file {name}. Check the path; relative ones start at {os.getcwd()}."
        )
    return _read(name, "the text"), ""


def _read(text: str, source: str) -> Any:
    """YAML. It includes JSON, except for tabs between tokens and numbers like 1e-3."""
    try:
        if text.lstrip().startswith(("{", "[")):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text, object_pairs_hook=_without_repeats)
        return yaml.load(text, _NoRepeats)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The augmentation cannot be read from {source}: {error}. Correct it; it looks like {_EXAMPLE}."
        ) from error


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one dict; a transform that occurs twice needs a list of dicts")
    return found


class _NoRepeats(yaml.SafeLoader):
    """PyYAML's safe loader, but equal names are an error; PyYAML would keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return _without_repeats(
            [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
        )

"""Clips made harder for training: noise, speed, pitch, gain, rooms, masks, from a description in JSON or YAML.

A description is a dict from transforms to their settings, a string that holds one, or a file that does:

    {"speed": {"factor": [0.9, 1.1]},
     "reverb": {"decay_seconds": [0.1, 0.5], "p": 0.3},
     "noise": {"type": "files", "path": "noises", "snr_db": [5, 20], "p": 0.5},
     "time_mask": {"seconds": [0, 0.4], "count": 2},
     "too_long": "unaugmented"}

A number may be a range `[low, high]`, of which each clip draws its own. `p` is the probability that a transform is
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
"""

from audiorl.augment.augmentation import Augmentation, load_augmentation

__all__ = ["Augmentation", "load_augmentation"]

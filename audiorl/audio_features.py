"""The former name of `audiorl.audio.features`."""

from audiorl.audio.features import *  # noqa: F403

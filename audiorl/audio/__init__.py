"""Clips in, mono float32 at the model's rate out.

    load        one clip decoded, or its length; what makes a clip unusable; its channel
    sources     the shapes in which a row may give its clip
    containers  what a file's bytes say of themselves: kind, length, a missing end; mp3 counts frames
    libsndfile, ffmpeg   the two readers; the second is the extra `audiorl[av]`
    features    what is made of a clip besides a model's own input

Names are loaded on first use, so that a fault can be raised without decoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

if TYPE_CHECKING:
    from audiorl.audio.containers import audio_suffix
    from audiorl.audio.features import (
        ClipProcessor,
        ProcessedClip,
        cut_clip,
        fit_clip,
        log_mel_spectrogram,
        mel_spectrogram,
        mfcc,
        normalise_peak,
    )
    from audiorl.audio.load import (
        LOUDEST_SAMPLE,
        SILENCE_PEAK,
        audio_bytes,
        audio_seconds,
        channel_of,
        load_audio,
        load_row_audio,
        row_audio_seconds,
    )
    from audiorl.audio.sources import AudioFault

# public name -> module
_HOMES = {
    "AudioFault": "sources",
    "ClipProcessor": "features",
    "LOUDEST_SAMPLE": "load",
    "ProcessedClip": "features",
    "SILENCE_PEAK": "load",
    "audio_bytes": "load",
    "audio_seconds": "load",
    "audio_suffix": "containers",
    "channel_of": "load",
    "cut_clip": "features",
    "fit_clip": "features",
    "load_audio": "load",
    "load_row_audio": "load",
    "log_mel_spectrogram": "features",
    "mel_spectrogram": "features",
    "mfcc": "features",
    "normalise_peak": "features",
    "row_audio_seconds": "load",
}

__all__ = [
    "LOUDEST_SAMPLE",
    "SILENCE_PEAK",
    "AudioFault",
    "ClipProcessor",
    "ProcessedClip",
    "audio_bytes",
    "audio_seconds",
    "audio_suffix",
    "channel_of",
    "cut_clip",
    "fit_clip",
    "load_audio",
    "load_row_audio",
    "log_mel_spectrogram",
    "mel_spectrogram",
    "mfcc",
    "normalise_peak",
    "row_audio_seconds",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

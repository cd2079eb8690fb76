"""Clips in, mono float32 at the model's rate out.

    load        one clip decoded, or its length; what makes a clip unusable; its channel
    sources     the shapes in which a row may give its clip
    containers  what a file's bytes tell: kind, length, a missing end; mp3 counts frames
    libsndfile, ffmpeg   the two readers; the second is the extra `audiorl[av]`
    features    other features of a clip than a model's own input

Names are loaded on first use: raising a fault imports no decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiorl.lazy import lazy_names

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
    "row_audio_bytes": "load",
    "row_audio_digest": "load",
    "row_audio_seconds": "load",
    "row_segment": "load",
}

if TYPE_CHECKING:
    from audiorl.audio.containers import audio_suffix as audio_suffix
    from audiorl.audio.features import ClipProcessor as ClipProcessor
    from audiorl.audio.features import ProcessedClip as ProcessedClip
    from audiorl.audio.features import cut_clip as cut_clip
    from audiorl.audio.features import fit_clip as fit_clip
    from audiorl.audio.features import log_mel_spectrogram as log_mel_spectrogram
    from audiorl.audio.features import mel_spectrogram as mel_spectrogram
    from audiorl.audio.features import mfcc as mfcc
    from audiorl.audio.features import normalise_peak as normalise_peak
    from audiorl.audio.load import LOUDEST_SAMPLE as LOUDEST_SAMPLE
    from audiorl.audio.load import SILENCE_PEAK as SILENCE_PEAK
    from audiorl.audio.load import audio_bytes as audio_bytes
    from audiorl.audio.load import audio_seconds as audio_seconds
    from audiorl.audio.load import channel_of as channel_of
    from audiorl.audio.load import load_audio as load_audio
    from audiorl.audio.load import load_row_audio as load_row_audio
    from audiorl.audio.load import row_audio_bytes as row_audio_bytes
    from audiorl.audio.load import row_audio_digest as row_audio_digest
    from audiorl.audio.load import row_audio_seconds as row_audio_seconds
    from audiorl.audio.load import row_segment as row_segment
    from audiorl.audio.sources import AudioFault as AudioFault
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)

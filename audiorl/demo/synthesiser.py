"""Offline speech: espeak-ng from the `espeakng-loader` wheel, driven through ctypes.

espeak-ng keeps its pitch flutter and its gain control in C statics that no call resets, so a second utterance
of one process differs from the first. Each utterance therefore loads the library, speaks, and unloads it:
samples depend on the text and the voice alone, in any order and in any process, and no state is left to fork.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from audiorl.text.phonemes import ONE_AT_A_TIME, espeak_paths, loaded_library

__all__ = ["SAMPLING_RATE", "Synthesiser", "SynthesiserError", "SynthesiserMissing", "UnknownVoice", "Voice"]

SAMPLING_RATE = 16_000

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE, _WORD_GAP = 1, 3, 4, 7
_SAMPLE_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
# text, size, position, position type, end position, flags, identifier, user data
_SYNTH_ARGUMENTS = (
    *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
    *(ctypes.c_void_p, ctypes.c_void_p),
)


class SynthesiserMissing(ImportError):
    """The `espeakng-loader` wheel is not installed."""


class SynthesiserError(RuntimeError):
    """espeak-ng refused to start or to speak."""


class UnknownVoice(ValueError):
    """espeak-ng has no voice of that name."""


@dataclass(frozen=True)
class Voice:
    """How an utterance sounds.

    Args:
        name: espeak-ng language, with a variant after a plus sign: `en-us`, `en-gb-scotland+f2`.
        rate: words per minute, 80 to 450.
        pitch: 0 to 99; 50 is the variant's own.
        pitch_range: 0 (monotone) to 99.
        word_gap: extra pause between words, units of 10 ms at the normal rate, 0 or more.

    Raises:
        ValueError: a value is outside its range.
    """

    name: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0

    def __post_init__(self) -> None:
        limits = {"rate": (80, 450), "pitch": (0, 99), "pitch_range": (0, 99), "word_gap": (0, 500)}
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(
                    f"espeak-ng has no such setting: Voice({self.name!r}).{field} is {value}. "
                    f"Choose an integer from {low} to {high}."
                )


class Synthesiser:
    """Turns text into speech; holds no state, so it can be shared, copied, forked and pickled.

    Raises:
        SynthesiserMissing: `espeakng-loader` is not installed.
    """

    def __init__(self) -> None:
        self.library_path, self.data_path = _wheel_paths()

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """Speak `text`: the same samples for the same text and voice, always.

        Args:
            text: what to say, not blank.
            voice: who says it, and how.

        Returns:
            (samples,) float32 mono at 16 kHz, within [-1, 1].

        Raises:
            UnknownVoice: espeak-ng has no voice `voice.name`.
            SynthesiserError: espeak-ng did not start, or produced no sound for `text`.
        """
        import librosa

        with ONE_AT_A_TIME, loaded_library(self.library_path) as library:
            library.espeak_Synth.argtypes = _SYNTH_ARGUMENTS
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(self.data_path), _DO_NOT_EXIT)
            if rate <= 0:
                raise SynthesiserError(
                    f"espeak-ng did not start from its data folder {self.data_path!r} (code {rate}). "
                    "Its own limit is 160 characters of path: install espeakng-loader under a shorter one."
                )
            try:
                pcm = _speak(library, text, voice)
            finally:
                library.espeak_Terminate()
        if not pcm.any():
            raise SynthesiserError(
                f"espeak-ng made no sound for the text {text!r} with voice {voice.name!r}. "
                "Give it text with at least one pronounceable word."
            )
        speech = pcm.astype(np.float32) / 32768.0
        return np.clip(librosa.resample(speech, orig_sr=rate, target_sr=SAMPLING_RATE), -1.0, 1.0)


def _wheel_paths() -> tuple[str, str]:
    """Paths of the wheel's shared library and of its data folder."""
    try:
        return espeak_paths()
    except ImportError as error:
        raise SynthesiserMissing(
            "The demo's speech synthesiser is not installed: `import espeakng_loader` failed in "
            'audiorl.demo. Run: pip install "audiorl[demo]"'
        ) from error


def _speak(library: ctypes.CDLL, text: str, voice: Voice) -> np.ndarray:
    """Int16 samples at the library's own rate, from an initialised library."""
    chunks: list[bytes] = []

    def collect(samples: ctypes.Array, count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _SAMPLE_CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise UnknownVoice(
            f"espeak-ng has no voice {voice.name!r} among those of the espeakng-loader wheel. "
            "Use a language such as 'en-us' or 'en-gb-scotland', with or without a variant ('+f2')."
        )
    settings = ((_RATE, voice.rate), (_PITCH, voice.pitch), (_PITCH_RANGE, voice.pitch_range))
    for parameter, value in (*settings, (_WORD_GAP, voice.word_gap)):
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(1)  # aspiration noise of breathy voices
    encoded = text.encode()
    status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    if status != 0:
        raise SynthesiserError(
            f"espeak-ng failed with code {status} on the text {text!r} with voice {voice.name!r}. "
            "Shorten the text, or choose another voice."
        )
    return np.frombuffer(b"".join(chunks), dtype=np.int16)

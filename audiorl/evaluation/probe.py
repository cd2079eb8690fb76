"""What a model says where nothing is said: synthetic silence and noise as rows with an empty transcript."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import soundfile

from audiorl.augment.transforms import pink_noise, white_noise
from audiorl.evaluation.measurement import Measurement, measure, sorted_out
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.systems import System

SAMPLING_RATE = 16_000
# (kind, RMS in decibels over full scale): a dead microphone, a quiet room, a loud one.
SOUNDS: tuple[tuple[str, float | None], ...] = (
    ("silence", None),
    ("white", -50.0),
    ("white", -30.0),
    ("pink", -50.0),
    ("pink", -30.0),
)
_NOISES = {"white": white_noise, "pink": pink_noise}
_TEXT = "text"


@dataclass(frozen=True)
class Probe:
    """What one model says of `SOUNDS`, in their order."""

    model: str
    seconds: float  # of each clip
    measured: Measurement

    def to_dict(self) -> dict[str, Any]:
        """As in an evaluation document."""
        found, silence = self.measured, self.measured.silence
        assert silence is not None
        return {
            "model": self.model,
            "seconds": self.seconds,
            "clips": [
                {
                    "kind": kind,
                    "level_db": level,
                    "hypothesis": clip.hypothesis,
                    "words": int(words),
                    "looping": bool(looping),
                }
                for (kind, level), clip, words, looping in zip(
                    [SOUNDS[place] for place in found.places],
                    found.rows,
                    found.errors.insertions,
                    found.is_looping,
                    strict=True,
                )
            ],
            "failed": [asdict(clip) for clip in found.failed],
            "with_output": silence.with_output,
            "words": silence.words,
        }


def check_probe(seconds: float, system: System) -> None:
    """Check the length before anything is decoded.

    Raises:
        ValueError: it is not above 0, or no length that the model hears; or the model answers with labels.
    """
    limit = system.max_seconds
    if not seconds > 0 or seconds < system.min_seconds or (limit is not None and seconds > limit):
        longest = "any length" if limit is None else f"{limit:g} s"
        raise ValueError(
            f"The probe's clips are of a length that the model hears; got {seconds:g} s, and {system.name} hears "
            f"{system.min_seconds:g} s to {longest}. Change --probe_seconds."
        )
    if not system.task.writes_text:
        raise ValueError(
            f"{system.name} answers with a label whatever it hears, so silence shows nothing. Leave --probe_seconds "
            "out."
        )


def probe(system: System, seconds: float, settings: EvaluationSettings, *, progress: bool = True) -> Probe:
    """Let a model transcribe silence and noise.

    Args:
        system: the model.
        seconds: length of each clip.
        settings: normaliser and unit; whatever is said is an insertion.
    """
    columns = EvaluationSettings(normalise=settings.normalise, unit=settings.unit)
    done = system.transcribe(probe_rows(seconds), _TEXT, progress=progress)
    clips, failed = sorted_out(done, columns)
    return Probe(system.name, seconds, replace(measure(clips, columns), failed=failed))


def probe_rows(seconds: float) -> list[dict[str, Any]]:
    """The clips of `SOUNDS`, the same at each call: 16-bit WAV, mono, 16 kHz."""
    rng = np.random.default_rng(0)
    return [
        {"id": kind if level is None else f"{kind} {level:g} dB", _TEXT: "", "audio": {"bytes": wav, "path": None}}
        for kind, level in SOUNDS
        for wav in [_wav(_sound(kind, level, round(seconds * SAMPLING_RATE), rng))]
    ]


def _sound(kind: str, level: float | None, samples: int, rng: np.random.Generator) -> np.ndarray:
    if level is None:
        return np.zeros(samples)
    noise = _NOISES[kind](samples, rng)
    return noise * 10 ** (level / 20) / np.sqrt(np.mean(np.square(noise)))


def _wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()

"""What is measured: a model in this process or on a server; and what it writes for synthetic silence and noise."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import soundfile
import torch
from torch import nn

from audiorl.augment.transforms import pink_noise, white_noise
from audiorl.evaluation.measurement import Measurement, measure
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.transcription import (
    Check,
    FailedRow,
    TranscribedRow,
    check_weights,
    decoding_in_force,
    family_of,
    sorted_out,
    transcribed_rows,
)
from audiorl.models import LongForm, base_model
from audiorl.text.history import checked_source
from audiorl.text.tasks import Task

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


class System(Protocol):
    """A model that can be asked for transcripts.

    Attributes:
        name: under which it is reported.
        max_seconds: longest clip it takes; None where there is no limit, or none is known.
        min_seconds: shortest clip it takes.
        task: what it answers with, text or one of a few labels.
        includes: what `decoding_seconds` includes.
        decoding_seconds: wall time of the rows transcribed since the last call of `transcribe` began.
    """

    name: str
    max_seconds: float | None
    min_seconds: float
    task: Task
    includes: str
    decoding_seconds: float

    def transcribe(
        self, rows: Any, transcript_column: str, *, check: Check | None = None, progress: bool = True
    ) -> Iterator[TranscribedRow | FailedRow]:
        """Rows with what was said of them, in their order; those of which nothing was said, for what reason.

        Args:
            rows: whatever `audiorl.datasets.speech_rows` takes.
            transcript_column: rows whose transcript is blank may be silent.
            check: called with each row and its place before it is decoded; raises to refuse it.
        """
        ...

    def decoding(self) -> dict[str, Any]:
        """The settings of the search, as JSON."""
        ...


class LocalModel:
    """A model in this process.

    Args:
        name: under which it is reported.
        model: a speech model; it is on `device` while it transcribes and on the CPU otherwise, so that several models
            need the memory of one.
        processor: its processor.
        generation: keywords of the search: `max_new_tokens`, `num_beams`, ...; the rest is the generation config's.
        batch_size: clips decoded at once, > 0.
        device: where it transcribes.
        language, task: of rows that name none; None leaves them to the processor.
        history_source: where what was said before a clip is read, see `audiorl.text.history`.
        encoder_cache, encoder_cache_dtype: folder and type of an `EncoderCache`; None encodes every clip.
        long_form: how clips beyond the model's window are transcribed; None refuses them.

    Raises:
        ValueError: no family knows this model, it has no such language or task, a number is below 1, or a setting of
            the search for a model that answers with labels.
        FloatingPointError: the model has weights that are not finite.
    """

    includes = (
        "feature extraction, search and detokenising of all batches, the first one's warm-up too; "
        "not loading the model, not reading and resampling audio"
    )

    def __init__(
        self,
        name: str,
        model: nn.Module,
        processor: Any,
        *,
        generation: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
        language: str | None = None,
        task: str | None = None,
        history_source: str = "transcript",
        encoder_cache: str | os.PathLike[str] | None = None,
        encoder_cache_dtype: str = "bfloat16",
        long_form: LongForm | None = None,
    ):
        numbers = {"batch_size": batch_size, **(generation or {})}
        if low := [option for option, value in numbers.items() if isinstance(value, int) and value < 1]:
            raise ValueError(
                f"Decoding needs at least 1 clip, beam and token; got {', '.join(f'{n}={numbers[n]}' for n in low)}. "
                "Raise it, or leave it out."
            )
        check_weights(model)
        self.name = name
        self.model = model
        self.family = family_of(model, processor)
        self.family.set_defaults(language=language, task=task)
        self.long_form = long_form
        self.max_seconds: float | None = self.family.max_seconds if long_form is None else None
        self.min_seconds: float = self.family.min_seconds
        self.task: Task = self.family.task
        self.generation = dict(generation or {})
        if self.generation and not self.task.writes_text:
            raise ValueError(
                f"{name} answers with a label and searches nothing; got {', '.join(self.generation)}. Leave it out."
            )
        if long_form is not None:
            if not self.task.writes_text:
                raise ValueError(f"{name} answers with one label for a clip, so clips have no parts. Leave it out.")
            long_form.seconds_of(self.family)
            if encoder_cache is not None:
                raise ValueError(
                    "encoder_cache keeps the states of whole clips, and long_form hears clips in parts. Leave one of "
                    "them out."
                )
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.decoding_seconds = 0.0
        if history_source != "transcript" and not self.family.decodes_with_prompts:
            raise ValueError(
                f"{name} reads no prompts, so history_source={history_source!r} says nothing. Leave it out."
            )
        self.family.history_source = checked_source(history_source)
        named = None if history_source == "transcript" else history_source
        self._defaults = {"language": language, "task": task, "history_source": named}
        if encoder_cache is not None:
            from audiorl.models import EncoderCache

            self.family.encoder_cache = EncoderCache(encoder_cache, self.family, model, dtype=encoder_cache_dtype)
            self._defaults["encoder_cache_dtype"] = encoder_cache_dtype

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, {type(base_model(self.model)).__name__})"

    def transcribe(
        self, rows: Any, transcript_column: str, *, check: Check | None = None, progress: bool = True
    ) -> Iterator[TranscribedRow]:
        """See `audiorl.evaluation.transcription.transcribed_rows`; the audio of no row is cut.

        Raises:
            AudioFault: a clip cannot be read or is longer than the model's window; the message names the row.
        """
        self.decoding_seconds = 0.0
        self._move(self.device)
        try:
            for found in transcribed_rows(
                self.model,
                self.family,
                rows,
                self.generation,
                batch_size=self.batch_size,
                progress=progress,
                check=check,
                transcript_column=transcript_column,
                long_form=self.long_form,
            ):
                self.decoding_seconds += found.decoding_seconds
                yield found
        finally:
            self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        if not getattr(base_model(self.model), "is_quantized", False):  # those stay where they were loaded
            self.model.to(device)

    def decoding(self) -> dict[str, Any]:
        given = {name: value for name, value in self._defaults.items() if value is not None}
        search = {"num_beams": 1} if self.task.writes_text else {}
        dtype = next((str(parameter.dtype) for parameter in self.model.parameters()), "none")
        return {
            **search,
            **decoding_in_force(self.model, self.generation, self.batch_size),
            **given,
            **({} if self.long_form is None else self._long_form()),
            "dtype": dtype.removeprefix("torch."),
            "device": str(self.device),
        }

    def _long_form(self) -> dict[str, Any]:
        assert self.long_form is not None
        chunk = self.long_form.seconds_of(self.family)
        overlap = None if chunk is None else self.long_form.overlap_of(chunk)
        return {"long_form": self.long_form.way, "chunk_seconds": chunk, "overlap_seconds": overlap}


# ---- silence and noise ----


@dataclass(frozen=True)
class Probe:
    """What one model writes for each of `SOUNDS`, in their order."""

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
    """Check the length of the clips before anything is decoded.

    Raises:
        ValueError: it is not above 0, or no length that the model hears; or the model answers with labels.
    """
    limit = system.max_seconds
    if not seconds > 0 or seconds < system.min_seconds or (limit is not None and seconds > limit):
        longest = "any length" if limit is None else f"{limit:g} s"
        raise ValueError(
            f"The probe's clips have to be of a length that the model hears; got {seconds:g} s, and {system.name} "
            f"hears {system.min_seconds:g} s to {longest}. Change --probe_seconds."
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

"""Transcribe a data set, count what is wrong, and say how sure the number is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from audiorl.evaluation.measurement import Clip, Measurement, check_row, clip_of, measure
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.transcription import family_of, generation_settings, read_rows, transcribed_rows
from audiorl.text.error_rates import Errors
from audiorl.text.normalizers import normalizer

if TYPE_CHECKING:
    from audiorl.datasets.columns import ColumnNames

# What of a generation config decides how a transcript is searched for.
DECODING_SETTINGS = (
    "num_beams",
    "max_new_tokens",
    "max_length",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "do_sample",
    "temperature",
    "language",
    "task",
    "return_timestamps",
    "condition_on_prev_tokens",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A model's error rates on a data set, with what is needed to judge and to repeat them.

    Attributes:
        wer: corpus error rate in `unit`, a fraction: the word error rate, or for scripts without spaces the
            same as `cer`.
        cer: corpus character error rate, a fraction.
        interval: 95 % bootstrap interval of `wer`; None where fewer than two clips (or groups) leave nothing
            to resample.
        substitutions, deletions, insertions: summed over the clips, in `unit`.
        words: of all transcripts, in `unit`.
        unit: "word" or "character".
        clips: how many were transcribed.
        empty_share: share of clips whose normalised hypothesis is empty, a fraction.
        hypotheses: the model's text for each clip, as decoded, in the order of the rows.
        errors: counts of each clip, for `paired_bootstrap` and `bootstrap_interval`.
        seconds_of_audio: summed over the clips.
        wall_seconds: from the first clip opened to the last one decoded.
        normaliser: its name.
        decoding: batch_size and those settings of the search that were in force.
        looping_share: share of clips whose hypothesis repeats itself, see `Measurement.looping`.
    """

    wer: float
    cer: float
    interval: tuple[float, float] | None
    substitutions: int
    deletions: int
    insertions: int
    words: int
    unit: str
    clips: int
    empty_share: float
    hypotheses: list[str]
    errors: Errors
    seconds_of_audio: float
    wall_seconds: float
    normaliser: str
    decoding: dict[str, Any]
    looping_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, every field under its own name."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        interval = None if self.interval is None else list(self.interval)
        return {**plain, "interval": interval, "errors": self.errors.to_dict()}

    def __str__(self) -> str:
        return format_result(self)


def format_result(result: EvaluationResult) -> str:
    """One line: rate, interval, counts.

    `WER 35.5 % (95 % interval 32.1 to 39.0), 412 S 120 D 98 I in 1772 words, 64 clips`
    """
    name = "WER" if result.unit == "word" else "CER"
    if result.interval is None:
        interval = "no interval"
    else:
        low, high = (100 * end for end in result.interval)
        interval = f"95 % interval {low:.1f} to {high:.1f}"
    return (
        f"{name} {100 * result.wer:.1f} % ({interval}), "
        f"{result.substitutions} S {result.deletions} D {result.insertions} I "
        f"in {_many(result.words, result.unit)}, {_many(result.clips, 'clip')}"
    )


def evaluate_model(
    model: nn.Module,
    processor: Any,
    rows: Any,
    *,
    text_column: str = "text",
    normalise: str | Callable[[str], str] = "basic",
    unit: str = "auto",
    group_column: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    progress: bool = True,
    family: Any = None,
    columns: ColumnNames | None = None,
) -> EvaluationResult:
    """Transcribe all rows as `transcribe` does and measure the hypotheses against the transcripts.

    Args:
        model, processor, rows, batch_size, max_new_tokens, num_beams, progress, family, columns: see `transcribe`.
        text_column: column of the true transcript; "" is a transcript: nothing was said.
        normalise: a name or function that `normaliser` takes; "english" uses the processor's spelling table.
        unit: "word", "character" or "auto", see `count_errors`.
        group_column: column that names the speaker; the interval then resamples speakers, see
            `bootstrap_interval`.
        resamples: bootstrap resamples, > 0.
        seed: of the bootstrap.

    Raises:
        AudioFault: a clip cannot be read or does not fit the model's window; the message names the row.
        ValueError: no rows, or a row without a transcript or group. No row is left out or cut.
    """
    family = family or family_of(model, processor)
    settings = EvaluationSettings(
        text_column=text_column,
        normalise=normalizer(normalise, processor=processor),
        unit=unit,
        group_column=group_column,
        resamples=resamples,
        seed=seed,
    )
    generation = generation_settings(max_new_tokens, num_beams)
    start = time.perf_counter()
    rows = read_rows(rows, columns)
    clips = _decoded_clips(model, family, rows, settings, generation, batch_size=batch_size, progress=progress)
    wall_seconds = time.perf_counter() - start
    return _result(measure(clips, settings), wall_seconds, decoding_in_force(model, generation, batch_size))


def _decoded_clips(
    model: nn.Module, family: Any, rows: Any, settings: EvaluationSettings, generation: Mapping[str, Any], **shown: Any
) -> list[Clip]:
    """Every row beside what the model says of it; `shown` goes to `transcribed_rows`."""
    check = functools.partial(check_row, settings=settings)
    transcript_column = settings.text_column
    done = transcribed_rows(model, family, rows, generation, check=check, transcript_column=transcript_column, **shown)
    return [clip_of(found, place, settings) for place, found in enumerate(done)]


def _result(measured: Measurement, wall_seconds: float, decoding: dict[str, Any]) -> EvaluationResult:
    found = measured.summary()
    return EvaluationResult(
        wer=found.wer,
        cer=found.cer if found.cer is not None else found.wer,
        interval=found.interval,
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
        words=found.words,
        unit=found.unit,
        clips=found.clips,
        empty_share=found.empty_share,
        hypotheses=[clip.hypothesis for clip in measured.clips],
        errors=measured.errors,
        seconds_of_audio=found.seconds,
        wall_seconds=wall_seconds,
        normaliser=measured.errors.normaliser,
        decoding=decoding,
        looping_share=found.looping_share,
    )


def decoding_in_force(model: nn.Module, generation: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """The settings of the search: the caller's where given, else those of the generation config."""
    from audiorl.models import base_model

    config = getattr(base_model(model), "generation_config", None)
    settings = {name: generation.get(name, getattr(config, name, None)) for name in DECODING_SETTINGS}
    return {
        "batch_size": batch_size,
        **{name: value for name, value in settings.items() if value is not None},
    }


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

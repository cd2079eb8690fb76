"""Transcribe a data set, count what is wrong, and say how sure the number is."""

from __future__ import annotations

import difflib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import nn

from audiorl.evaluation.error_rates import Errors, count_errors
from audiorl.evaluation.significance import bootstrap_interval
from audiorl.evaluation.transcription import (
    Row,
    TranscribedRow,
    family_of,
    generation_settings,
    transcribed_rows,
)
from audiorl.normalisers import normaliser

# What of a generation config decides how a transcript is searched for.
DECODING_SETTINGS = (
    "num_beams",
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "language",
    "task",
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
) -> EvaluationResult:
    """Transcribe all rows as `transcribe` does and measure the hypotheses against the transcripts.

    Args:
        model, processor, rows, batch_size, max_new_tokens, num_beams, progress, family: see `transcribe`.
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
    function = normaliser(normalise, processor=processor)
    generation = generation_settings(max_new_tokens, num_beams)
    columns = [text_column] if group_column is None else [text_column, group_column]
    start = time.perf_counter()
    check = functools.partial(_check_row, columns=columns)
    done = transcribed_rows(model, family, rows, generation, batch_size=batch_size, progress=progress, check=check)
    clips = [_Measured.of(found, columns) for found in done]
    wall_seconds = time.perf_counter() - start
    if not clips:
        raise ValueError("An error rate needs clips; the data set has no rows. Check its path, split and filters.")
    hypotheses = [clip.hypothesis for clip in clips]
    transcripts = [clip.transcript for clip in clips]
    errors = count_errors(transcripts, hypotheses, unit=unit, normalise=function)
    return EvaluationResult(
        wer=errors.wer,
        cer=count_errors(transcripts, hypotheses, unit="character", normalise=function).wer,
        interval=_interval(errors, [clip.group for clip in clips], group_column, resamples, seed),
        substitutions=errors.total.substitutions,
        deletions=errors.total.deletions,
        insertions=errors.total.insertions,
        words=errors.total.words,
        unit=errors.unit,
        clips=len(clips),
        empty_share=sum(not function(text).strip() for text in hypotheses) / len(clips),
        hypotheses=hypotheses,
        errors=errors,
        seconds_of_audio=sum(clip.seconds for clip in clips),
        wall_seconds=wall_seconds,
        normaliser=function.name,
        decoding=decoding_in_force(model, generation, batch_size),
    )


class _Measured(NamedTuple):
    """What is kept of a row once its audio is gone."""

    transcript: str
    hypothesis: str
    seconds: float
    group: Any

    @classmethod
    def of(cls, found: TranscribedRow, columns: list[str]) -> _Measured:
        transcript, *group = (found.row[column] for column in columns)
        return cls(transcript, found.hypothesis, found.seconds, group[0] if group else None)


def _check_row(row: Row, place: str, columns: list[str]) -> None:
    for column in columns:
        if row.get(column) is None:
            nearest = difflib.get_close_matches(column, [name for name in row if name != column], n=1)
            raise ValueError(
                f"An evaluation needs column {column!r} in every row; {place} has none (its columns: "
                f"{', '.join(map(str, row))}). "
                + (f"Did you mean {nearest[0]!r}? " if nearest else "")
                + "Pass the column's name as text_column or group_column."
            )
    if not isinstance(row[columns[0]], str):
        raise ValueError(
            f"A transcript is a text; {place} has {type(row[columns[0]]).__name__} in column {columns[0]!r}. "
            "Use '' where nothing was said."
        )


def _interval(
    errors: Errors, groups: list[Any], group_column: str | None, resamples: int, seed: int
) -> tuple[float, float] | None:
    """None rather than an exception: an hour of decoding is not thrown away for want of a second speaker."""
    drawn = len(errors) if group_column is None else len(set(groups))
    if drawn < 2:
        return None
    return bootstrap_interval(errors, resamples=resamples, seed=seed, groups=None if group_column is None else groups)


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

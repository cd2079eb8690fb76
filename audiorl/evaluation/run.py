"""Evaluations: of one model on one data set (`evaluate_model`), or of several models on several data sets (`evaluate`).

Everything is checked first, then decoded, counted and compared.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets import ClassLabel, Dataset
from torch import nn

from audiorl.datasets import BadRowsError, RowFault, check_rows, missing_columns, speech_rows
from audiorl.datasets.checks import any_text, check_bounds, drop_outside, outside_seconds
from audiorl.evaluation.document import Compared, document, report, write_document
from audiorl.evaluation.measurement import Measurement, Timing, changes, measure
from audiorl.evaluation.settings import LABELS, EvaluationSettings
from audiorl.evaluation.systems import Probe, System, check_probe, probe
from audiorl.evaluation.transcription import (
    Clip,
    check_row,
    clip_of,
    decoding_in_force,
    family_of,
    generation_settings,
    read_rows,
    row_problem,
    sorted_out,
    transcribed_rows,
)
from audiorl.notebook import html_text
from audiorl.terminal import VERDICTS, columns, painted, wrapped
from audiorl.text.normalizers import normalizer

if TYPE_CHECKING:
    from audiorl.datasets.formats import ColumnNames
    from audiorl.models.long_clips import LongForm


class NamedRows(NamedTuple):
    """A data set and the name for it in reports."""

    name: str
    rows: Any  # whatever `audiorl.datasets.speech_rows` takes
    left_out: int = 0  # clips outside the bounds that the user set


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of `evaluate`; `str()` is the report for a terminal."""

    settings: EvaluationSettings
    evaluated: Sequence[Measurement]
    compared: Sequence[Compared]
    probes: Sequence[Probe]

    def to_dict(self) -> dict[str, Any]:
        """The document, see `audiorl.evaluation.document`."""
        return document(self.settings, self.evaluated, self.compared, self.probes)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the document; OSError where that fails."""
        write_document(self.to_dict(), path)

    def show(self) -> None:
        """Print the report, fitted to the terminal, with the verdicts in colour where it has them."""
        for line in report(self.settings, self.evaluated, self.compared, self.probes, width=columns()).split("\n"):
            verdict = line.rpartition(": ")[2] if " -> " in line else ""
            print(painted(wrapped(line), f"bold {VERDICTS[verdict]}") if verdict in VERDICTS else wrapped(line))

    def _repr_html_(self) -> str:
        return html_text(str(self))

    def __str__(self) -> str:
        return report(self.settings, self.evaluated, self.compared, self.probes)


def evaluate(
    systems: Sequence[System],
    data: Sequence[NamedRows],
    settings: EvaluationSettings,
    *,
    probe_seconds: float | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure every model on every data set, and compare each model with the first.

    Args:
        systems: one or more.
        data: one or more. All rows of a `Dataset` are checked before anything is decoded; rows of a stream are
            checked one by one.
        settings: what is counted, and how.
        probe_seconds: length of the clips of silence and noise each model is given besides; None for none.
        progress: show progress bars.

    Raises:
        ValueError: no model or no data set; a model that answers with labels, if transcripts are wanted; a probe that
            is too short or too long for a model.
        BadRowsError: rows that cannot be measured, all of them.
        AudioFault: a clip breaks on decoding.
        EndpointError: a served model does not answer, see `Endpoint.transcribe`; rows that fail alone are counted and
            named, and in none of the numbers.
    """
    if not systems or not data:
        raise ValueError(
            f"An evaluation needs a model and a data set; got {len(systems)} and {len(data)}. Pass "
            "--model_name_or_path or --endpoint, and --dataset_name."
        )
    for system in systems:
        if probe_seconds is not None:
            check_probe(probe_seconds, system)
    settings = _with_labels_of(systems, settings)
    data = [rows._replace(rows=speech_rows(rows.rows)) for rows in data]
    longest = min((system.max_seconds for system in systems if system.max_seconds is not None), default=None)
    for rows in data:
        check_data(rows, settings, max(system.min_seconds for system in systems), longest, progress=progress)
    evaluated, probes = [], []
    for system in systems:
        if probe_seconds is not None:  # first: a server that takes no silence says so before hours of decoding
            probes.append(probe(system, probe_seconds, settings, progress=progress))
        evaluated += [_evaluated(system, rows, settings, progress) for rows in data]
    return Evaluation(settings, evaluated, list(_compared(evaluated, len(data))), probes)


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
    long_form: LongForm | None = None,
) -> Measurement:
    """Transcribe all rows as `transcribe` does and measure the hypotheses against the transcripts.

    Args:
        model, processor, rows, batch_size, max_new_tokens, num_beams, progress, family, columns, long_form: see
            `transcribe`.
        text_column: column of the true transcript; "" is a transcript: nothing was said.
        normalise: a name or function that `normaliser` takes; "english" uses the processor's spelling table.
        unit: "word", "character" or "auto", see `count_errors`.
        group_column: column that names the speaker; the interval then resamples speakers, see
            `bootstrap_interval`.
        resamples: bootstrap resamples, > 0.
        seed: of the bootstrap.

    Returns:
        Rates, counts and hypotheses; `str()` is one line.

    Raises:
        AudioFault: a clip cannot be read or does not fit the model's window; the message names the row.
        FloatingPointError: the model has weights that are not finite.
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
    shown = {"batch_size": batch_size, "progress": progress, "long_form": long_form}
    clips = _decoded_clips(model, family, rows, settings, generation, **shown)
    timing = Timing(time.perf_counter() - start, "everything from the first clip opened to the last one decoded")
    return replace(measure(clips, settings, timing), decoding=decoding_in_force(model, generation, batch_size))


def _decoded_clips(
    model: nn.Module, family: Any, rows: Any, settings: EvaluationSettings, generation: Mapping[str, Any], **shown: Any
) -> list[Clip]:
    """Every row with the model's hypothesis; `shown` goes to `transcribed_rows`."""
    check = functools.partial(check_row, settings=settings)
    transcript_column = settings.text_column
    done = transcribed_rows(model, family, rows, generation, check=check, transcript_column=transcript_column, **shown)
    return [clip_of(found, place, settings) for place, found in enumerate(done)]


def check_data(
    data: NamedRows,
    settings: EvaluationSettings,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
    *,
    progress: bool = False,
) -> None:
    """Check a data set's rows without decoding audio; for a stream only the columns.

    Args:
        min_seconds, max_seconds: the shortest and the longest clip that every model takes.
        progress: show a bar if the check takes longer than a second.

    Raises:
        BadRowsError: with all of them.
    """
    rows = speech_rows(data.rows)
    needed = ["audio", settings.text_column, *([settings.group_column] if settings.group_column else [])]
    if rows.column_names is not None and (missing := missing_columns(rows.column_names, needed)):
        raise BadRowsError(missing)
    if not isinstance(rows, Dataset):
        return
    faults = [
        RowFault(row["where"], row["row_id"], *problem)
        for row in rows.remove_columns(["audio"])
        if (problem := row_problem(row, settings))
    ]
    # silence is a transcript too, so the texts are not checked there; nor are clips measured against them, since what a
    # model cannot write in its time is an error of the model
    faults += check_rows(
        rows,
        text_columns=(),
        tokenize=any_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        distinct=False,
        setting_columns=() if settings.task == LABELS else ("language", "task"),
        progress=progress,
    )
    if faults:
        raise BadRowsError(sorted(faults, key=lambda fault: fault.row_id))


def chosen_rows(
    name: str,
    rows: Any,
    settings: EvaluationSettings,
    *,
    min_seconds: float | None = None,
    max_seconds: float | None = None,
    limit: int | None = None,
) -> NamedRows:
    """The first rows with clips of a wanted length, with names in place of label numbers.

    Args:
        name: under which they are reported.
        rows: whatever `audiorl.datasets.speech_rows` takes.
        min_seconds, max_seconds: bounds, both inclusive; None for none.
        limit: how many rows at most; None for all.

    Raises:
        ValueError: bounds out of range or for a stream, a limit below 1, or nothing is left.
    """
    check_bounds(min_seconds, max_seconds)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is a number of rows, at least 1; got {limit}. Leave it out for all rows.")
    rows = speech_rows(rows)
    if not isinstance(rows, Dataset):
        if (min_seconds, max_seconds) != (None, None):
            raise ValueError(
                "--min_audio_seconds and --max_audio_seconds read the length of every clip before anything is decoded, "
                f"which the stream {name} does not allow. Leave --dataset_streaming or the bounds out."
            )
        return NamedRows(name, rows if limit is None else rows.take(limit))
    outside = outside_seconds(rows, min_seconds, max_seconds)
    kept = drop_outside(rows, outside)
    left_out = len(rows) - len(kept)
    if not len(kept):
        told = outside.describe(len(rows), min_seconds, max_seconds)
        raise ValueError(f"{name}: {told}, so none is left. Change --min_audio_seconds or --max_audio_seconds.")
    if limit is not None:
        kept = kept.select(range(min(limit, len(kept))))
    return NamedRows(name, _with_label_names(kept, settings), left_out)


def _with_labels_of(systems: Sequence[System], settings: EvaluationSettings) -> EvaluationSettings:
    """The settings with all labels that the models can give, which may be more than those of the rows."""
    answering = [system for system in systems if not system.task.writes_text]
    if not answering:
        return settings
    if settings.task != LABELS:
        raise ValueError(
            f"{answering[0].name} answers with one of {len(answering[0].task.labels)} labels, and transcripts are "
            "asked for. Say with --label_column which column holds the true labels."
        )
    return replace(settings, labels=[label for system in answering for label in system.task.labels])


def _with_label_names(rows: Dataset, settings: EvaluationSettings) -> Dataset:
    """Numbers of a `ClassLabel` column as its names; a negative number means that the row has no label."""
    kind = rows.features.get(settings.text_column)
    if settings.task != LABELS or not isinstance(kind, ClassLabel):
        return rows
    numbers = rows[settings.text_column][:]
    names = [None if number is None or number < 0 else kind.int2str(number) for number in numbers]
    return rows.remove_columns([settings.text_column]).add_column(settings.text_column, names)


def _evaluated(system: System, data: NamedRows, settings: EvaluationSettings, progress: bool) -> Measurement:
    check = functools.partial(check_row, settings=settings)
    done = system.transcribe(data.rows, settings.text_column, check=check, progress=progress)
    clips, failed = sorted_out(done, settings)
    timing = Timing(system.decoding_seconds, system.includes)
    return replace(
        measure(clips, settings, timing),
        model=system.name,
        dataset=data.name,
        left_out=data.left_out,
        decoding=system.decoding(),
        failed=failed,
    )


def _compared(evaluated: Sequence[Measurement], datasets: int) -> Iterator[Compared]:
    """Compare the measurements of each model with the first model's. They are ordered by model, then by data set."""
    for after in range(datasets, len(evaluated)):
        before = after % datasets
        if set(evaluated[before].places) & set(evaluated[after].places):  # else all rows failed for one of both
            yield Compared(before, after, changes(evaluated[before], evaluated[after]))

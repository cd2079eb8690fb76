"""Transcribe a data set with a model, batch by batch, longest clips first; and what is kept of each row."""

from __future__ import annotations

import difflib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from audiorl.audio import AudioFault, channel_of, load_row_audio, row_segment
from audiorl.datasets.storage import raise_unkept, text_problem, unkept_values
from audiorl.evaluation.settings import LABELS, EvaluationSettings
from audiorl.rewards.labels import accepted_answers, is_answer
from audiorl.terminal import progress_bar
from audiorl.text.error_rates import tagged_transcript

if TYPE_CHECKING:
    from audiorl.datasets.formats import ColumnNames
    from audiorl.models.long_clips import LongForm

Row = Mapping[str, Any]
# called with a row and its place; raises to refuse it
Check = Callable[[Row, str], None]

# What of a generation config decides how a transcript is searched for.
DECODING_SETTINGS = (
    "num_beams",
    "max_new_tokens",
    "max_length",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "language",
    "task",
    "return_timestamps",
    "condition_on_prev_tokens",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
)
# Batches that are sorted by duration together: enough for even batches, little enough for streams.
BATCHES_SORTED_TOGETHER = 64
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class TranscribedRow(NamedTuple):
    """A row with the model's hypothesis."""

    row: Row
    hypothesis: str
    seconds: float  # of audio
    decoding_seconds: float = 0.0  # wall time from samples to text: this row's share of its batch


class FailedRow(NamedTuple):
    """A row for which a served model gave no transcript."""

    row: Row
    problem: str  # a sentence that names the row, the address and what was answered


def transcribe(
    model: nn.Module,
    processor: Any,
    rows: Any,
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    progress: bool = True,
    family: Any = None,
    columns: ColumnNames | None = None,
    long_form: LongForm | None = None,
) -> list[str]:
    """The model's hypothesis for each clip, decoded with its generation config.

    Batches are made of clips of similar length, by the rows' `duration` (seconds) or the clips' headers; the result
    does not depend on it beyond rounding. Rows may carry `language` and `task`, and `prompt` and `hotwords` for models
    that read prompts. The model is in evaluation mode meanwhile; every submodule then returns to the mode it was in.

    Args:
        model: a speech model, wrapped or not.
        processor: its processor.
        rows: whatever `audiorl.datasets.speech_rows` takes, streams included.
        batch_size: clips decoded at once, > 0.
        max_new_tokens: limit of tokens for each clip; None leaves it to the generation config.
        num_beams: beams of the search; None leaves it to the generation config.
        progress: show a progress bar.
        family: the model's family; None asks `audiorl.models.speech_family`.
        columns: see `speech_rows`.
        long_form: how clips beyond the model's window are transcribed; None refuses them.

    Returns:
        One hypothesis for each row, in the order of the rows.

    Raises:
        AudioFault: a clip cannot be read or is longer than the model's window; the message names the row.
            Nothing is skipped or cut.
        FloatingPointError: the model has weights that are not finite.
    """
    family = family or family_of(model, processor)
    generation = generation_settings(max_new_tokens, num_beams)
    rows = read_rows(rows, columns)
    done = transcribed_rows(
        model, family, rows, generation, batch_size=batch_size, progress=progress, long_form=long_form
    )
    return [found.hypothesis for found in done]


def family_of(model: nn.Module, processor: Any) -> Any:
    # a family brings transformers' models, which counting errors does not need
    from audiorl.models import speech_family

    return speech_family(model, processor)


def generation_settings(max_new_tokens: int | None, num_beams: int | None) -> dict[str, int]:
    """Only the settings that the caller gave; the generation config has the others."""
    given = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    return {name: value for name, value in given.items() if value is not None}


def decoding_in_force(model: nn.Module, generation: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """The settings of the search: the caller's if given, otherwise those of the generation config."""
    from audiorl.models import base_model

    config = getattr(base_model(model), "generation_config", None)
    settings = {name: generation.get(name, getattr(config, name, None)) for name in DECODING_SETTINGS}
    return {
        "batch_size": batch_size,
        **{name: value for name, value in settings.items() if value is not None},
    }


def transcribed_rows(
    model: nn.Module,
    family: Any,
    rows: Any,
    generation: Mapping[str, Any],
    *,
    batch_size: int,
    progress: bool,
    check: Check | None = None,
    transcript_column: str | None = None,
    long_form: LongForm | None = None,
) -> Iterator[TranscribedRow]:
    """Rows with their hypotheses, in order; at most `BATCHES_SORTED_TOGETHER` batches of rows are held at
    once.

    Args:
        generation: keywords for `family.transcribe`.
        check: called with each row and its place before anything of its window is decoded; raises to refuse
            it.
        transcript_column: rows whose transcript is blank may be silent; None refuses silent clips.
        long_form: how clips beyond the model's window are transcribed, each by itself; None refuses them.
    """
    if batch_size < 1:
        raise ValueError(f"Clips are decoded in batches of at least one; got batch_size={batch_size}. Try 16.")
    check_weights(model)
    known = read_rows(rows)
    total = len(known) if isinstance(known, Sized) else None
    if family.encoder_cache is not None:
        _fill_cache(model, family, known, check, transcript_column, progress)
    with (
        evaluation_mode(model),
        progress_bar(total=total, unit="clip", desc="transcribing", progress=progress) as bar,
    ):
        for window in _windows(known, batch_size * BATCHES_SORTED_TOGETHER):
            for place, row in window:
                _check_settings(row, where(place, row), family)
                if check is not None:
                    check(row, where(place, row))
            found: dict[int, TranscribedRow] = {}
            for batch in _batches(_longest_first(window), batch_size):
                found.update(_transcribe_batch(model, family, batch, generation, transcript_column, long_form))
                bar.update(len(batch))
            yield from (found[place] for place, _ in window)


@torch.no_grad()
def check_weights(model: nn.Module) -> None:
    """Refuse a model that says nothing: a search takes NaN for some token, and a rate of that looks like any other.

    Raises:
        FloatingPointError: a weight is NaN or infinite, or a buffer, some of which mask by infinity, is NaN.
    """
    weights = [(name, weight) for name, weight in model.named_parameters() if _is_plain(weight)]
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if _is_plain(buffer)]
    # in one pass and without further memory; both ends are NaN where one number is
    bad = [name for name, weight in weights if not all(map(torch.isfinite, torch.aminmax(weight)))]
    bad += [name for name, buffer in buffers if torch.isnan(torch.aminmax(buffer).max)]
    if bad:
        name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        raise FloatingPointError(
            f"{name} has weights that are NaN or infinite (in {len(bad)} of {len(weights) + len(buffers)} tensors, "
            f"first in {bad[0]}), so what it says means nothing. Evaluate an earlier checkpoint, and train from there "
            "with a lower learning rate."
        )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor holds floating-point numbers, all of them here: not quantised, not sharded."""
    return tensor.dtype in _FLOATS and tensor.numel() > 0 and not tensor.is_meta and not hasattr(tensor, "to_local")


def read_rows(rows: Any, columns: ColumnNames | None = None) -> Iterable[Row]:
    from audiorl.datasets import speech_rows

    return speech_rows(rows, columns=columns)


def where(place: int, row: Row) -> str:
    """A row's name in messages: its file and line, or else its number from 0; and its id, if it has one."""
    name = row.get("where") or f"row {place}"
    return f"{name} (id {row['id']})" if row.get("id") is not None else str(name)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards each submodule is in the mode it was in.

    A single `model.train()` at the end would wake the dropout of a frozen part.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _fill_cache(
    model: nn.Module,
    family: Any,
    rows: Any,
    check: Check | None,
    transcript_column: str | None,
    progress: bool,
) -> None:
    """Encode the clips that the family's cache lacks; a row is refused as it is where it is transcribed."""

    def load(row: Row) -> np.ndarray:
        place = where(row.get("row_id", 0), row)
        _check_settings(row, place, family)
        if check is not None:
            check(row, place)
        return load_clip(row, place, family, allow_silence=nothing_was_said(row, transcript_column))

    family.encoder_cache.fill(model, family, rows, load, progress=progress)


def _windows(rows: Iterable[Row], size: int) -> Iterator[list[tuple[int, Row]]]:
    numbered = enumerate(rows)
    while window := list(itertools.islice(numbered, size)):
        yield window


def _longest_first(window: list[tuple[int, Row]]) -> list[tuple[int, Row]]:
    from audiorl.datasets.checks import clip_seconds

    lengths = [clip_seconds(row) for _, row in window]
    known = [length for length in lengths if length is not None]
    if len(known) < len(window):
        return window  # a clip without a length cannot be read, which is told when its turn comes
    return [window[place] for place in sorted(range(len(window)), key=lambda place: -known[place])]


def _batches(window: list[tuple[int, Row]], size: int) -> Iterator[list[tuple[int, Row]]]:
    for start in range(0, len(window), size):
        yield window[start : start + size]


def _transcribe_batch(
    model: nn.Module,
    family: Any,
    batch: list[tuple[int, Row]],
    generation: Mapping[str, Any],
    transcript_column: str | None,
    long_form: LongForm | None,
) -> Iterator[tuple[int, TranscribedRow]]:
    longest = None if long_form is None else long_form.seconds_of(family)
    rows: dict[int, Row] = {}
    heard: dict[int, Any] = {}  # what is decoded together: samples, or what the encoder cache kept of them
    for place, row in batch:
        name, silent = where(place, row), nothing_was_said(row, transcript_column)
        if family.encoder_cache is not None:
            rows[place], heard[place] = row, kept_clip(row, name, family, allow_silence=silent)
            continue
        clip = load_clip(row, name, family, allow_silence=silent, any_length=long_form is not None)
        if long_form is None or longest is None or len(clip) <= round(longest * family.sampling_rate):
            rows[place], heard[place] = row, clip
            continue
        start = time.perf_counter()
        with torch.no_grad():
            hypothesis = long_form.transcribe(family, model, clip, **row_settings([row], family), **generation)
        spent = time.perf_counter() - start
        yield place, TranscribedRow(row, hypothesis, len(clip) / family.sampling_rate, spent)
    if not rows:
        return
    clips = list(heard.values())
    samples = [len(clip) if family.encoder_cache is None else clip.samples for clip in clips]
    start = time.perf_counter()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    features = family.features(clips) if family.encoder_cache is None else family.encoder_cache.join(clips)
    audio = {name: tensor.to(device) for name, tensor in features.items()}
    with torch.no_grad():
        hypotheses = family.transcribe(model, audio, **row_settings(list(rows.values()), family), **generation)
    share = (time.perf_counter() - start) / len(rows)
    for (place, row), count, hypothesis in zip(rows.items(), samples, hypotheses, strict=True):
        yield place, TranscribedRow(row, hypothesis, count / family.sampling_rate, share)


def _check_settings(row: Row, place: str, family: Any) -> None:
    """Check before decoding that a row is a whole clip, and that language, prompt and hot words are valid."""
    check_kept(row, place, family.setting_columns)
    if not family.decodes_with_prompts:
        return
    try:
        family.row_prompt(row)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from error


def check_kept(row: Row, place: str, setting_columns: Sequence[str]) -> None:
    """Refuse a row with values that could not be kept, or whose settings are no text.

    Raises:
        AudioFault: its audio could not be kept; with the row's place.
        ValueError: anything else.
    """
    from audiorl.datasets.checks import setting_problems

    for fault in unkept_values(row):
        kind = AudioFault if fault.column == "audio" else ValueError
        raise kind(f"{place}: {fault.problem}. {fault.remedy}")
    for problem, remedy in setting_problems(row, setting_columns):
        raise ValueError(f"{place}: {problem}. {remedy}")


def nothing_was_said(row: Row, transcript_column: str | None) -> bool:
    """Whether the row has a transcript and it is blank."""
    transcript = None if transcript_column is None else row.get(transcript_column)
    return isinstance(transcript, str) and not transcript.strip()


def row_settings(rows: Sequence[Row], family: Any) -> dict[str, Sequence[str | None]]:
    """Keywords for `family.transcribe` from the rows: languages, tasks and prompts, one for each row.

    Hot words are in the prompts. Families that decode without prompts get none.
    """
    from audiorl.models.family_data import row_task

    settings = {"languages": [row.get("language") for row in rows], "tasks": [row_task(row) for row in rows]}
    if family.decodes_with_prompts:
        settings["prompts"] = [family.row_prompt(row) for row in rows]
    return {keyword: values for keyword, values in settings.items() if any(value is not None for value in values)}


def load_clip(
    row: Row, place: str, family: Any, *, allow_silence: bool = False, any_length: bool = False
) -> np.ndarray:
    """The samples of a row's clip at the family's rate.

    Args:
        any_length: take clips beyond the family's window, too.

    Raises:
        AudioFault: naming the row; the clip cannot be read, is longer than the family's window, too short for it, or
            not of the row's `duration`.
    """
    try:
        raise_unkept(row, "audio")
        clip = load_row_audio(row, family.sampling_rate, allow_silence=allow_silence)
    except AudioFault as fault:
        raise AudioFault(f"{place}: {fault.problem}", fault.remedy) from fault
    _check_samples(len(clip), row, place, family, None if any_length else family.max_seconds)
    return clip


def kept_clip(row: Row, place: str, family: Any, *, allow_silence: bool = False) -> Any:
    """What the family's encoder cache keeps of a row's clip, which is refused as by `load_clip`."""
    kept = family.encoder_cache.find(row, silent=allow_silence)
    if kept is None:
        load_clip(row, place, family, allow_silence=allow_silence)  # says what is wrong with the clip, if it is wrong
        raise family.encoder_cache.missing(row)
    _check_samples(kept.samples, row, place, family, family.max_seconds)
    return kept


def _check_samples(samples: int, row: Row, place: str, family: Any, limit: float | None) -> None:
    """Refuse a clip of more than `limit` seconds, too short for the family, or not of the row's `duration`."""
    from audiorl.datasets.checks import duration_problem

    seconds = samples / family.sampling_rate
    if limit is not None and samples > round(limit * family.sampling_rate):
        raise AudioFault(
            f"{place}: the clip lasts {seconds:.2f} s, the model hears {limit:g} s",
            "Transcribe it in parts (--long_form auto; in Python long_form=LongForm()), cut it and its transcript, "
            "or leave the row out; words not heard would count as errors.",
        )
    if samples < round(family.min_seconds * family.sampling_rate):
        raise AudioFault(
            f"{place}: the clip lasts {1000 * seconds:.1f} ms, the model needs {1000 * family.min_seconds:g} ms",
            "Pad the clip with silence, or leave the row out.",
        )
    if problem := duration_problem(row.get("duration"), seconds):
        raise AudioFault(f"{place}: {problem[0]}", problem[1])


# ---- what is kept of a transcribed row ----


@dataclass(frozen=True)
class Clip:
    """What is kept of a row and its hypothesis after the audio is released.

    Attributes:
        id: the row's `id` as text, or its place.
        where: its place, for messages.
        audio: absolute path or address; None if the audio is inside the data set.
        channel: the channel of the file that was used; None for the mean of all.
        segment: start and end in the file, in seconds; None for the whole file.
        transcript: as in the row; for label tasks the label, or the first of several right answers.
        hypothesis: as the model wrote it.
        seconds: of audio.
        speaker, language: as text; None if the row has none.
        group: the value that the bootstrap draws, with all its clips.
        keywords: those of its row; used if the settings have none for all clips.
        accepted: for label tasks all answers that count as the label of this row, the label first.
    """

    id: str
    where: str
    audio: str | None
    transcript: str
    hypothesis: str
    seconds: float
    speaker: str | None = None
    language: str | None = None
    group: Any = None
    keywords: Sequence[str] | None = None
    accepted: Sequence[str] = ()
    channel: int | None = None
    segment: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class FailedClip:
    """A row of which nothing is known but why.

    Attributes:
        place: of its row, from 0.
        id, where: as a clip's.
        problem: why it has no hypothesis, a sentence.
    """

    place: int
    id: str
    where: str
    problem: str


def sorted_out(
    done: Iterable[TranscribedRow | FailedRow], settings: EvaluationSettings
) -> tuple[list[Clip], list[FailedClip]]:
    """What is kept of rows that were transcribed, and of those that were not."""
    clips, failed = [], []
    for place, found in enumerate(done):
        if isinstance(found, FailedRow):
            failed.append(FailedClip(place, *_names(found.row, place), found.problem))
        else:
            clips.append(clip_of(found, place, settings))
    return clips, failed


def _names(row: Row, place: int) -> tuple[str, str]:
    """A row's id and place as text."""
    row_id = row.get("id")
    return f"row {place}" if row_id is None else str(row_id), str(row.get("where") or f"row {place}")


def clip_of(found: TranscribedRow, place: int, settings: EvaluationSettings) -> Clip:
    """The clip of a transcribed row.

    Args:
        found: whose row has the columns that `settings` names, see `row_problem`.
        place: its number from 0.
    """
    row = found.row
    speaker, language = row.get(settings.speaker_column), row.get(settings.language_column)
    written = row[settings.text_column]
    accepted = (accepted_answers(written, settings.text_column) or ("",)) if settings.task == LABELS else ()
    row_id, where = _names(row, place)
    return Clip(
        id=row_id,
        where=where,
        audio=audio_path(row.get("audio")),
        transcript=accepted[0] if accepted else tagged_transcript(written).text,
        hypothesis=found.hypothesis if accepted else tagged_transcript(found.hypothesis).text,
        seconds=found.seconds,
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        group=None if settings.group_column is None else row[settings.group_column],
        keywords=row.get("keywords"),
        accepted=accepted,
        channel=row_channel(row),
        segment=row_segment(row),
    )


def row_problem(row: Row, settings: EvaluationSettings) -> tuple[str, str] | None:
    """Why a row cannot be measured, and what to do about it; None if it can.

    A row needs a transcript as text, or a label as text or a list of answers, and a value of the group column; keywords
    are a list of texts.
    """
    if unkept_values(row):
        return None  # whoever judges the row says so
    needed = [settings.text_column, *([settings.group_column] if settings.group_column else [])]
    for column in needed:
        if row.get(column) is None:
            nearest = difflib.get_close_matches(column, [name for name in row if name != column], n=1)
            return (
                f"an evaluation needs column {column!r} in every row, and this row lacks it (its columns: "
                f"{', '.join(map(str, row))})",
                (f"Did you mean {nearest[0]!r}? " if nearest else "")
                + "Pass the column's name as text_column or group_column.",
            )
    text = row[settings.text_column]
    if settings.task == LABELS and not is_answer(text):
        return (
            f"A label is a text, or a list of answers that are all right; this row has {text!r:.80} in column "
            f"{settings.text_column!r}",
            "Write the label's name instead of its number.",
        )
    if settings.task != LABELS and not isinstance(text, str):
        return (
            f"A transcript is a text; this row has {type(text).__name__} in column {settings.text_column!r}",
            "Use '' for silence.",
        )
    if settings.task != LABELS and (problem := text_problem(settings.text_column, text)):
        return problem
    keywords = None if settings.keywords is not None else row.get("keywords")
    if keywords is not None and (
        isinstance(keywords, str)
        or not isinstance(keywords, Sequence)
        or not all(isinstance(word, str) for word in keywords)
    ):
        return f"keywords are a list of texts; this row has {keywords!r:.80}", "Write ['Nguyen', 'New York'], or null."
    return None


def check_row(row: Row, place: str, settings: EvaluationSettings) -> None:
    """Refuse a row that cannot be measured, with a ValueError that names it."""
    check_kept(row, place, () if settings.task == LABELS else ("language", "task"))
    if problem := row_problem(row, settings):
        what, remedy = problem
        raise ValueError(f"{place}: {what}. {remedy}")


def row_channel(row: Row) -> int | None:
    """The channel that a row names; None for the mean of all."""
    channel = channel_of(row.get("channel"))
    return None if channel == "mix" else channel


def audio_path(entry: Any) -> str | None:
    """Absolute path or address of a stored audio entry; None if its bytes are inside the data set."""
    if not isinstance(entry, dict) or entry.get("bytes") is not None or not entry.get("path"):
        return None
    path = str(entry["path"])
    return path if "://" in path else os.path.abspath(path)

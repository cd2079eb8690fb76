"""An evaluation as a JSON file, which `audiorl evaluate --output file.json` writes, and as text for a terminal.

One JSON object, UTF-8, written as a whole or not at all. Rates and shares are fractions, times are seconds; numbers are
finite, and what does not apply is null.

    format        "audiorl evaluation"
    version       1; a later version adds keys under the same number and raises it where one changes its meaning
    date          when it was written, ISO 8601 with the offset: "2026-11-21T15:04:05+00:00"
    versions      {"audiorl": "...", "python": "...", "torch": "...", "transformers": "...", "jiwer": "...", ...}
    settings      what the run was asked for:
        task            "transcription" or "labels"
        text_column     column of the transcripts (of the labels)
        normaliser      its name, as applied to transcripts, hypotheses, keywords and labels
        unit            "word", "character", "mixed" or "auto", as asked
        group_column    whose values the bootstrap draws, usually speakers; null: clips
        level           0.95, of every interval
        resamples, seed of the bootstrap
        keywords        list of texts for all clips; null: each row's own column, where there is one
        duration_edges  seconds at which one duration group ends and the next begins
        aliases         {label: [other spellings]}; {} for transcription
        label_similarity    1.0 where only a label or an alias as it is written counts; below, the nearest one
    measurements  one for each model and dataset, models in the order given and for each of them the datasets:
        model           folder, Hub name, or the served model's name
        dataset         file, folder or name
        left_out        clips that --min_audio_seconds and --max_audio_seconds left out
        failed          rows that a served model did not answer, in no number and not in clips: [{"place": the row's
                        from 0, "id", "where", "problem": a sentence}]
        decoding        the settings of the search in force: {"batch_size": 16, "num_beams": 1, "max_length": 40,
                        "dtype": "float32", "device": "cpu", ...}; of a served model {"endpoint": URL, ...}
        summary         the numbers of all clips, see below
        breakdown       {"speaker": [...], "language": [...], "duration": [...]}: summaries of parts, each with its
                        "value" ("1919", "en", "2-5 s"); [] where rows carry no such column. Counts of speakers and
                        durations add up to the summary's. Languages are each counted in a unit of their own where
                        unit is "auto", so theirs need not.
        labels          null, or {"accuracy", "interval", "per_label": [{"label", "clips", "right", "accuracy"}],
                        "confusion": [{"label", "predicted", "clips"}]}; predicted null: no known label was said
        clips           one for each row that did not fail, in the order of the rows:
            id              the row's `id` as text, or its place where it has none
            where           the row's place for a person: "validation.jsonl:12", "row 3"
            audio           absolute path or address; null where the audio exists only inside the data set
            channel         which of the file's channels was heard; null: the mean of all
            segment         start and end in the file, in seconds; an end of null is the file's; null: the whole file
            transcript      as in the row, "" for silence (for labels: the label, or the first of several right answers)
            hypothesis      as the model said it, neither normalised
            substitutions, deletions, insertions, hits    in the summary's unit (for labels: 1 substitution or 1 hit)
            seconds         of audio
            speaker, language   text or null
            empty           whether the normalised hypothesis is empty
            looping         whether an n-gram comes back more often than in the transcript
            keywords        {"hits", "true", "said"}; null where the clip has no keywords
            predicted       for labels the label that the hypothesis stands for; null where none, and in transcription
    comparisons   of the first model with each other one on each dataset, if there is a row that failed for neither:
        dataset, before_model, after_model
        before, after   their places in measurements
        difference      error rate after - before; negative is better
        interval        [low, high] of the difference; null below two clips (or groups)
        p_value         two-sided, paired bootstrap; null in the same cases
        relative_gain   share of the errors that is gone
        better, worse   [{"clip": place in clips of before, "clip_after": in those of after, "id", "errors_before",
                        "errors_after"}], the largest change first
        same            number of clips with as many errors as before
        clips           how many were compared: rows that failed for one of both are left out
    probes        what each model says where nothing is said; [] unless asked for:
        model, seconds  length of every clip
        clips           [{"kind": "silence", "white" or "pink", "level_db": null or RMS over full scale, "hypothesis",
                        "words", "looping"}]
        failed          those that were not answered, as of a measurement
        with_output     how many of them got any words
        words           said altogether, in the unit of the rates

A summary:

    clips, seconds                     how many, how long together
    unit                               "word", "character", "mixed" or "label"
    wer                                corpus error rate in that unit: (S + D + I) / max(words, 1)
    interval                           [low, high], bootstrap; null below two clips (or groups)
    substitutions, deletions, insertions, hits, words    summed; words = substitutions + deletions + hits
    cer                                corpus character error rate; null for labels
    empty, empty_share                 clips without a word in the hypothesis, those of silence among them
    looping, looping_share             clips whose hypothesis loops
    silence                            {"clips", "with_output", "words"} of clips with an empty transcript; null: none
    keywords                           {"hits", "true", "said", "precision", "recall", "f1", "entity_cer",
                                       "entity_hit_rate"}; null: none asked for. entity_cer is the character error rate
                                       of the spoken keywords, each against the words most like it, entity_hit_rate the
                                       share of them at 0.15 or below; null where none was spoken
    decoding_seconds, rtfx, rtfx_includes    wall time, audio seconds / wall seconds, and what the time includes; null
                                       in breakdowns
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from audiorl._version import __version__
from audiorl.evaluation.measurement import Measurement, Parts
from audiorl.evaluation.settings import LABELS, EvaluationSettings
from audiorl.evaluation.significance import Comparison
from audiorl.evaluation.systems import Probe
from audiorl.files import whole_file

FORMAT, VERSION = "audiorl evaluation", 1
# Packages that decide what is decoded and counted.
PACKAGES = (
    *("torch", "transformers", "peft", "datasets", "jiwer", "rapidfuzz"),
    *("numpy", "librosa", "soundfile", "requests"),
)
# Lines of each list: the document has the rest.
_LISTED = 8
_MOST_LABELS = 50
_SHOWN_CLIPS = 5


@dataclass(frozen=True)
class Compared:
    """Two of the measurements by their places, and what changed from one to the other."""

    before: int
    after: int
    changes: Comparison


def document(
    settings: EvaluationSettings,
    evaluated: Sequence[Measurement],
    compared: Sequence[Compared] = (),
    probes: Sequence[Probe] = (),
) -> dict[str, Any]:
    """What is written, as plain values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "settings": settings.to_dict(),
        "measurements": [measurement(one) for one in evaluated],
        "comparisons": [
            {
                "dataset": evaluated[pair.before].dataset,
                "before_model": evaluated[pair.before].model,
                "after_model": evaluated[pair.after].model,
                "before": pair.before,
                "after": pair.after,
                **pair.changes.to_dict(),
            }
            for pair in compared
        ],
        "probes": [one.to_dict() for one in probes],
    }


def versions() -> dict[str, str]:
    """What the numbers were made with: audiorl, Python and the packages that are installed."""
    found = {"audiorl": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check that a document can be written, before anything is decoded.

    Raises:
        ValueError: the file exists and may not be overwritten, or its folder does not or takes no files.
    """
    name = os.fspath(path)
    folder = os.path.dirname(name) or "."
    if os.path.isdir(name) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(
            f"The result cannot be written to {name}: it is a folder, or its own folder does not exist or cannot be "
            "written to. Make the folder, and give a file name like result.json."
        )
    if os.path.exists(name) and not overwrite:
        raise ValueError(f"{name} exists already. Give another file name, or pass --overwrite.")


def write_document(found: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a document beside its place and move it there, so that no reader ever sees half of it.

    Raises:
        OSError: it cannot be written; what was at `path` stays.
    """
    name = os.fspath(path)
    try:
        with whole_file(name) as file:
            json.dump(found, file, ensure_ascii=False, allow_nan=False, indent=1)
            file.write("\n")
    except OSError as error:
        raise OSError(
            f"The result could not be written to {name}: {error}. What was there before is unchanged; make room, or "
            "give another --output."
        ) from error


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_document` wrote.

    Raises:
        ValueError: there is no such file, or it is no evaluation document of a version that this one knows.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as JSON: {error}. Give a file that audiorl evaluate --output wrote."
        ) from error
    kind = (found.get("format"), found.get("version")) if isinstance(found, dict) else (None, None)
    if kind != (FORMAT, VERSION):
        raise ValueError(
            f"{name} is not an evaluation of version {VERSION}: its format is {kind[0]!r}, its version {kind[1]!r}. "
            "Give a file that this version of audiorl evaluate --output wrote, or measure again."
        )
    return found


# Of a summary, beside silence and keywords.
_NUMBERS = (
    *("clips", "seconds", "unit", "wer", "interval", "substitutions", "deletions", "insertions", "hits", "words"),
    *("cer", "empty", "empty_share", "looping", "looping_share", "decoding_seconds", "rtfx", "rtfx_includes"),
)


def measurement(found: Measurement) -> dict[str, Any]:
    """One of a document's measurements."""
    return {
        "model": found.model,
        "dataset": found.dataset,
        "left_out": found.left_out,
        "failed": [asdict(clip) for clip in found.failed],
        "decoding": dict(found.decoding),
        "summary": summary(found),
        "breakdown": {
            name: [{"value": value, **summary(part)} for value, part in parts]
            for name, parts in found.breakdown.items()
        },
        "labels": None if found.answers is None else found.answers.to_dict(),
        "clips": [_clip(found, place) for place in range(len(found))],
    }


def summary(found: Measurement) -> dict[str, Any]:
    """The numbers of all its clips."""
    silence, keywords = found.silence, found.keywords
    return {
        **{name: getattr(found, name) for name in _NUMBERS},
        "silence": None if silence is None else asdict(silence),
        "keywords": None if keywords is None else asdict(keywords),
    }


def _clip(found: Measurement, place: int) -> dict[str, Any]:
    clip, keywords, answers = found.rows[place], found.keyword_counts[place], found.answers
    return {
        "id": clip.id,
        "where": clip.where,
        "audio": clip.audio,
        "channel": clip.channel,
        "segment": None if clip.segment is None else list(clip.segment),
        "transcript": clip.transcript,
        "hypothesis": clip.hypothesis,
        **found.errors[place]._asdict(),
        "seconds": clip.seconds,
        "speaker": clip.speaker,
        "language": clip.language,
        "empty": bool(found.is_empty[place]),
        "looping": bool(found.is_looping[place]),
        "keywords": None if keywords is None else keywords._asdict(),
        "predicted": None if answers is None else answers.predicted[place],
    }


# ---- for a person at a terminal ----


def report(
    settings: EvaluationSettings,
    evaluated: Sequence[Measurement],
    compared: Sequence[Compared] = (),
    probes: Sequence[Probe] = (),
    *,
    width: int | None = None,
) -> str:
    """The evaluation as lines of text: one table of all measurements, then the details of each.

    Args:
        width: tables that are wider are cut into several; None cuts none.
    """
    lines = [*_measurements(evaluated, width), ""]
    unit = settings.task if settings.task == LABELS else f"unit {settings.unit}"
    lines.append(f"normaliser {settings.normaliser.name}, {unit}; intervals: 95 %, bootstrap over {_drawn(settings)}")
    lines += dict.fromkeys(f"RTFx over {text}" for one in evaluated if (text := one.rtfx_includes))
    for one in evaluated:
        lines += _details(one, len(evaluated) > 1, width)
    for pair in compared:
        lines += _changes(pair, evaluated)
    for found in probes:
        lines += _probe(found)
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Cells in columns: the first left aligned, the others right aligned. The first row is the head.

    Args:
        width: if the table is wider, columns that do not fit stand below, beside the first one again.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        fitting, taken = 1, widths[0]
        while fitting < len(widths) and (fitting == 1 or taken + 2 + widths[fitting] <= width):
            taken += 2 + widths[fitting]
            fitting += 1
        if fitting < len(widths):
            rest = [[row[0], *row[fitting:]] for row in rows]
            return [*columns([row[:fitting] for row in rows]), "", *columns(rest, width)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def short_name(name: str) -> str:
    """The last part of a path. Names of the Hub and of demos stay as they are."""
    return os.path.basename(os.path.normpath(name)) if os.path.exists(name) else name


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def _drawn(settings: EvaluationSettings) -> str:
    return "clips" if settings.group_column is None else f"the values of {settings.group_column!r}"


def _interval(found: Measurement) -> str:
    return "-" if found.interval is None else " to ".join(percent(end) for end in found.interval)


def _counts(found: Measurement) -> list[str]:
    return [str(n) for n in (found.clips, found.words, found.substitutions, found.deletions, found.insertions)]


def _measurements(evaluated: Sequence[Measurement], width: int | None) -> list[str]:
    rate = "WER %" if all(one.unit == "word" for one in evaluated) else "error %"
    head = ["model on data set", rate, "95 %", "CER %", "clips", "words", "S", "D", "I", "empty", "loops", "RTFx"]
    rows = [head]
    for one in evaluated:
        rtfx = "-" if one.rtfx is None else f"{one.rtfx:.1f}"
        rows.append(
            [
                _title(one),
                *(percent(one.wer), _interval(one), percent(one.cer)),
                *(_of_rows(one), *_counts(one)[1:]),
                *(str(one.empty), str(one.looping), rtfx),
            ]
        )
    return columns(rows, width)


def _of_rows(one: Measurement) -> str:
    """How many clips the numbers are made of, and of how many where rows failed."""
    return f"{one.clips} of {one.clips + len(one.failed)}" if one.failed else str(one.clips)


def _title(one: Measurement) -> str:
    return f"{short_name(one.model)} on {short_name(one.dataset)}"


def _details(one: Measurement, several: bool, width: int | None) -> Iterator[str]:
    yield ""
    if several:
        yield f"{_title(one)}:"
    if one.left_out:
        yield f"{one.left_out} clips left out for their length"
    if one.failed:
        rows = len(one.failed) + one.clips
        yield f"{len(one.failed)} of {rows} rows failed; the numbers are those of the other {one.clips}:"
        yield from (f"  {clip.problem}" for clip in one.failed[:_LISTED])
        if len(one.failed) > _LISTED:
            yield f"  and {len(one.failed) - _LISTED} more, all of them in the document (--output)"
    if one.silence is not None:
        silence = one.silence
        yield f"silence: {silence.with_output} of {silence.clips} clips got words, {silence.words} altogether"
    if one.keywords is not None:
        words = one.keywords
        yield (
            f"keywords: precision {percent(words.precision)} %, recall {percent(words.recall)} %, "
            f"F1 {percent(words.f1)} % ({words.true} spoken, {words.said} said, {words.hits} right)"
        )
        if words.entity_cer is not None and words.entity_hit_rate is not None:
            yield (
                f"keywords letter by letter: CER {percent(words.entity_cer)} %, {percent(words.entity_hit_rate)} % of "
                "those spoken right or nearly right"
            )
    if one.answers is not None:
        yield from _labels(one, width)
    for name, parts in one.breakdown.items():
        yield from _breakdown(name, parts, width)


def _labels(one: Measurement, width: int | None) -> Iterator[str]:
    assert one.answers is not None
    found = one.answers.to_dict()
    yield f"accuracy {percent(found['accuracy'])} %"
    labels, head = found["per_label"], "label"
    if len(labels) > _MOST_LABELS:  # free answers, hardly one of them twice
        labels = sorted(labels, key=lambda label: (label["accuracy"], -label["clips"]))[:_LISTED]
        head = f"label: the worst {_LISTED} of {len(found['per_label'])}"
    rows = [[head, "accuracy %", "right", "clips"]]
    rows += [[f["label"], percent(f["accuracy"]), str(f["right"]), str(f["clips"])] for f in labels]
    yield from columns(rows, width)
    wrong = [pair for pair in found["confusion"] if pair["label"] != pair["predicted"]]
    for pair in sorted(wrong, key=lambda pair: -pair["clips"])[:_LISTED]:
        said = "no known label" if pair["predicted"] is None else pair["predicted"]
        yield f"  {pair['clips']} x {pair['label']} taken for {said}"


def _breakdown(name: str, parts: Parts, width: int | None) -> Iterator[str]:
    """The parts in their order; if there are many, those with the highest error rates."""
    if not parts:
        return
    shown, head = parts, name
    if len(parts) > _LISTED:
        shown = sorted(parts, key=lambda part: -part[1].wer)[:_LISTED]
        head = f"{name}: the worst {_LISTED} of {len(parts)}"
    rows = [[head, "error %", "95 %", "CER %", "clips", "words", "S", "D", "I"]]
    rows += [[value, percent(part.wer), _interval(part), percent(part.cer), *_counts(part)] for value, part in shown]
    yield ""
    yield from columns(rows, width)


def _changes(pair: Compared, evaluated: Sequence[Measurement]) -> Iterator[str]:
    before, after, found = evaluated[pair.before], evaluated[pair.after], pair.changes
    yield ""
    yield f"{short_name(before.model)} -> {short_name(after.model)} on {short_name(before.dataset)}: {found.verdict}"
    tested = "nothing to resample"
    if found.tested is not None:
        low, high = (100 * end for end in (found.tested.low, found.tested.high))
        tested = f"95 % interval {low:+.1f} to {high:+.1f}, paired bootstrap p = {found.tested.p_value:.2g}"
    relative = 0.0 - 100 * found.relative_gain
    yield f"difference {100 * found.difference:+.1f} points ({tested}), {relative:+.0f} % relative"
    if before.failed or after.failed:
        yield f"compared over the {len(found.before)} clips that failed for neither"
    yield f"{len(found.better)} clips better, {len(found.worse)} worse, {found.same} with as many errors"
    for name, changed in (("better", found.better), ("worse", found.worse)):
        for change in changed[:_SHOWN_CLIPS]:
            one, other = before.rows[change.clip], after.rows[change.clip_after]
            yield f"  {name}: {change.id}, {change.errors_before} -> {change.errors_after} errors"
            yield f"    said    {one.transcript}"
            yield f"    before  {one.hypothesis}"
            yield f"    after   {other.hypothesis}"


def _probe(found: Probe) -> Iterator[str]:
    told = found.to_dict()
    yield ""
    yield (
        f"{short_name(found.model)} on {found.seconds:g} s of silence and noise: {told['with_output']} of "
        f"{len(told['clips'])} clips got words, {told['words']} altogether"
    )
    yield from (f"  {clip.problem}" for clip in found.measured.failed)
    for clip in told["clips"]:
        level = "" if clip["level_db"] is None else f" {clip['level_db']:g} dB"
        yield f"  {clip['kind']}{level}: {clip['hypothesis']!r}"

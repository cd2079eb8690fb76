"""An evaluation for a person at a terminal; the document has every number and clip of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from audiorl.evaluation.document import Compared
from audiorl.evaluation.measurement import Measurement, Parts
from audiorl.evaluation.probe import Probe
from audiorl.evaluation.settings import LABELS, EvaluationSettings

# Lines of each list: the document has the rest.
_LISTED = 8
_MOST_LABELS = 50
_SHOWN_CLIPS = 5


def report(
    settings: EvaluationSettings,
    evaluated: Sequence[Measurement],
    compared: Sequence[Compared] = (),
    probes: Sequence[Probe] = (),
) -> str:
    """Everything in lines of text: one table of all measurements, then what is behind each number."""
    lines = [*_measurements(evaluated), ""]
    unit = settings.task if settings.task == LABELS else f"unit {settings.unit}"
    lines.append(f"normaliser {settings.normaliser.name}, {unit}; intervals: 95 %, bootstrap over {_drawn(settings)}")
    lines += dict.fromkeys(f"RTFx over {text}" for one in evaluated if (text := one.rtfx_includes))
    for one in evaluated:
        lines += _details(one, several=len(evaluated) > 1)
    for pair in compared:
        lines += _changes(pair, evaluated)
    for found in probes:
        lines += _probe(found)
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns: the first left, all others right aligned; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def short_name(name: str) -> str:
    """The last part of a path; names of the Hub and of demos as they are."""
    return os.path.basename(os.path.normpath(name)) if os.path.exists(name) else name


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def _drawn(settings: EvaluationSettings) -> str:
    return "clips" if settings.group_column is None else f"the values of {settings.group_column!r}"


def _interval(found: Measurement) -> str:
    return "-" if found.interval is None else " to ".join(percent(end) for end in found.interval)


def _counts(found: Measurement) -> list[str]:
    return [str(n) for n in (found.clips, found.words, found.substitutions, found.deletions, found.insertions)]


def _measurements(evaluated: Sequence[Measurement]) -> list[str]:
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
    return columns(rows)


def _of_rows(one: Measurement) -> str:
    """How many clips the numbers are made of, and of how many where rows failed."""
    return f"{one.clips} of {one.clips + len(one.failed)}" if one.failed else str(one.clips)


def _title(one: Measurement) -> str:
    return f"{short_name(one.model)} on {short_name(one.dataset)}"


def _details(one: Measurement, several: bool) -> Iterator[str]:
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
        yield from _labels(one)
    for name, parts in one.breakdown.items():
        yield from _breakdown(name, parts)


def _labels(one: Measurement) -> Iterator[str]:
    assert one.answers is not None
    found = one.answers.to_dict()
    yield f"accuracy {percent(found['accuracy'])} %"
    labels, head = found["per_label"], "label"
    if len(labels) > _MOST_LABELS:  # free answers, hardly one of them twice
        labels = sorted(labels, key=lambda label: (label["accuracy"], -label["clips"]))[:_LISTED]
        head = f"label: the worst {_LISTED} of {len(found['per_label'])}"
    rows = [[head, "accuracy %", "right", "clips"]]
    rows += [[f["label"], percent(f["accuracy"]), str(f["right"]), str(f["clips"])] for f in labels]
    yield from columns(rows)
    wrong = [pair for pair in found["confusion"] if pair["label"] != pair["predicted"]]
    for pair in sorted(wrong, key=lambda pair: -pair["clips"])[:_LISTED]:
        said = "no known label" if pair["predicted"] is None else pair["predicted"]
        yield f"  {pair['clips']} x {pair['label']} taken for {said}"


def _breakdown(name: str, parts: Parts) -> Iterator[str]:
    """The parts in their order; of many speakers those with the highest error rate."""
    if not parts:
        return
    shown, head = parts, name
    if len(parts) > _LISTED:
        shown = sorted(parts, key=lambda part: -part[1].wer)[:_LISTED]
        head = f"{name}: the worst {_LISTED} of {len(parts)}"
    rows = [[head, "error %", "95 %", "CER %", "clips", "words", "S", "D", "I"]]
    rows += [[value, percent(part.wer), _interval(part), percent(part.cer), *_counts(part)] for value, part in shown]
    yield ""
    yield from columns(rows)


def _changes(pair: Compared, evaluated: Sequence[Measurement]) -> Iterator[str]:
    before, after, found = evaluated[pair.before], evaluated[pair.after], pair.changes
    yield ""
    yield f"{short_name(before.model)} -> {short_name(after.model)} on {short_name(before.dataset)}:"
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

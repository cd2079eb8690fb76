"""One HTML file that needs nothing else: style, scripts, numbers, texts and audio inside, no network, no server.

Text of transcripts and file names reaches the page as JSON in which `<`, `>` and `&` are escapes, and the scripts write
it as text, never as markup. A content security policy lets only the page's own script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from audiorl._version import __version__
from audiorl.files import whole_file
from audiorl.report.audio import MEGABYTE, Embedded, PageAudio
from audiorl.report.differences import EQUAL, SUBSTITUTION, Piece, align, by_confusion, by_part, by_word
from audiorl.report.run_folder import RunFolder, read_run
from audiorl.text.error_rates import resolve_unit
from audiorl.text.normalizers import normalizer

# Numbers of the whole run, or of the clock; they are no curves.
NO_CURVE = re.compile(
    r"step|epoch|total_flos|num_input_tokens_seen|train_.*|test_.*|.*_runtime|eval_.*_per_second|time/seconds_left|"
    r"skipped_rows|left_out_clips"
)


class Chart(NamedTuple):
    """One picture: where it stands, its title, and the metrics that are drawn in it."""

    title: str
    metrics: re.Pattern
    first: bool = True  # shown at once; the others behind a click
    percent: bool = False


def _chart(title: str, metrics: str, **options: bool) -> Chart:
    return Chart(title, re.compile(metrics), **options)


CHARTS = (
    _chart("Error rate", r"wer|(eval_)(.+_)?[wc]er", percent=True),
    _chart("Loss", r"loss|loss/.+|eval_(.+_)?loss(/.+)?"),
    _chart("Reward", r"(eval_)?reward"),
    _chart("Parts of the reward", r"(eval_)?rewards/.+/mean"),
    _chart("Implicit rewards", r"(eval_)?rewards/(chosen|rejected|margins)"),
    _chart("KL", r"(eval_)?(.+/)?kl"),
    _chart("Entropy", r"(eval_)?entropy"),
    _chart("Accuracy", r"(eval_)?(rewards/accuracies|(.+_)?accuracy)", percent=True),
    _chart("Spread of the reward", r"reward_std|rewards/.+/std", first=False),
    _chart("Groups without variance", r"frac_.+", first=False, percent=True),
    _chart("Log-probabilities", r"(eval_)?logps/.+", first=False),
    _chart("Mean logits", r"(eval_)?logits/.+", first=False),
    _chart("Length of hypotheses", r"completions/(mean|min|max)_length", first=False),
    _chart("Hypotheses cut by the limit", r"completions/clipped_ratio", first=False, percent=True),
    _chart("Clipped ratios", r"clip_ratio/.+", first=False, percent=True),
    _chart("Learning rate", r"learning_rate", first=False),
    _chart("Gradient norm", r"grad_norm", first=False),
    _chart("Where the time goes", r"time/.+", first=False, percent=True),
    _chart("Seconds of speech in a second", r"audio_seconds_per_second(/device)?", first=False),
    _chart("Peak memory, GiB", r"memory/peak_gib", first=False),
)


def charts(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The charts that a log has numbers for: `{"title", "first", "percent", "series": [{"name", "points"}]}`.

    A point is [step, value]; a value that is not finite is null, a gap in the line. A metric of no chart of `CHARTS`
    gets one of its own.
    """
    series: dict[str, list[list[float | None]]] = {}
    for record in history:
        for name, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not NO_CURVE.fullmatch(name):
                series.setdefault(name, []).append([record["step"], value if math.isfinite(value) else None])
    found = []
    for chart in CHARTS:
        names = [name for name in series if chart.metrics.fullmatch(name)]
        if names:
            drawn = [{"name": name, "points": series.pop(name)} for name in names]
            found.append({"title": chart.title, "first": chart.first, "percent": chart.percent, "series": drawn})
    others = ({"name": name, "points": points} for name, points in series.items())
    found += [{"title": one["name"], "first": False, "percent": False, "series": [one]} for one in others]
    return found


# Names under which results stand that cannot be looked up again -> the nearest that can.
NEAREST_NORMALISER = {"english+spelling": "english"}
COMPARISON = ("difference", "interval", "p_value", "relative_gain")


def page_data(run: RunFolder, title: str, audio: PageAudio) -> dict[str, Any]:
    """Everything a page shows but the audio, which `audio` takes in."""
    notes: list[str] = []
    measured = _evaluations(run, notes)
    parts: dict[str, Any] = {
        "title": title,
        "facts": run.facts,
        "stages": run.stages,
        "charts": charts(run.history),
        "checkpoints": [found._asdict() for found in run.checkpoints],
        "evaluations": measured,
        "pairs": _pairs(run),
        "groups": _groups(run, notes),
    }
    _add_audio([*(one["clips"] for one in measured), parts["groups"], parts["pairs"]], audio)
    if measured or parts["groups"] or parts["pairs"]:
        notes.append(audio.describe() + ".")
    return {**parts, "notes": notes}


def _add_audio(lists: Sequence[list[dict[str, Any]]], audio: PageAudio) -> None:
    """Every row's `source` becomes its `audio`; the lists share the room, their first rows come first."""
    for rows in zip_longest(*lists):
        for row in rows:
            if row is not None:
                row["audio"] = audio.add(row.pop("source"), row["seconds"], **row.pop("part"))


# ---- evaluation ----


def _evaluations(run: RunFolder, notes: list[str]) -> list[dict[str, Any]]:
    """One for each data set of the run's evaluation: all systems that were measured on it, side by side."""
    if run.evaluation is None:
        return []
    places: dict[str, list[int]] = {}
    for place, measured in enumerate(run.evaluation["measurements"]):
        places.setdefault(measured["dataset"], []).append(place)
    return [_evaluation(run, found, notes) for found in places.values()]


def _evaluation(run: RunFolder, places: Sequence[int], notes: list[str]) -> dict[str, Any]:
    """The clips with what each system made of them; the largest change from the first to the last comes first.

    Args:
        places: of the systems among the document's measurements.
    """
    document = run.evaluation
    assert document is not None
    systems = [document["measurements"][place] for place in places]
    compared = {(one["before"], one["after"]): one for one in document["comparisons"]}
    comparisons = [compared.get((places[0], place)) for place in places]
    unit, name = systems[0]["summary"]["unit"], document["settings"]["normaliser"]
    rows = _common_clips(systems, notes)
    alignments = [_alignments([row[at] for row in rows], unit, name, notes) for at in range(len(systems))]
    words, all_words = by_word(alignments, unit)
    confusions, all_confusions = by_confusion(alignments)
    clips = [_clip(run, place, row, [found[place] for found in alignments]) for place, row in enumerate(rows)]
    models = [system["model"] for system in systems]
    return {
        "names": ["before", "after"] if run.trained and len(systems) == 2 else short_names(models),
        "models": models,
        "dataset": systems[0]["dataset"],
        "normaliser": name,
        "unit": unit,
        "decodings": [system["decoding"] for system in systems],
        "summaries": [system["summary"] for system in systems],
        "comparisons": [found and {key: found[key] for key in COMPARISON} for found in comparisons],
        "parts": {name: by_part(systems, name) for name in ("speaker", "language", "duration")},
        "words": words,
        "all_words": all_words,
        "confusions": confusions,
        "all_confusions": all_confusions,
        "clips": sorted(clips, key=_by_change),
    }


def _common_clips(systems: Sequence[dict], notes: list[str]) -> list[tuple[dict, ...]]:
    """For each row that no system failed at, the clip of every system."""
    lists = [system["clips"] for system in systems]
    where = [[clip["where"] for clip in clips] for clips in lists]
    if all(one == where[0] for one in where):
        return list(zip(*lists, strict=True))
    known = [{clip["where"]: clip for clip in clips} for clips in lists]
    found = [
        (clip, *(one[clip["where"]] for one in known[1:]))
        for clip in lists[0]
        if all(clip["where"] in one for one in known[1:])
    ]
    rows = len(set().union(*known))
    notes.append(
        f"{systems[0]['dataset']}: {rows - len(found)} of {rows} rows were not answered by every model. They are not "
        "among the clips; each model's rates are those of the rows that it answered."
    )
    return found


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of paths and Hub names, as many as it takes to tell them apart; equal ones are numbered."""
    parts = [re.split(r"[/\\]", name.rstrip("/\\")) for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(one[-length:]) for one in parts]
        if len(set(found)) == len(set(names)):
            break
    seen: Counter[str] = Counter()
    for place, name in enumerate(found):
        seen[name] += 1
        if seen[name] > 1:
            found[place] = f"{name} ({seen[name]})"
    return found


def _by_change(clip: dict[str, Any]) -> tuple[int, int, int]:
    errors = [system["errors"] for system in clip["systems"]]
    return -abs(errors[-1] - errors[0]), -errors[-1], clip["place"]


def _clip(run: RunFolder, place: int, row: Sequence[dict], pieces: Sequence[list[Piece]]) -> dict[str, Any]:
    """One clip of the page.

    Args:
        place: among the rows, from 0.
        row: the clip of each system; `pieces`: its alignment.
    """
    clip = row[0]
    source = clip["audio"]
    own = {name: clip.get(name) for name in ("channel", "segment") if clip.get(name) is not None}
    return {
        "place": place,
        "id": clip["id"],
        "where": clip["where"],
        "speaker": clip["speaker"],
        "language": clip["language"],
        "seconds": clip["seconds"],
        "true": clip["transcript"],
        "words": clip["substitutions"] + clip["deletions"] + clip["hits"],
        "systems": [
            {"errors": _errors(one), "said": one["hypothesis"], "pieces": _plain(found)}
            for one, found in zip(row, pieces, strict=True)
        ],
        # what a row of the next round names; null where the audio lies in no file of its own
        "file": source,
        **own,
        "source": run.kept_audio(f"clip-{place}") if source is None else source,
        "part": _part(clip),
    }


def _part(row: dict[str, Any]) -> dict[str, Any]:
    """Which channel and segment of its file a row is; what the run kept itself is that part alone."""
    return {} if row["audio"] is None else {name: row.get(name) for name in ("channel", "segment")}


def _errors(clip: dict[str, Any]) -> int:
    return clip["substitutions"] + clip["deletions"] + clip["insertions"]


def _alignments(clips: Sequence[dict], unit: str, name: str, notes: list[str]) -> list[list[Piece]]:
    if unit == "label":  # one thing, right or wrong by whatever the evaluation took for it
        kinds = (SUBSTITUTION if clip["substitutions"] else EQUAL for clip in clips)
        return [[Piece(kind, clip["transcript"], clip["hypothesis"])] for kind, clip in zip(kinds, clips, strict=True)]
    return align(
        [clip["transcript"] for clip in clips],
        [clip["hypothesis"] for clip in clips],
        unit=unit,
        normalise=_normaliser(name, notes),
    )


def _normaliser(name: str, notes: list[str]) -> Callable[[str], str]:
    """The normaliser of a result, or the nearest one that needs no checkpoint, which the page then says."""
    try:
        return normalizer(name)
    except ValueError:
        used = NEAREST_NORMALISER.get(name, "basic")
        note = (
            f"Errors were counted after the normaliser {name!r}, which needs more than its name; the coloured "
            f"differences are those after {used!r} and may show others."
        )
        if note not in notes:
            notes.append(note)
        return normalizer(used)


def _plain(pieces: Sequence[Piece]) -> list[list[str]]:
    return [[piece.kind, piece.true] if piece.kind == EQUAL else list(piece) for piece in pieces]


# ---- training ----


def _source(run: RunFolder, row: dict[str, Any]) -> str | None:
    return row["audio"] if row["audio"] is not None else run.kept_audio(f"row-{row['row_id']}")


def _pairs(run: RunFolder) -> list[dict[str, Any]]:
    """Chosen transcripts with what is different in the rejected ones; texts as the loss sees them.

    Each in a unit of its own: nothing is summed up here, and rows of several languages stand side by side.
    """
    units = [resolve_unit("auto", [row["chosen"]]) for row in run.pairs]
    pieces = [
        align([row["chosen"]], [row["rejected"]], unit=unit, normalise=str)[0]
        for row, unit in zip(run.pairs, units, strict=True)
    ]
    return [
        {
            "where": row["where"],
            "seconds": row["seconds"],
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            "unit": unit,
            "pieces": _plain(found),
            "errors": sum(piece.kind != EQUAL for piece in found),
            "source": _source(run, row),
            "part": _part(row),
        }
        for row, unit, found in zip(run.pairs, units, pieces, strict=True)
    ]


def _groups(run: RunFolder, notes: list[str]) -> list[dict[str, Any]]:
    """Groups with all hypotheses aligned, the highest reward first; the last step first, units as of pairs."""
    if not run.groups:
        return []
    normalise = _normaliser(run.facts.get("wer_normaliser", "basic"), notes)
    return [
        {
            "step": group["step"],
            "where": group["where"],
            "seconds": group["seconds"],
            "true": "(none)" if group["transcript"] is None else group["transcript"],
            "unit": unit,
            "hypotheses": list(_ranked(group, unit, normalise)),
            "source": _source(run, group),
            "part": _part(group),
        }
        for group in reversed(run.groups)
        for unit in [resolve_unit("auto", [_compared_with(group)])]
    ]


def _compared_with(group: dict[str, Any]) -> str:
    """The transcript; where there is none, the first hypothesis, which is marked nowhere."""
    return group["hypotheses"][0]["text"] if group["transcript"] is None else group["transcript"]


def _ranked(group: dict[str, Any], unit: str, normalise: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    hypotheses = group["hypotheses"]
    texts = [hypothesis["text"] for hypothesis in hypotheses]
    true = texts if group["transcript"] is None else [group["transcript"]] * len(texts)
    pieces = align(true, texts, unit=unit, normalise=normalise)
    order = sorted(range(len(texts)), key=lambda k: -_number(hypotheses[k]["reward"]))
    for k in order:
        yield {**hypotheses[k], "pieces": _plain(pieces[k])}


def _number(reward: float | None) -> float:
    """Hypotheses that no reward scored come last."""
    return float("-inf") if reward is None else reward


REPORT_FILE = "report.html"
AUDIO_MEGABYTES = 20.0
SCRIPTS = (
    *("elements.js", "wave.js", "player.js", "texts.js", "chart.js", "list.js"),
    *("sections.js", "clips.js", "errors.js", "training.js", "main.js"),
)
# Markup; line ends of older JavaScript; halves of surrogate pairs, which UTF-8 cannot hold and file names may.
ESCAPES = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&\u2028\u2029"), *range(0xD800, 0xE000))}


def write_report(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    audio_megabytes: float = AUDIO_MEGABYTES,
    title: str | None = None,
) -> Path:
    """Write the report of a run, or of an evaluation, as one HTML file.

    Args:
        run: a trainer's output_dir, or a JSON file that `audiorl evaluate --output` wrote.
        output: the file to write; default `report.html` in the run's folder, or beside the JSON file.
        audio_megabytes: how much of the file may be audio, in millions of characters, >= 0; clips beyond it are linked.
        title: of the page; default the run's name.

    Returns:
        The file's path.

    Raises:
        ValueError: the run left nothing to report, a file of it is damaged, or `audio_megabytes` is below zero.
    """
    if audio_megabytes < 0:
        raise ValueError(f"A report embeds audio_megabytes >= 0 of audio; got {audio_megabytes}. 0 links every clip.")
    source = Path(run)
    page = Path(output) if output is not None else _default_page(source)
    found = read_run(source)
    name = title or (source.stem if source.is_file() else source.resolve().name)
    text = page_text(found, page, name, audio_megabytes)
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page) as file:
        file.write(text)
    return page


def _default_page(source: Path) -> Path:
    return source.with_suffix(".html") if source.is_file() else source / REPORT_FILE


def page_text(run: RunFolder, page: Path, title: str, audio_megabytes: float) -> str:
    """The page as a text; `page` is where it will lie, from where links start."""
    audio = PageAudio(page, round(audio_megabytes * MEGABYTE))
    data = page_data(run, title, audio)
    data["made"] = f"audiorl {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    script = "\n".join(_static(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(title).encode("utf-8", "replace").decode(),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": _static("page.css"),
        "data": script_safe_json(data),
        "audio": "\n".join(_audio_block(place, clip) for place, clip in enumerate(audio.embedded)),
        "script": script,
    }
    # in one pass over the template: what is put in is not looked at again
    pieces = _static("page.html").split("{{")
    return pieces[0] + "".join(
        parts[name] + rest for name, rest in (piece.split("}}", maxsplit=1) for piece in pieces[1:])
    )


def script_safe_json(value: Any) -> str:
    """JSON that cannot end the element it stands in, whatever texts it holds.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot say.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def _audio_block(place: int, clip: Embedded) -> str:
    return f'<script type="text/plain" id="audio-{place}" data-kind="{clip.kind}">{clip.content}</script>'


def _static(name: str) -> str:
    return (files("audiorl.report") / "static" / name).read_text(encoding="utf-8")

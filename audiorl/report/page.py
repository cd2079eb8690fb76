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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from audiorl._version import __version__
from audiorl.files import whole_file
from audiorl.report.audio import MEGABYTE, Embedded, PageAudio
from audiorl.report.run_folder import RunFolder, read_run
from audiorl.text.error_rates import align_units, resolve_unit, split_units
from audiorl.text.normalizers import normalizer

EQUAL, SUBSTITUTION, INSERTION, DELETION = "=", "S", "I", "D"


class Piece(NamedTuple):
    """A stretch of an alignment: a run of right units, or one error."""

    kind: str  # EQUAL, SUBSTITUTION, INSERTION or DELETION
    true: str  # the transcript's units, "" for an insertion
    said: str  # the hypothesis's units, "" for a deletion


def align(
    transcripts: Sequence[str], hypotheses: Sequence[str], *, unit: str, normalise: Callable[[str], str]
) -> list[list[Piece]]:
    """The pieces of each pair of texts, from left to right; their counts are those of `count_errors`.

    Args:
        transcripts, hypotheses: N texts each, not normalised.
        unit: "word", "character" or "mixed"; see `audiorl.evaluation.count_errors`.
        normalise: from text to text.
    """
    true, said = ([normalise(text) for text in texts] for texts in (transcripts, hypotheses))
    glue = "" if unit == "character" else " "
    return [
        _pieces(chunks, split_units(a, unit), split_units(b, unit), glue)
        for chunks, a, b in zip(align_units(true, said, unit), true, said, strict=True)
    ]


def _pieces(chunks: Sequence, true: list[str], said: list[str], glue: str) -> list[Piece]:
    pieces: list[Piece] = []
    for chunk in chunks:
        left = true[chunk.ref_start_idx : chunk.ref_end_idx]
        right = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            pieces.append(Piece(EQUAL, glue.join(left), glue.join(right)))
        elif chunk.type == "substitute":
            pieces += [Piece(SUBSTITUTION, a, b) for a, b in zip(left, right, strict=True)]
        elif chunk.type == "insert":
            pieces += [Piece(INSERTION, "", unit) for unit in right]
        else:
            pieces += [Piece(DELETION, unit, "") for unit in left]
    return pieces


def true_units(piece: Piece, unit: str) -> list[str]:
    """The units of the transcript that a piece holds."""
    if piece.kind != EQUAL or unit == "label":
        return [piece.true] if piece.true else []
    return list(piece.true) if unit == "character" else piece.true.split()


# Words of a page's table; those with most errors.
MOST_WORDS = 500
# How many ways of mishearing a word are named.
MISHEARINGS = 3


def by_part(systems: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The parts of a breakdown with the error rate of each system: `{"value", "clips", "words", "wer"}`.

    Args:
        systems: measurements of an evaluation document, on the same clips.
        name: "speaker", "language" or "duration".
    """
    parts = zip(*(system["breakdown"][name] for system in systems), strict=True)
    return [
        {**{key: part[0][key] for key in ("value", "clips", "words")}, "wer": [one["wer"] for one in part]}
        for part in parts
    ]


def by_word(alignments: Sequence[Sequence[Sequence[Piece]]], unit: str) -> tuple[list[dict[str, Any]], int]:
    """Errors on each word of the transcripts, and how many words have any.

    Args:
        alignments: for each system, for each clip, the pieces.
        unit: what they are counted in.

    Returns:
        At most `MOST_WORDS` of `{"word", "count", "errors", "inserted", "heard"}`, most errors first, and the number
        of all such words. `count` is that of the transcripts; `errors` are the substitutions and deletions of each
        system, `inserted` its insertions, `heard` what it made of the word most often ("" for nothing).
    """
    count: Counter[str] = Counter()
    errors: list[Counter[str]] = [Counter() for _ in alignments]
    inserted: list[Counter[str]] = [Counter() for _ in alignments]
    heard: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in alignments]
    for system, clips in enumerate(alignments):
        for piece in (piece for pieces in clips for piece in pieces):
            if piece.kind == INSERTION:
                inserted[system][piece.said] += 1
                continue
            if system == 0:
                count.update(true_units(piece, unit))
            if piece.kind != EQUAL:
                errors[system][piece.true] += 1
                heard[system][piece.true][piece.said] += 1
    rows: list[dict[str, Any]] = [
        {
            "word": word,
            "count": count[word],
            "errors": [found[word] for found in errors],
            "inserted": [found[word] for found in inserted],
            "heard": [found[word].most_common(MISHEARINGS) if word in found else [] for found in heard],
        }
        for word in set().union(*errors, *inserted)
    ]
    rows.sort(key=lambda row: (-max(map(sum, zip(row["errors"], row["inserted"], strict=True))), row["word"]))
    return rows[:MOST_WORDS], len(rows)


# Numbers of the whole run, or of the clock; they are no curves.
NO_CURVE = re.compile(
    r"step|epoch|total_flos|num_input_tokens_seen|train_.*|test_.*|.*_runtime|.*_per_second|skipped_rows|left_out_clips"
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
    measured = _measured(run, notes)
    parts: dict[str, Any] = {
        "title": title,
        "facts": run.facts,
        "charts": charts(run.history),
        "checkpoints": [found._asdict() for found in run.checkpoints],
        "evaluation": measured,
        "pairs": _pairs(run),
        "groups": _groups(run, notes),
    }
    _add_audio([measured["clips"] if measured else [], parts["groups"], parts["pairs"]], audio)
    if measured or parts["groups"] or parts["pairs"]:
        notes.append(audio.describe() + ".")
    return {**parts, "notes": notes}


def _add_audio(lists: Sequence[list[dict[str, Any]]], audio: PageAudio) -> None:
    """Every row's `source` becomes its `audio`; the three lists share the room, their first rows come first."""
    for rows in zip_longest(*lists):
        for row in rows:
            if row is not None:
                row["audio"] = audio.add(row.pop("source"), row["seconds"], **row.pop("part"))


# ---- evaluation ----


def _measured(run: RunFolder, notes: list[str]) -> dict[str, Any] | None:
    """The clips with what each system, before and after, made of them; the largest change first."""
    document = run.evaluation
    if document is None:
        return None
    comparison = document["comparisons"][0] if document["comparisons"] else None
    if len(document["comparisons"]) > 1 or (comparison is None and len(document["measurements"]) > 1):
        shown = f"{len(document['comparisons'])} comparisons of {len(document['measurements'])} measurements"
        notes.append(f"The evaluation holds {shown}; this page shows the first.")
    places = [0] if comparison is None else [comparison["before"], comparison["after"]]
    systems = [document["measurements"][place] for place in places]
    unit, name = systems[0]["summary"]["unit"], document["settings"]["normaliser"]
    alignments = [_alignments(system["clips"], unit, name, notes) for system in systems]
    clips = [_clip(run, place, systems, alignments) for place in range(len(systems[0]["clips"]))]
    words, all_words = by_word(alignments, unit)
    found = {
        "names": ["before", "after"] if comparison else [systems[0]["model"]],
        "models": [system["model"] for system in systems],
        "dataset": systems[0]["dataset"],
        "normaliser": name,
        "unit": unit,
        "decoding": systems[-1]["decoding"],
        "summaries": [system["summary"] for system in systems],
        "comparison": comparison and {key: comparison[key] for key in COMPARISON},
        "parts": {name: by_part(systems, name) for name in ("speaker", "language", "duration")},
        "words": words,
        "all_words": all_words,
        "clips": clips,
    }
    clips.sort(key=_by_change)
    return found


def _by_change(clip: dict[str, Any]) -> tuple[int, int, int]:
    errors = [system["errors"] for system in clip["systems"]]
    return -abs(errors[-1] - errors[0]), -errors[-1], clip["place"]


def _clip(run: RunFolder, place: int, systems: Sequence[dict], alignments: Sequence[list]) -> dict[str, Any]:
    clip = systems[0]["clips"][place]
    source = clip["audio"]
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
            {"errors": _errors(one), "said": one["hypothesis"], "pieces": _plain(pieces[place])}
            for one, pieces in zip((system["clips"][place] for system in systems), alignments, strict=True)
        ],
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
SCRIPTS = ("elements.js", "player.js", "texts.js", "chart.js", "list.js", "sections.js", "training.js", "main.js")
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

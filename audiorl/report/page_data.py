"""The numbers and texts of a page, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from audiorl.report.alignment import EQUAL, SUBSTITUTION, Piece, align
from audiorl.report.audio import PageAudio
from audiorl.report.breakdown import by_part, by_word
from audiorl.report.curves import charts
from audiorl.report.run_folder import RunFolder
from audiorl.text.error_rates import resolve_unit
from audiorl.text.normalizers import normalizer

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
                row["audio"] = audio.add(row.pop("source"), row["seconds"], row.pop("channel"))


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
        "channel": _channel(clip),
    }


def _channel(row: dict[str, Any]) -> int | None:
    """Which channel of its file a row is; what the run kept itself is that channel alone."""
    return None if row["audio"] is None else row.get("channel")


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
            "channel": _channel(row),
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
            "true": group["transcript"],
            "unit": unit,
            "hypotheses": list(_ranked(group, unit, normalise)),
            "source": _source(run, group),
            "channel": _channel(group),
        }
        for group in reversed(run.groups)
        for unit in [resolve_unit("auto", [group["transcript"]])]
    ]


def _ranked(group: dict[str, Any], unit: str, normalise: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    hypotheses = group["hypotheses"]
    texts = [hypothesis["text"] for hypothesis in hypotheses]
    pieces = align([group["transcript"]] * len(texts), texts, unit=unit, normalise=normalise)
    order = sorted(range(len(texts)), key=lambda k: -_number(hypotheses[k]["reward"]))
    for k in order:
        yield {**hypotheses[k], "pieces": _plain(pieces[k])}


def _number(reward: float | None) -> float:
    """Hypotheses that no reward scored come last."""
    return float("-inf") if reward is None else reward

"""Summaries by speaker, language and duration: where the errors are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from audiorl.evaluation.clips import Clip
from audiorl.evaluation.measurement import Measurement, measure
from audiorl.evaluation.settings import TRANSCRIPTION
from audiorl.evaluation.summaries import Summary

Parts = list[tuple[str, Summary]]


def breakdown(measured: Measurement) -> dict[str, Parts]:
    """Summaries of the parts, each with its name; an empty list where no clip has a speaker or language.

    Speakers and languages are in alphabetical order, durations from short to long. Clips without a speaker or language
    among others that have one are the part "unknown".
    """
    return {
        "speaker": _parts(measured, lambda clip: clip.speaker),
        "language": _parts(measured, lambda clip: clip.language, _recounted),
        "duration": _durations(measured),
    }


def duration_group(seconds: float, edges: Sequence[float]) -> int:
    """How many edges a clip has reached."""
    return bisect_right(list(edges), seconds)


def duration_name(group: int, edges: Sequence[float]) -> str:
    """What a group of durations is called: "under 2 s", "2-5 s" (2 included, 5 not), "20 s and over"."""
    if group == 0:
        return f"under {edges[0]:g} s"
    if group == len(edges):
        return f"{edges[-1]:g} s and over"
    return f"{edges[group - 1]:g}-{edges[group]:g} s"


def _parts(
    measured: Measurement,
    name: Callable[[Clip], str | None],
    part: Callable[[Measurement, list[int]], Measurement] = Measurement.part,
) -> Parts:
    places: dict[str | None, list[int]] = {}
    for place, clip in enumerate(measured.clips):
        places.setdefault(name(clip), []).append(place)
    if set(places) == {None}:
        return []
    named = sorted((value, found) for value, found in places.items() if value is not None)
    nameless = [("unknown", places[None])] if None in places else []
    return [(value, part(measured, found).summary()) for value, found in [*named, *nameless]]


def _recounted(measured: Measurement, places: list[int]) -> Measurement:
    """Counted anew, so that unit "auto" is decided by the part's own script."""
    if measured.settings.task != TRANSCRIPTION or measured.settings.unit != "auto":
        return measured.part(places)
    return measure([measured.clips[place] for place in places], measured.settings)


def _durations(measured: Measurement) -> Parts:
    edges = measured.settings.duration_edges
    places: dict[int, list[int]] = {}
    for place, clip in enumerate(measured.clips):
        places.setdefault(duration_group(clip.seconds, edges), []).append(place)
    return [(duration_name(group, edges), measured.part(found).summary()) for group, found in sorted(places.items())]

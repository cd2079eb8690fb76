"""Clips with transcripts and hypotheses, measured without a model."""

from __future__ import annotations

from typing import Any

from audiorl.evaluation.measurement import Measurement, Timing, measure
from audiorl.evaluation.settings import EvaluationSettings
from audiorl.evaluation.transcription import Clip

TIMING = Timing(2.0, "everything")


def make_clips(*pairs: tuple[str, str], **columns: list[Any]) -> list[Clip]:
    """Clips "c0", "c1", ... of (transcript, hypothesis), one second each; columns are fields of `Clip` by clip."""
    clips = []
    for place, (transcript, hypothesis) in enumerate(pairs):
        fields = {"seconds": 1.0, **{name: values[place] for name, values in columns.items()}}
        clips.append(Clip(f"c{place}", f"row {place}", None, transcript, hypothesis, **fields))
    return clips


def measured(*pairs: tuple[str, str], settings: dict[str, Any] | None = None, **columns: list[Any]) -> Measurement:
    return measure(make_clips(*pairs, **columns), EvaluationSettings(**(settings or {})), TIMING)

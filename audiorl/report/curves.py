"""A run's log as the curves of a page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

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

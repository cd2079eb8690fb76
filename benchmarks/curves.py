"""Training curves of `wer_after_tuning.py` as one SVG: a panel for each method, a line for each seed.

    python benchmarks/curves.py benchmarks/results/FILE.json benchmarks/results/FILE.svg

Methods with rewards show the mean reward of their samples (1 - WER, clipped to 0), pairs against a frozen policy the
margin, the others the loss; the second phase of a method goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, COLUMNS = 260, 150, 3
LEFT, TOP, RIGHT, BOTTOM = 44, 30, 10, 26  # margins of a panel
SEED_COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito: told apart by colour-blind people too
# the first that a phase logged is drawn
QUANTITIES = {"reward": "reward", "rewards/margins": "margin", "loss": "loss"}

Points = list[tuple[float, float]]


def points_of(run: Mapping[str, Any]) -> tuple[str, Points]:
    """What is drawn of one run, by its last phase: the name of the quantity and (step, value) of all phases that log
    it."""
    phases = run["curve"]
    name = next(name for name in QUANTITIES if any(name in entry for entry in phases[-1]))
    points, before = [], 0
    for phase, steps in zip(phases, run["steps"], strict=True):
        points += [(before + entry["step"], float(entry[name])) for entry in phase if name in entry]
        before += steps
    return name, points


def panel(title: str, quantity: str, lines: Sequence[Points], x: float, y: float) -> str:
    steps = [step for points in lines for step, _ in points]
    values = [value for points in lines for _, value in points]
    low, high, last = min(values), max(values), max(steps)
    span = (high - low) or 1.0

    def place(step: float, value: float) -> str:
        across = x + LEFT + (WIDTH - LEFT - RIGHT) * step / last
        up = y + TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)
        return f"{across:.1f},{up:.1f}"

    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="'
        + " ".join(place(*point) for point in points)
        + '"/>'
        for points, colour in zip(lines, SEED_COLOURS, strict=False)
    )
    right, foot = x + WIDTH - RIGHT, y + HEIGHT - BOTTOM
    axes = f'<path d="M{x + LEFT} {y + TOP} V{foot} H{right}" fill="none" stroke="#888"/>'
    texts = [
        (x + LEFT, y + 18, "start", f"{title}: {quantity}", 13),
        (x + LEFT - 4, y + TOP + 8, "end", f"{high:.2f}", 10),
        (x + LEFT - 4, foot, "end", f"{low:.2f}", 10),
        (right, foot + 14, "end", f"step {last:g}", 10),
    ]
    written = "".join(
        f'<text x="{across}" y="{down}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
        for across, down, anchor, text, size in texts
    )
    return axes + drawn + written


def picture(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole SVG; `runs` is seed -> method -> run, as `wer_after_tuning.py` writes it."""
    methods = list(next(iter(runs.values())))
    rows = -(-len(methods) // COLUMNS)
    panels = []
    for place, method in enumerate(methods):
        found = [points_of(run[method]) for run in runs.values()]
        x, y = WIDTH * (place % COLUMNS), HEIGHT * (place // COLUMNS)
        panels.append(panel(method, QUANTITIES[found[0][0]], [points for _, points in found], x, y))
    width, height = WIDTH * COLUMNS, HEIGHT * rows + 20
    seeds = "".join(
        f'<text x="{LEFT + 70 * i}" y="{height - 6}" font-size="11" fill="{colour}">seed {escape(str(seed))}</text>'
        for i, (seed, colour) in enumerate(zip(runs, SEED_COLOURS, strict=False))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(panels)}{seeds}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="the JSON of wer_after_tuning.py --out")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    args = parser.parse_args()
    args.picture.write_text(picture(json.loads(args.record.read_text())["runs"]))
    print(f"The curves lie in {args.picture}")


if __name__ == "__main__":
    main()

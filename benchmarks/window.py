"""What does a shorter window save? Scoring K = 2 hypotheses, forward and backward, with 30, 15 and 10 s of audio.

    python benchmarks/window.py [--shape tiny|small] [--device cpu|cuda] [--threads 2] [--repeats 5]

The same weights but for the encoder's positions, the same tokens; only the audio's length differs. Each window lives in
a process of its own, and one process works at a time, window after window, round after round. This says nothing of
accuracy, which a shortened checkpoint has to regain by tuning. The last line of the output is JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from counting import SHAPES, Shape, forward_flops, sharing
from measuring import GIB, Step, environment, hardware_line, report, table
from scoring_ways import PREFIX_TOKENS, Row, ScoringTask, Setting
from speed_tables import checked_options, clips_for, in_turns, options_parser
from tqdm import tqdm

WINDOWS = {"30 s": 30, "15 s": 15, "10 s": 10}


def prepare(setting: Setting) -> ScoringTask:
    task = ScoringTask(Row("groups"), setting)
    task.to_precision()
    return task


def counted_flops(shape: Shape, clips: int, hypotheses: int, tokens: int) -> float:
    kept = clips * hypotheses * (tokens - PREFIX_TOKENS)
    return sum(forward_flops(shape, sharing("groups", clips, hypotheses, tokens, kept)).values())


def describe(name: str, steps: Sequence[Step], flops: float) -> dict[str, Any]:
    timed = steps[1:]
    return {
        "window": name,
        "seconds": median(step.seconds for step in timed),
        "cpu_seconds": median(step.cpu_seconds for step in timed),
        "peak_bytes": max(step.peak_bytes for step in steps),
        "predicted_flops": flops,
        "all_seconds": [step.seconds for step in steps],
    }


def window_table(records: Sequence[dict[str, Any]]) -> str:
    """Times as fast as the longest window, measured and in brackets as counted."""
    whole = records[0]
    lines = [
        [
            record["window"],
            f"{record['seconds']:.3f}",
            f"{record['cpu_seconds']:.3f}",
            f"{record['peak_bytes'] / GIB:.2f}",
            f"{whole['seconds'] / record['seconds']:.2f} ({whole['predicted_flops'] / record['predicted_flops']:.2f})",
            f"{record['peak_bytes'] / whole['peak_bytes']:.2f}",
        ]
        for record in records
    ]
    return table(["window", "s", "CPU s", "GiB", "times as fast (counted)", "of its memory"], lines)


def main(argv: list[str] | None = None) -> None:
    parser = options_parser(__doc__ or "", [2], 8, "decoder tokens of the longest hypothesis")
    options = checked_options(parser, argv, PREFIX_TOKENS)
    shape = SHAPES[options.shape]
    where = environment(options.device, options.threads)
    print(hardware_line(where))
    results = []
    for hypotheses in options.hypotheses:
        clips = clips_for(options, hypotheses)
        cut = {
            name: shape._replace(positions=seconds * shape.positions // WINDOWS["30 s"])
            for name, seconds in WINDOWS.items()
        }

        def setting(name: str, cut: Any = cut, clips: int = clips, hypotheses: int = hypotheses) -> tuple[Setting]:
            return (Setting(cut[name], clips, hypotheses, options.tokens, options.device, options.precision),)

        with tqdm(total=len(WINDOWS) * (options.repeats + 2), disable=not sys.stderr.isatty()) as progress:
            steps = in_turns(list(WINDOWS), prepare, setting, options, progress)
        records = [
            describe(name, steps[name], counted_flops(cut[name], clips, hypotheses, options.tokens)) for name in WINDOWS
        ]
        print(
            f"\n{options.shape}, {clips} clips x {hypotheses} hypotheses x {options.tokens} tokens, {options.precision}"
        )
        print(window_table(records))
        results.append({"clips": clips, "hypotheses": hypotheses, "windows": records})
    arguments = {name: value for name, value in vars(options).items() if name != "out"}
    report({"benchmark": "window", "arguments": arguments, **where, "results": results}, options.out)


if __name__ == "__main__":
    main()

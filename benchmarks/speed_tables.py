"""Several ways to do one thing, timed in turns: the rounds, a record and a table line for each, targets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from counting import SHAPES
from measuring import GIB, Step, Task, Worker, table
from tqdm import tqdm


class Target(NamedTuple):
    """For one K: `row` at least `speed` times as fast as `against`."""

    hypotheses: int
    row: str
    against: str
    speed: float


def options_parser(doc: str, hypotheses: list[int], halved_from: int, tokens_help: str) -> argparse.ArgumentParser:
    """The options that benchmarks of speed share.

    Args:
        doc: the module's docstring, for the help.
        hypotheses: every K that is measured by default.
        halved_from: the K from which on 2 clips take the place of 4.
        tokens_help: what T counts.
    """
    summary, _, rest = doc.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of which Whisper; weights are random")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32 on a CPU, else bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every way")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one warm-up; their median counts")
    parser.add_argument("--hypotheses", type=int, nargs="+", default=hypotheses, help="every K to measure")
    parser.add_argument("--clips", type=int, help=f"B; 4, or 2 from K = {halved_from} on")
    parser.set_defaults(halved_from=halved_from)
    parser.add_argument("--tokens", type=int, default=40, help=tokens_help)
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    return parser


def checked_options(parser: argparse.ArgumentParser, argv: list[str] | None, prefix: int) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.precision is None:
        options.precision = "bfloat16" if options.device == "cuda" else "float32"
    clips = 1 if options.clips is None else options.clips
    if min(*options.hypotheses, options.threads, options.repeats, clips) < 1:
        parser.error("--hypotheses, --threads, --repeats and --clips count things; use 1 or more")
    if not 1 <= options.tokens <= 448 - prefix:
        parser.error(f"--tokens {options.tokens}: Whisper has 448 positions, {prefix} of them for the prefix")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; use --device cpu")
    return options


def clips_for(options: argparse.Namespace, hypotheses: int) -> int:
    return options.clips or (4 if hypotheses < options.halved_from else 2)


def in_turns(
    rows: Sequence[str],
    prepare: Callable[..., Task],
    arguments: Callable[[str], tuple[Any, ...]],
    options: argparse.Namespace,
    progress: tqdm,
    ready: Callable[[], None] = lambda: None,
) -> dict[str, list[Step]]:
    """Every row in a process of its own; one works at a time, row after row, round after round; the first round is a
    warm-up. `ready` is called once all are prepared."""
    workers: list[Worker] = []
    steps: dict[str, list[Step]] = {row: [] for row in rows}
    try:
        for row in rows:
            progress.set_description(f"starting {row}")
            workers.append(Worker(row, prepare, arguments(row), device=options.device, threads=options.threads))
            progress.update()
        ready()
        for turn in range(options.repeats + 1):
            for worker in workers:
                progress.set_description(f"round {turn} of {options.repeats}, {worker.name}")
                steps[worker.name].append(worker.go())
                progress.update()
    finally:
        for worker in workers:
            worker.close()
    return steps


def describe(row: str, clips: int, hypotheses: int, steps: list[Step], flops: float, **more: Any) -> dict[str, Any]:
    """A record: medians, every single run, the operations counted beforehand."""
    timed = steps[1:]
    return {
        "row": row,
        "hypotheses": hypotheses,
        "clips": clips,
        "seconds": median([step.seconds for step in timed]),
        "cpu_seconds": median([step.cpu_seconds for step in timed]),
        "hypotheses_per_second": clips * hypotheses / median([step.seconds for step in timed]),
        "peak_bytes": max(step.peak_bytes for step in steps),
        "predicted_flops": flops,
        "all_seconds": [step.seconds for step in steps],
        "all_cpu_seconds": [step.cpu_seconds for step in steps],
        "all_peak_bytes": [step.peak_bytes for step in steps],
        **more,
    }


def judge(records: Sequence[dict[str, Any]], targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Each target that was measured: counted, reached, met."""
    found = {(record["hypotheses"], record["row"]): record for record in records}
    judged = []
    for target in targets:
        if (target.hypotheses, target.row) in found:
            ours, theirs = (found[target.hypotheses, name] for name in (target.row, target.against))
            reached = theirs["seconds"] / ours["seconds"]
            judged.append(
                {
                    **target._asdict(),
                    "predicted": theirs["predicted_flops"] / ours["predicted_flops"],
                    "reached": reached,
                    "reached_in_cpu_time": theirs["cpu_seconds"] / ours["cpu_seconds"],
                    "met": reached >= target.speed,
                }
            )
    return judged


def results_table(records: Sequence[dict[str, Any]], names: dict[str, str], fastest: str) -> str:
    """One line for each K and row; how many times as fast `fastest` is, measured and in brackets as counted."""
    found = {(record["hypotheses"], record["row"]): record for record in records}
    lines = []
    for record in records:
        ours = found[record["hypotheses"], fastest]
        counted = record["predicted_flops"] / ours["predicted_flops"]
        lines.append(
            [
                f"{record['clips']} x {record['hypotheses']}",
                names[record["row"]],
                f"{record['seconds']:.3f}",
                f"{record['cpu_seconds']:.3f}",
                f"{record['hypotheses_per_second']:.2f}",
                f"{record['peak_bytes'] / GIB:.2f}",
                f"{record['seconds'] / ours['seconds']:.2f} ({counted:.2f})",
            ]
        )
    headings = ("B x K", "way", "s", "CPU s", "hypotheses/s", "GiB", f"times that of {fastest} (counted)")
    return table(headings, lines)


def targets_table(judged: Sequence[dict[str, Any]]) -> str:
    lines = [
        [
            f"K = {outcome['hypotheses']}: speed of {outcome['row']} against {outcome['against']}",
            f"at least {outcome['speed']}",
            f"{outcome['predicted']:.2f}",
            f"{outcome['reached']:.2f}",
            f"{outcome['reached_in_cpu_time']:.2f}",
            "met" if outcome["met"] else "missed",
        ]
        for outcome in judged
    ]
    return table(["target", "asked", "counted", "reached", "in CPU time", ""], lines)

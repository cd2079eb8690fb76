"""What scoring.py reports: a record and a table line for each way, and the targets with what was reached."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from counting import peak_bytes, sharing, step_flops
from measuring import GIB, Step, table
from scoring_ways import Agreement, Row, Setting, build_batch

DESCRIPTIONS = {"forwards": "K full forwards", "audio": "audio repeated", "states": "states repeated"}
HEADINGS = (
    "B x K",
    "way",
    "s",
    "CPU s",
    "GiB",
    "speed (counted)",
    "memory (counted)",
    "speed / audio",
    "memory / audio",
    "of matmul",
    "loss, gradient off by",
)


class Measurement(NamedTuple):
    """One line of the table, measured."""

    row: Row
    steps: list[Step]  # the first is the warm-up
    agreement: Agreement | None  # None for the way the others are compared with

    @property
    def seconds(self) -> float:
        return median([step.seconds for step in self.steps[1:]])

    @property
    def cpu_seconds(self) -> float:
        return median([step.cpu_seconds for step in self.steps[1:]])

    @property
    def peak_bytes(self) -> int:
        return max(step.peak_bytes for step in self.steps)


class Target(NamedTuple):
    """For one K: `row` at least `speed` times as fast as `against`, or at most `memory` of its memory."""

    hypotheses: int
    row: str
    against: str
    speed: float | None = None
    memory: float | None = None


# for whisper-tiny's shape in float32 on two CPU cores
TARGETS = (
    Target(1, "groups", "forwards", speed=0.95),
    Target(2, "groups", "forwards", speed=1.8),
    Target(2, "groups", "forwards", memory=0.55),
    Target(2, "groups + checkpointing", "forwards", memory=0.40),
    Target(8, "groups", "audio", speed=7.0),
    Target(8, "groups", "audio", memory=0.3),
)


def describe(setting: Setting, measured: list[Measurement], rate: float) -> list[dict[str, Any]]:
    """One record for each row: what was predicted and what was reached."""
    kept = int(build_batch(setting).keep.sum())
    records = []
    for line in measured:
        work = sharing(line.row.way, setting.clips, setting.hypotheses, setting.tokens, kept)
        flops = step_flops(setting.shape, work)
        repeated = step_flops(setting.shape, work, checkpointing=line.row.checkpointing)
        records.append(
            {
                "row": line.row.name,
                "hypotheses": setting.hypotheses,
                "clips": setting.clips,
                "seconds": line.seconds,
                "cpu_seconds": line.cpu_seconds,
                "peak_bytes": line.peak_bytes,
                "predicted_flops": repeated,
                "predicted_peak_bytes": peak_bytes(setting.shape, work, checkpointing=line.row.checkpointing),
                # work that checkpointing repeats is not counted as achieved
                "share_of_matmul_rate": flops / line.seconds / rate,
                "agreement": line.agreement._asdict() if line.agreement else None,
                "loss": line.steps[-1].value,
                "all_seconds": [step.seconds for step in line.steps],
                "all_cpu_seconds": [step.cpu_seconds for step in line.steps],
                "all_peak_bytes": [step.peak_bytes for step in line.steps],
            }
        )
    return records


def judge(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target that was measured: predicted, reached, met."""
    found = {(record["hypotheses"], record["row"]): record for record in records}
    judged = []
    for target in TARGETS:
        if (target.hypotheses, target.row) not in found:
            continue
        ours, theirs = (found[target.hypotheses, name] for name in (target.row, target.against))
        outcome: dict[str, Any] = {**target._asdict()}
        if target.speed is not None:
            outcome["predicted"] = theirs["predicted_flops"] / ours["predicted_flops"]
            outcome["reached"] = theirs["seconds"] / ours["seconds"]
            outcome["reached_in_cpu_time"] = theirs["cpu_seconds"] / ours["cpu_seconds"]
            outcome["met"] = outcome["reached"] >= target.speed
        elif target.memory is not None:
            outcome["predicted"] = ours["predicted_peak_bytes"] / theirs["predicted_peak_bytes"]
            outcome["reached"] = ours["peak_bytes"] / theirs["peak_bytes"]
            outcome["met"] = outcome["reached"] <= target.memory
        judged.append(outcome)
    return judged


def results_table(records: list[dict[str, Any]]) -> str:
    """One line for each K and way; ratios against K full forwards, in brackets as counted, and audio."""
    found = {(record["hypotheses"], record["row"]): record for record in records}
    lines = []
    for record in records:
        base, repeated = (found[record["hypotheses"], name] for name in ("forwards", "audio"))
        counted_speed = base["predicted_flops"] / record["predicted_flops"]
        counted_memory = record["predicted_peak_bytes"] / base["predicted_peak_bytes"]
        check = record["agreement"]
        lines.append(
            [
                f"{record['clips']} x {record['hypotheses']}",
                DESCRIPTIONS.get(record["row"], record["row"]),
                f"{record['seconds']:.3f}",
                f"{record['cpu_seconds']:.3f}",
                f"{record['peak_bytes'] / GIB:.2f}",
                f"{base['seconds'] / record['seconds']:.2f} ({counted_speed:.2f})",
                f"{record['peak_bytes'] / base['peak_bytes']:.2f} ({counted_memory:.2f})",
                f"{repeated['seconds'] / record['seconds']:.2f}",
                f"{record['peak_bytes'] / repeated['peak_bytes']:.2f}",
                f"{record['share_of_matmul_rate']:.0%}",
                f"{check['loss']:.0e}, {check['gradient']:.0e}" if check else "",
            ]
        )
    return table(HEADINGS, lines)


def targets_table(judged: list[dict[str, Any]]) -> str:
    lines = []
    for outcome in judged:
        kind = "speed" if outcome["speed"] is not None else "memory"
        sign = "at least" if kind == "speed" else "at most"
        lines.append(
            [
                f"K = {outcome['hypotheses']}: {kind} of {outcome['row']} against {outcome['against']}",
                f"{sign} {outcome[kind]}",
                f"{outcome['predicted']:.2f}",
                f"{outcome['reached']:.2f}",
                "met" if outcome["met"] else "missed",
            ]
        )
    return table(["target", "asked", "counted", "reached", ""], lines)

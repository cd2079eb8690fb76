"""What memory.py reports: counted and measured memory of each way and model, tables, targets."""

from __future__ import annotations

from typing import Any, NamedTuple

from counting import (
    FLOAT32_BYTES,
    adapter_parameters,
    adapter_peak_bytes,
    inference_peak_bytes,
    parameters,
    peak_bytes,
    sharing,
    weight_bytes,
)
from measuring import GIB, Step, table
from memory_ways import DESCRIPTIONS, MEMORY_ROWS, RANK, MemoryRow
from scoring_ways import Setting, build_batch

# of the table of models: full training, training of the adapter, decoding
MODEL_WAYS = ("c", "d", "inference")
# tensors of (tokens, V): a holds the logits, the model's log-softmax and the loss's, of all positions
STOCK_LOGITS, HEAD_LOGITS = 3, 1


class Target(NamedTuple):
    """The step of `row` takes at most `memory` of what a's takes; "best" is the row with the least of all."""

    row: str
    memory: float


# for whisper-tiny's shape in float32 on a CPU
TARGETS = (Target("b", 0.55), Target("c", 0.40), Target("best", 0.25))


def predicted_row(key: str, setting: Setting) -> dict[str, float]:
    """Weights, step and AdamW's state of a way in bytes, counted from the shape; "inference" has no state."""
    shape, clips = setting.shape, setting.clips
    element = 2 if setting.precision == "bfloat16" else FLOAT32_BYTES
    scale = element / FLOAT32_BYTES
    weights = weight_bytes(shape, element=element)
    if key == "inference":
        step = scale * inference_peak_bytes(shape, clips, setting.tokens)
        return {"weight_bytes": weights, "step_bytes": step, "optimizer_bytes": 0.0}
    row = next(row for row in MEMORY_ROWS if row.key == key)
    kept = int(build_batch(setting).keep.sum())
    work = sharing(row.way, clips, 2, setting.tokens, kept)
    if row.adapter:
        trained = adapter_parameters(shape, RANK)
        step = adapter_peak_bytes(shape, work, RANK)
        weights = weight_bytes(shape, eight_bit=row.eight_bit, element=element) + element * trained
    else:
        trained = parameters(shape)
        logits = HEAD_LOGITS
        if row.way == "project":
            work, logits = work._replace(kept=2 * clips * setting.tokens), STOCK_LOGITS
        step = peak_bytes(shape, work, checkpointing=row.checkpointing, logit_copies=logits)
    return {"weight_bytes": weights, "step_bytes": scale * step, "optimizer_bytes": 2.0 * element * trained}


def describe_row(row: MemoryRow, setting: Setting, steps: list[Step]) -> dict[str, Any]:
    """A record: predicted and measured."""
    facts = steps[-1].value
    return {
        "row": row.key,
        "name": row.name,
        "clips": setting.clips,
        "weight_bytes": facts.weight_bytes,
        "step_bytes": max(step.peak_bytes for step in steps),
        "optimizer_bytes": facts.optimizer_bytes,
        "trained": facts.trained,
        "loss": facts.loss,
        "seconds": min(step.seconds for step in steps),
        "cpu_seconds": min(step.cpu_seconds for step in steps),
        "all_step_bytes": [step.peak_bytes for step in steps],
        "predicted": predicted_row(row.key, setting),
    }


def describe_model(name: str, setting: Setting, steps: dict[str, list[Step]]) -> dict[str, Any]:
    """One model: for each of `MODEL_WAYS` what was counted, and what was measured where it was."""
    ways = {}
    for way in MODEL_WAYS:
        counted = predicted_row(way, setting)
        found = max((step.peak_bytes for step in steps.get(way, ())), default=None)
        step_bytes = counted["step_bytes"] if found is None else found
        total = counted["weight_bytes"] + step_bytes + counted["optimizer_bytes"]
        ways[way] = {**counted, "measured_step_bytes": found, "total_bytes": total}
    return {"model": name, "parameters": parameters(setting.shape), "ways": ways}


def total(record: dict[str, Any]) -> float:
    return record["weight_bytes"] + record["step_bytes"]


def judge(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target whose rows were measured: counted, reached, met, of the step's peak above the loaded model."""
    found = {record["row"]: record for record in records}
    if "a" not in found:
        return []
    judged = []
    for target in TARGETS:
        key = min(found, key=lambda key: total(found[key])) if target.row == "best" else target.row
        if key not in found:
            continue
        ours, theirs = found[key], found["a"]
        reached = ours["step_bytes"] / theirs["step_bytes"]
        judged.append(
            {
                "row": key,
                "asked": target.memory,
                "predicted": ours["predicted"]["step_bytes"] / theirs["predicted"]["step_bytes"],
                "reached": reached,
                "reached_with_weights": total(ours) / total(theirs),
                "met": reached <= target.memory,
            }
        )
    return judged


def gib(count: float) -> str:
    return f"{count / GIB:.2f}"


def rows_table(records: list[dict[str, Any]]) -> str:
    """One line for each way; counted figures in brackets."""
    first = records[0]
    lines = []
    for record in records:
        counted, base = record["predicted"], first["predicted"]
        lines.append(
            [
                record["row"],
                record["name"],
                gib(record["weight_bytes"]),
                f"{gib(record['step_bytes'])} ({gib(counted['step_bytes'])})",
                gib(record["optimizer_bytes"]),
                f"{total(record) / total(first):.2f} ({total(counted) / total(base):.2f})",
                f"{record['step_bytes'] / first['step_bytes']:.2f}",
                f"{record['trained'] / 1e6:.2f}",
                f"{record['cpu_seconds']:.1f}",
            ]
        )
    headings = ("", "way", "weights GiB", "step GiB (counted)", "AdamW GiB")
    ratios = (f"weights + step of {first['row']} (counted)", f"step of {first['row']}", "trained M", "CPU s")
    return table((*headings, *ratios), lines)


def targets_table(judged: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{target['row']}, {DESCRIPTIONS[target['row']]}, against a",
            f"at most {target['asked']}",
            f"{target['predicted']:.2f}",
            f"{target['reached']:.2f}",
            f"{target['reached_with_weights']:.2f}",
            "met" if target["met"] else "missed",
        ]
        for target in judged
    ]
    return table(["target", "asked", "counted", "reached", "with weights", ""], lines)


def largest_table(found: list[dict[str, Any]]) -> str:
    lines = [[one["row"], DESCRIPTIONS[one["row"]], str(one["clips"])] for one in found]
    return table(["", "way", "largest batch, clips"], lines)


def models_table(records: list[dict[str, Any]]) -> str:
    """GiB with one clip: weights + step (+ AdamW); a tilde marks what was counted, not measured."""
    lines = []
    for record in records:
        cells = [record["model"], f"{record['parameters'] / 1e6:.0f}", gib(record["ways"]["c"]["weight_bytes"])]
        for way in MODEL_WAYS:
            found = record["ways"][way]
            mark = "~" if found["measured_step_bytes"] is None else ""
            step = found["step_bytes"] if found["measured_step_bytes"] is None else found["measured_step_bytes"]
            cells.append(f"{mark}{gib(step)} + {gib(found['optimizer_bytes'])} = {mark}{gib(found['total_bytes'])}")
        lines.append(cells)
    ways = ("full training (c)", "LoRA (d)", "greedy decoding")
    return table(("model", "M weights", "weights GiB", *(f"{way}: step + AdamW = all" for way in ways)), lines)

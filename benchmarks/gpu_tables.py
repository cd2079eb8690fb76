"""The tables of gpu.sh from its JSON files: speech in a second and the share of the peak matrix rate.

    python benchmarks/gpu_tables.py benchmarks/results/gpu-2026-12-01
    python benchmarks/gpu_tables.py --write-rows FOLDER     # the pairs on which gpu.sh trains a few steps

The share is the operations that were counted beforehand over the time, against the rate of a large matrix product in
the same run; what a way computes twice counts twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from counting import SHAPES
from measuring import GIB, hardware_line, table

RATE = 16_000
PAIRS = (("the quick brown fox", "the quick"), ("jumps over", "jumps over over"), ("all year", "year"), ("dog", "dogs"))
# positions of Whisper's encoder in a second of audio
POSITIONS = 50


def write_rows(folder: Path) -> None:
    """Pairs with two seconds of noise each."""
    rng = np.random.default_rng(0)
    lines = []
    for i, (chosen, rejected) in enumerate(PAIRS * 4):
        soundfile.write(folder / f"{i}.wav", 0.05 * rng.standard_normal(2 * RATE).astype(np.float32), RATE)
        lines.append(json.dumps({"audio": f"{i}.wav", "chosen": chosen, "rejected": rejected}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path) -> list[dict[str, Any]]:
    """The records that benchmarks left in the folder, by name, with their settings and rows at the top."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [{"rows": record.get("results", []), **record.get("arguments", {}), **record} for record in found]


def peak_rate(records: list[dict[str, Any]]) -> float | None:
    """Operations of a large matrix product in a second: the highest that was measured."""
    rates = [record["matmul_flops_per_second"] for record in records if "matmul_flops_per_second" in record]
    rates += [record["device_rate"]["operations"] for record in records if "device_rate" in record]
    return max(rates, default=None)


def speed_lines(records: list[dict[str, Any]], rate: float | None) -> list[list[str]]:
    """One line for each way of each benchmark of speed."""
    found = []
    for record in records:
        seconds = SHAPES[record["shape"]].positions / POSITIONS if record.get("shape") in SHAPES else 0.0
        for row in record.get("rows", ()):
            share = "" if rate is None else f"{row['predicted_flops'] / row['seconds'] / rate:.0%}"
            found.append(
                [
                    f"{record['benchmark']}, {record['shape']}, {record['precision']}",
                    row["row"],
                    f"{row['clips']} x {row.get('hypotheses', 1)}",
                    f"{row['seconds']:.3g}",
                    f"{row['clips'] * seconds / row['seconds']:.3g}",
                    share,
                    f"{row['peak_bytes'] / GIB:.2f}",
                ]
            )
    return found


def run_lines(folder: Path) -> list[list[str]]:
    """One line for each training run: did it reach its last step?"""
    found = []
    for run in sorted((folder / "runs").glob("*")):
        state = run / "trainer_state.json"
        if not state.is_file():
            found.append([run.name, "did not end", "", ""])
            continue
        told = json.loads(state.read_text(encoding="utf-8"))
        losses = [log["loss"] for log in told["log_history"] if "loss" in log]
        last = told["log_history"][-1]
        found.append(
            [
                run.name,
                f"{told['global_step']} steps",
                ", ".join(f"{loss:.4f}" for loss in losses),
                f"{last.get('train_memory/peak_gib', float('nan')):.2f}",
            ]
        )
    return found


def tables(folder: Path) -> str:
    records = read(folder)
    if not records:
        return "No benchmark of this run left a result."
    rate = peak_rate(records)
    peak = "" if rate is None else f"; a large matrix product reaches {rate / 1e12:.3g} TFLOP/s"
    headings = ("benchmark", "way", "B x K", "s", "s of audio in a second", "of the peak rate", "GiB above idle")
    parts = [hardware_line(records[0]) + peak, table(headings, speed_lines(records, rate))]
    for record in records:
        if record["benchmark"] == "estimate":
            from estimate import lines

            parts.append(f"audiorl estimate, {record['shape']}, {record['precision']}:\n\n{lines(record['cases'])}")
    if runs := run_lines(folder):
        parts.append(table(("training", "ended after", "losses", "peak GiB"), runs))
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="of results")
    parser.add_argument("--write-rows", action="store_true", help="write pairs to train on into the folder instead")
    options = parser.parse_args(argv)
    if options.write_rows:
        write_rows(options.folder)
    else:
        print(tables(options.folder))


if __name__ == "__main__":
    main()

"""How much memory does one ORPO step take, and how much do training and inference of each Whisper?

Six ways take the same step of B clips with two transcripts each:

    a    two full forwards as one writes them on a stock model: `labels`, all hidden states, logits of all positions
    a'   the same with the head of b, which projects only the tokens that count: what groups alone save
    b    groups: the clip encoded once, both transcripts scored from its states
    c    b with gradient checkpointing (`use_reentrant=False`)
    d    c, and only a LoRA in the decoder is trained, so the encoder leaves nothing but its states
    e    d on a base in 8 bits (bitsandbytes)

    python benchmarks/memory.py [--shape tiny] [--repeats 3]           # the six ways
    python benchmarks/memory.py --table                                # and a table of models
    python benchmarks/memory.py --shape large-v3 --device cuda --largest

Columns: weights, counted from the tensors; the step's peak above the idle process, weights loaded, which holds
activations and gradients; the state of AdamW, two numbers for each trained weight, counted and not in the peak. Ratios
are of the step, which the targets speak of as in scoring.py, and of weights + step.

First the float32 losses and gradients of a', b and c are compared with those of a, and the loss of d, whose adapter
begins as zero. On a CPU large tensors are taken from and given back to the system at once (MALLOC_MMAP_THRESHOLD_ =
4194304 unless it is set): the heap's fragmentation is not what is asked for. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from counting import SHAPES
from measuring import GIB, Step, Worker, environment, hardware_line, report
from memory_tables import (
    MODEL_WAYS,
    describe_model,
    describe_row,
    judge,
    largest_table,
    models_table,
    predicted_row,
    rows_table,
    targets_table,
)
from memory_ways import MEMORY_ROWS, InferenceTask, LargestBatchTask, MemoryRow, prepare_step
from scoring_ways import LOSS_TOLERANCE, PREFIX_TOKENS, Agreement, Setting, agreement
from tqdm import tqdm

# glibc's threshold adapts itself upwards, and freed memory below it stays with the process
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "4194304")
# shape, device, precision, clips and tokens that the targets speak of
PROMISED = ("tiny", "cpu", "float32", 8, 40)
# larger models are not compared first: their gradients fill a disk
COMPARED = ("toy", "tiny", "small")
TABLE_SHAPES = ("tiny", "small", "medium", "large-v3")
MOST_CLIPS = 4096


def measured(name: str, prepare: Any, arguments: tuple, options: argparse.Namespace, repeats: int) -> list[Step]:
    """Steps of one task, in a process that ends before the next begins."""
    worker = Worker(name, prepare, arguments, device=options.device, threads=options.threads)
    try:
        return [worker.go() for _ in range(repeats)]
    finally:
        worker.close()


def measure_rows(setting: Setting, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each way that was asked for, agreement with a checked on the way."""
    rows = [row for row in MEMORY_ROWS if row.key in options.rows]
    compared = options.shape in COMPARED and rows[0].key == "a"
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {row.key: Path(folder) / f"{row.key}.safetensors" for row in rows}
        for row in tqdm(rows, desc="ORPO steps", file=sys.stderr, disable=not sys.stderr.isatty()):
            arguments = (row, setting, files[row.key] if compared else None)
            steps = measured(row.name, prepare_step, arguments, options, options.repeats + 1)
            record = describe_row(row, setting, steps)
            if compared:
                record["agreement"] = compare(row, files, record, records)
            records.append(record)
    return records


def compare(
    row: MemoryRow, files: dict[str, Path], record: dict[str, Any], before: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """How far a way is from a; None for a itself and for the rounded weights of e.

    Raises:
        RuntimeError: it computes something else.
    """
    if row.key == "a" or row.eight_bit:
        return None
    if row.full:
        return agreement(files[row.key], files["a"])._asdict()
    expected = before[0]["loss"]
    off = abs(record["loss"] - expected) / abs(expected)
    if off > LOSS_TOLERANCE:
        raise RuntimeError(
            f"The loss of {row.name} is off by {off:.1e}, relative (allowed {LOSS_TOLERANCE:.0e}), though its adapter "
            "begins as zero. It computes something else; its memory means nothing until that is mended."
        )
    return Agreement(off, 0.0, "")._asdict()


def measure_models(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Training and inference of each model with one clip: measured where the counted memory is there, else counted."""
    records = []
    for name in tqdm(options.table_shapes, desc="models", file=sys.stderr, disable=not sys.stderr.isatty()):
        setting = Setting(SHAPES[name], 1, 2, options.tokens, options.device, options.precision)
        steps: dict[str, list[Step]] = {}
        for way in MODEL_WAYS:
            counted = predicted_row(way, setting)
            # building a model takes its weights a second time for a moment
            if counted["step_bytes"] + 2 * counted["weight_bytes"] > options.table_limit * GIB:
                continue
            if way == "inference":
                steps[way] = measured(f"{name}, inference", InferenceTask, (setting,), options, 2)
            else:
                row = next(row for row in MEMORY_ROWS if row.key == way)
                steps[way] = measured(f"{name}, {row.name}", prepare_step, (row, setting, None), options, 1)
        records.append(describe_model(name, setting, steps))
    return records


def measure_largest(setting: Setting, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The largest batch of each way that fits the device."""
    found = []
    for row in (row for row in MEMORY_ROWS if row.key in options.rows):
        steps = measured(row.name, LargestBatchTask, (row, setting, MOST_CLIPS), options, 1)
        found.append({"row": row.key, "clips": steps[0].value})
    return found


def arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    keys = [row.key for row in MEMORY_ROWS]
    free = psutil.virtual_memory().available / GIB
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of which Whisper; weights are random")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32 on a CPU, else bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="steps after a first one; the highest peak counts")
    parser.add_argument("--clips", type=int, default=8, help="B; 8 is the batch of batch-opt-rlhf-asr")
    parser.add_argument("--tokens", type=int, default=40, help="T, decoder tokens of the longest transcript")
    parser.add_argument("--rows", nargs="+", choices=keys, default=keys, help="which ways")
    parser.add_argument("--largest", action="store_true", help="the largest batch of each way that fits; CUDA only")
    parser.add_argument("--table", action="store_true", help="also training and inference of several models")
    parser.add_argument("--table-shapes", nargs="+", choices=SHAPES, default=list(TABLE_SHAPES))
    parser.add_argument(
        "--table-limit", type=float, default=0.8 * free, help="GiB; what would take more is counted, not measured"
    )
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    options = parser.parse_args(argv)
    if options.precision is None:
        options.precision = "bfloat16" if options.device == "cuda" else "float32"
    if min(options.threads, options.repeats, options.clips) < 1:
        parser.error("--threads, --repeats and --clips count things; use 1 or more")
    if not PREFIX_TOKENS + 2 <= options.tokens <= 448:
        parser.error(f"--tokens {options.tokens}: Whisper's decoder has 448 positions; use {PREFIX_TOKENS + 2} to 448")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; use --device cpu")
    if options.largest and options.device != "cuda":
        parser.error(
            "--largest fills the device until it refuses, which a CPU's memory survives badly; use --device cuda"
        )
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    os.environ.setdefault(*ALLOCATOR)  # before the first process starts, which reads it then
    setting = Setting(SHAPES[options.shape], options.clips, 2, options.tokens, options.device, options.precision)
    where = environment(options.device, options.threads)
    rows = measure_rows(setting, options)
    promised = (options.shape, options.device, options.precision, options.clips, options.tokens) == PROMISED
    judged = judge(rows) if promised else []
    largest = measure_largest(setting, options) if options.largest else []
    models = measure_models(options) if options.table else []
    print(hardware_line(where))
    print(f"shape of whisper-{options.shape}, B = {options.clips}, {options.tokens} tokens, {options.precision}\n")
    print(rows_table(rows) + "\n")
    for text, records in ((targets_table, judged), (largest_table, largest), (models_table, models)):
        if records:
            print(text(records) + "\n")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "rows", "table", "largest")}
    found = {"rows": rows, "targets": judged, "largest": largest, "models": models}
    report({"benchmark": "memory", **where, **settings, **found}, options.out)


if __name__ == "__main__":
    main()

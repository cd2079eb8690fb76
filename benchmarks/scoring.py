"""What does it cost to score K hypotheses of each clip, forward and backward, in time and in peak memory?

Four ways give the same log-probabilities and the same gradients:

    forwards   K full forwards: one call for each hypothesis, the audio encoded each time
    audio      the audio repeated K times, one forward of B * K rows
    states     the encoder once, its states repeated K times, the stock decoder over B * K rows
    groups     `score_groups`: the encoder once, its states read in place by grouped attention

All have the same weights, data, threads and log-probability head (`audiorl.models.head.score_tokens`).
Hypotheses are of unequal length and padded on the right; causal attention needs no mask for that. K = 2 is
scored by the sigmoid preference loss, other K by a weighted sum of the log-probabilities.

    python benchmarks/scoring.py [--shape tiny|small|large-v3] [--device cpu|cuda] [--threads 2] [--repeats 5]

The steps of one way: a float32 step whose loss and gradients are compared with those of `forwards`, a
warm-up, then `--repeats` timed steps. Each way lives in its own process, and one process works at a time, way
after way, round after round. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from counting import SHAPES
from measuring import Step, Worker, environment, hardware_line, report
from scoring_tables import Measurement, describe, judge, results_table, targets_table
from scoring_ways import PREFIX_TOKENS, ROWS, Agreement, Setting, agreement, prepare
from tqdm import tqdm

MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
# shape, device and precision that the targets speak of
PROMISED = ("tiny", "cpu", "float32")


def compare(setting: Setting, threads: int, repeats: int, progress: tqdm) -> list[Measurement]:
    """Measure all rows for one K, round by round."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{row.name}.safetensors" for row in ROWS]
        try:
            agreements: list[Agreement | None] = []
            for row, file in zip(ROWS, files, strict=True):
                progress.set_description(f"K = {setting.hypotheses}: starting {row.name}")
                arguments = (row, setting, file)
                workers.append(Worker(row.name, prepare, arguments, device=setting.device, threads=threads))
                agreements.append(agreement(file, files[0]) if file != files[0] else None)
                if file != files[0]:
                    file.unlink()
                progress.update()
            steps: list[list[Step]] = [[] for _ in ROWS]
            for turn in range(repeats + 1):
                for worker, mine in zip(workers, steps, strict=True):
                    progress.set_description(f"K = {setting.hypotheses}: round {turn} of {repeats}, {worker.name}")
                    mine.append(worker.go())
                    progress.update()
        finally:
            for worker in workers:
                worker.close()
    return [Measurement(*line) for line in zip(ROWS, steps, agreements, strict=True)]


class RateTask:
    """The device's matrix rate, in a process of its own like everything else.

    Floating-point operations per second of a square matrix product, the best of those that fit into a second.
    """

    def __init__(self, device: str, dtype: torch.dtype):
        size = MATMUL_SIZE[device]
        self.left, self.right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        self.best_seconds = float("inf")

    def run(self) -> None:
        begin = time.perf_counter()
        while time.perf_counter() - begin < 1:
            started = time.perf_counter()
            torch.mm(self.left, self.right)
            if self.left.is_cuda:
                torch.cuda.synchronize()
            self.best_seconds = min(self.best_seconds, time.perf_counter() - started)

    def finish(self) -> float:
        return 2 * len(self.left) ** 3 / self.best_seconds


def measured_rate(device: str, precision: str, threads: int) -> float:
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    worker = Worker("matrix rate", RateTask, (device, dtype), device=device, threads=threads)
    try:
        return worker.go().value
    finally:
        worker.close()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of which Whisper; weights are random")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "autocast"),
        help="bfloat16: the weights too; autocast: float32 weights. Default: float32 on a CPU, else bfloat16",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every way")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps after one warm-up; their median counts")
    parser.add_argument("--hypotheses", type=int, nargs="+", default=[1, 2, 8], help="every K to measure")
    parser.add_argument("--clips", type=int, help="B; 4, or 2 from K = 8 on")
    parser.add_argument("--tokens", type=int, default=40, help="T, decoder tokens of the longest hypothesis")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    options = parser.parse_args(argv)
    if options.precision is None:
        options.precision = "bfloat16" if options.device == "cuda" else "float32"
    if min(*options.hypotheses, options.threads, options.repeats, options.clips or 1) < 1:
        parser.error("--hypotheses, --threads, --repeats and --clips count things; use 1 or more")
    if not PREFIX_TOKENS + 2 <= options.tokens <= 448:
        parser.error(f"--tokens {options.tokens}: Whisper's decoder has 448 positions; use {PREFIX_TOKENS + 2} to 448")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; use --device cpu")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    where = environment(options.device, options.threads)
    rate = measured_rate(options.device, options.precision, options.threads)
    records = []
    rounds = len(ROWS) * (options.repeats + 2) * len(options.hypotheses)
    with tqdm(total=rounds, file=sys.stderr, disable=not sys.stderr.isatty()) as progress:
        for hypotheses in options.hypotheses:
            clips = options.clips or (4 if hypotheses < 8 else 2)
            shape = SHAPES[options.shape]
            setting = Setting(shape, clips, hypotheses, options.tokens, options.device, options.precision)
            records += describe(setting, compare(setting, options.threads, options.repeats, progress), rate)
    promised = (options.shape, options.device, options.precision) == PROMISED
    judged = judge(records) if promised else []
    print(hardware_line(where))
    print(
        f"shape of whisper-{options.shape}, {options.tokens} tokens, {options.precision}, matrix product "
        f"{rate / 1e9:.0f} GFLOP/s; median of {options.repeats}; "
        "memory above the idle process, optimizer left out\n"
    )
    print(results_table(records) + "\n")
    if judged:
        print(targets_table(judged) + "\n")
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report(
        {
            "benchmark": "scoring",
            **where,
            **settings,
            "matmul_flops_per_second": rate,
            "rows": records,
            "targets": judged,
        },
        options.out,
    )


if __name__ == "__main__":
    main()

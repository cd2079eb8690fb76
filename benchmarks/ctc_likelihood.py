"""Which way to the CTC likelihood of K hypotheses is faster: our recursion, or one call of torch's for each of them?

    python benchmarks/ctc_likelihood.py --threads 1 --out ctc_likelihood.json

Forward and backward of `audiorl.losses.ctc_logps`, by each of the two ways it has and by the plain loop over K calls of
`torch.nn.functional.ctc_loss`, which holds K tables of states and K gradients until its backward pass. Predicted, for n
hypotheses (over all clips) of `states` = 2U + 1 states: torch's takes S n (a states + b V), since each hypothesis goes
over all V symbols of each frame; the recursion S (c + d n states) with a large c, a few calls for each frame. So
torch's is faster where n (V - const states) is small, and `BREAK_EVEN` of `audiorl/losses/ctc.py` is fitted to that.

The median of the repetitions counts, in CPU time, because other users of the machine do not lengthen it; ways take
turns. Values and gradients are compared with float64 first. How much memory the two ways take is tested in
`tests/losses/test_ctc_likelihood.py`; the loop's grows with K.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import environment, hardware_line, report, table
from torch import Tensor

from audiorl.losses import ctc

# B, K, S, V, U: letters, word pieces, large vocabularies; few and many hypotheses; short and long clips
CASES = [
    (4, 8, 500, 32, 40),
    (8, 2, 500, 32, 40),
    (16, 8, 500, 32, 40),
    (1, 8, 500, 32, 40),
    (2, 8, 1500, 32, 150),
    (8, 8, 250, 128, 60),
    (4, 8, 250, 256, 60),
    (4, 8, 250, 512, 60),
    (4, 2, 250, 1025, 40),
    (4, 8, 250, 1025, 40),
    (4, 16, 250, 1025, 20),
    (4, 8, 250, 5000, 40),
]
# Of float64, relative to the largest likelihood or gradient. In float32 a likelihood of -1,700 nats has steps of 1e-4,
# and so have the exponents that gradients are made of: that is recorded.
TOLERANCE = 1e-9
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """Tensors of one shape, made from a seed."""

    logits: Tensor  # (B, S, V)
    frames: Tensor  # (B,)
    tokens: Tensor  # (B, K, U)
    lengths: Tensor  # (B, K)
    weights: Tensor  # (B, K) of the likelihoods in the loss


def make_case(shape: Sequence[int], seed: int) -> Case:
    clips, hypotheses, frames, symbols, length = shape
    generator = torch.Generator().manual_seed(seed)
    return Case(
        torch.randn(clips, frames, symbols, generator=generator),
        torch.full((clips,), frames),
        torch.randint(1, symbols, (clips, hypotheses, length), generator=generator),
        torch.randint(length // 2, length + 1, (clips, hypotheses), generator=generator),
        torch.randn(clips, hypotheses, generator=generator),
    )


def recursion(logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return ctc._CTCLogps.apply(logps, frames, tokens, lengths, 0)


def stock(logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return ctc._StockLogps.apply(logps, frames, tokens, lengths, 0, max(1, ctc.clips_that_fit(logps, tokens)))


def loop(logps: Tensor, frames: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    calls = [
        torch.nn.functional.ctc_loss(logps.transpose(0, 1), tokens[:, k], frames, lengths[:, k], reduction="none")
        for k in range(tokens.shape[1])
    ]
    return -torch.stack(calls, 1)


OURS, STOCK = "recursion", "torch's"
WAYS: dict[str, Way] = {OURS: recursion, STOCK: stock, "loop": loop}


def step(way: Way, case: Case, dtype: torch.dtype = torch.float32) -> tuple[float, Tensor, Tensor]:
    """CPU seconds, likelihoods, and the gradient of the logits."""
    logits = case.logits.to(dtype, copy=True).requires_grad_()
    frame_logps = logits.log_softmax(-1)
    start = time.process_time()
    found = way(frame_logps, case.frames, case.tokens, case.lengths)
    (found * case.weights.to(dtype)).sum().backward()
    seconds = time.process_time() - start
    assert logits.grad is not None
    return seconds, found.detach(), logits.grad


def check(shape: Sequence[int], case: Case) -> dict[str, float]:
    """In float64 every way says what the loop says; how far off each one's gradient is in float32."""
    _, *expected = step(loop, case, torch.float64)

    def off(found: Sequence[Tensor]) -> float:
        return max(
            float((ours - true).abs().max() / true.abs().max()) for ours, true in zip(found, expected, strict=True)
        )

    errors = {}
    for name, way in WAYS.items():
        if (worst := off(step(way, case, torch.float64)[1:])) > TOLERANCE:
            raise SystemExit(f"{name} is off by {worst:.1e} in float64 at B, K, S, V, U = {tuple(shape)}")
        errors[name] = off(step(way, case)[1:])
    return errors


def measure(shape: Sequence[int], repeats: int, seed: int) -> dict[str, Any]:
    case = make_case(shape, seed)
    errors = check(shape, case)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            seconds[name].append(step(way, case)[0])
    medians = {name: 1000 * statistics.median(all_of) for name, all_of in seconds.items()}
    chosen = STOCK if ctc._stock_clips(case.logits, case.tokens) else OURS
    return {"shape": list(shape), "cpu_ms": medians, "chosen": chosen, "off_in_float32": errors, "all_s": seconds}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each way (5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the tensors (0)")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many shapes (all)")
    parser.add_argument("--out", type=Path, help="file for the JSON record")
    options = parser.parse_args(argv)
    for name in ("repeats", "threads", "cases"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1; got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    rows = [measure(shape, options.repeats, options.seed) for shape in CASES[: options.cases]]
    where = environment("cpu", options.threads)
    lines = [
        (
            " x ".join(map(str, row["shape"])),
            *(f"{row['cpu_ms'][name]:.0f}" for name in WAYS),
            f"{row['cpu_ms'][OURS] / row['cpu_ms'][STOCK]:.2f}",
            row["chosen"],
        )
        for row in rows
    ]
    heads = ["B x K x S x V x U", *(f"{name}, ms" for name in WAYS), f"{OURS} / {STOCK}", "chosen"]
    print(table(heads, lines))
    print(hardware_line(where))
    slowest = max(row["cpu_ms"][row["chosen"]] / min(row["cpu_ms"][OURS], row["cpu_ms"][STOCK]) for row in rows)
    print(f"The chosen way takes at most {slowest:.2f} times the faster one")
    report({**where, "worst_choice": slowest, "rows": rows}, options.out)


if __name__ == "__main__":
    main()

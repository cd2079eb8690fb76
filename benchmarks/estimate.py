"""How near does `audiorl estimate` come to what a step really takes?

A model of random weights takes steps (encode, score K hypotheses, backward) and samples, in processes of their own;
what `audiorl.trainers.estimate` says of the same shapes, without weights, stands beside it.

    python benchmarks/estimate.py --threads 1                        # whisper-tiny's shape on a CPU
    python benchmarks/estimate.py --shape small --device cuda --precision bf16

Memory is the step's peak above the idle process, weights loaded: activations and gradients. Time is predicted from the
speed of two products, one of large matrices and one of few rows, before and after each case; the faster of the two
counts. Of one CPU thread its CPU time is measured, of products and steps alike.
The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import rollout_ways
import torch
from counting import SHAPES
from measuring import GIB, Step, Worker, environment, hardware_line, report, table
from memory import ALLOCATOR
from rollout_ways import endless_model
from scoring_ways import PREFIX_TOKENS, Setting, build_batch, build_model, enable_checkpointing, group_family

from audiorl.batch import GroupBatch
from audiorl.models.sampling import rollout_noise
from audiorl.trainers.estimate import AUTOCAST, Device, Prepared, Work, estimate, fill, this_machine, without_data


class Case(NamedTuple):
    """One line of the table."""

    name: str
    clips: int
    hypotheses: int
    checkpointing: bool = False
    frozen: bool = False
    sampling: bool = False


CASES = (
    Case("SFT", 4, 1),
    Case("SFT, checkpointing", 4, 1, checkpointing=True),
    Case("DPO's policy", 4, 2),
    Case("DPO's policy, frozen encoder", 4, 2, frozen=True),
    Case("GRPO's policy", 2, 8),
    Case("GRPO's policy, checkpointing", 2, 8, checkpointing=True),
    Case("GRPO's policy, frozen encoder", 2, 8, frozen=True),
    Case("GRPO's samples", 2, 8, sampling=True),
)


def arranged(model: Any, case: Case, setting: Setting) -> Any:
    """The model's family, with encoder and activations as the case says."""
    family = group_family(model, setting.shape)
    family.install(model)
    if case.frozen:
        family.freeze_encoder(model)
    if case.checkpointing:
        enable_checkpointing(model)
    return family


class StepTask:
    """A step of a case, ready to be taken; see measuring.Task."""

    def __init__(self, case: Case, setting: Setting):
        self.case, self.setting = case, setting
        made: Any = build_model(setting.shape)
        if case.sampling:
            made = endless_model(rollout_ways.Setting(*setting._replace(precision="float32")))
        self.model = made.to(setting.device)
        self.family = arranged(self.model, case, setting)
        batch = build_batch(setting).replace(row_ids=torch.arange(case.clips))  # nothing is drawn for placeholders
        self.batch = GroupBatch({key: value.to(setting.device) for key, value in batch.items()})

    def run(self) -> None:
        if self.case.sampling:
            self._sample()
            return
        dtype = AUTOCAST[self.setting.precision]
        with torch.autocast(self.setting.device, dtype, enabled=dtype is not None):
            loss = self.family.score_groups(self.model, self.batch).logps.sum()
        loss.backward()

    @torch.no_grad()
    def _sample(self) -> None:
        noise = rollout_noise(
            range(self.setting.clips), seed=0, step=0, num_generations=self.setting.hypotheses,
            max_tokens=self.family.decoder_calls(self.batch),
        )  # fmt: skip
        self.model.eval()
        dtype = AUTOCAST[self.setting.precision]
        with torch.autocast(self.setting.device, dtype, enabled=dtype is not None):
            samples = self.family.sample_groups(self.model, self.batch, noise.to(self.setting.device))
        if samples.keep.sum() < noise.numel():
            raise RuntimeError(
                f"{int(samples.keep.sum())} of {noise.numel()} tokens were drawn, so the time is not that of what is "
                "predicted. Look at endless_model."
            )

    def finish(self) -> None:
        self.model.zero_grad(set_to_none=True)


def predicted(case: Case, setting: Setting, device: Device) -> tuple[float, float]:
    """Bytes and seconds of a case, from shapes; bytes of samples are not told apart."""
    with torch.device("meta"):
        model = build_model(setting.shape)
    mode = without_data()
    fill(model, mode)
    family = arranged(model, case, setting)
    work = Work(case.clips, case.hypotheses, setting.tokens, 30.0, rollouts=float(case.sampling))
    prepared = Prepared(model, family, mode)
    found = estimate(prepared, work, device, precision=setting.precision, batch=build_batch(setting))
    seconds = found.rollout_seconds if case.sampling else found.scoring_seconds
    return found.activation_bytes + found.gradient_bytes, seconds


def measured(case: Case, setting: Setting, options: argparse.Namespace) -> list[Step]:
    worker = Worker(case.name, StepTask, (case, setting), device=options.device, threads=options.threads)
    try:
        return [worker.go() for _ in range(options.repeats + 1)][1:]
    finally:
        worker.close()


def record_of(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    shape = SHAPES[options.shape]
    setting = Setting(shape, case.clips, case.hypotheses, options.tokens, options.device, options.precision)
    # a busy machine disturbs what one thread's own clock says least
    on_own_clock = options.device == "cpu" and options.threads == 1
    clock = time.process_time if on_own_clock else time.perf_counter
    before = this_machine(options.precision, clock=clock)
    steps = measured(case, setting, options)
    after = this_machine(options.precision, clock=clock)
    device = before._replace(
        operations=max(before.operations, after.operations), bandwidth=max(before.bandwidth, after.bandwidth)
    )
    size, seconds = predicted(case, setting, device)
    took = min(step.cpu_seconds if on_own_clock else step.seconds for step in steps)
    return {
        "case": case.name,
        "clips": case.clips,
        "hypotheses": case.hypotheses,
        "predicted_bytes": None if case.sampling else size,
        "measured_bytes": max(step.peak_bytes for step in steps),
        "predicted_seconds": seconds,
        "measured_seconds": took,
        "all_seconds": [step.seconds for step in steps],
        "device_rate": device._asdict(),
    }


def lines(records: list[dict[str, Any]]) -> str:
    rows = []
    for one in records:
        size, took = one["predicted_bytes"], one["measured_seconds"]
        memory = ["", f"{one['measured_bytes'] / GIB:.2f}", ""]
        if size is not None:
            memory = [f"{size / GIB:.2f}", memory[1], f"{size / max(one['measured_bytes'], 1):.2f}"]
        speed = [f"{one['predicted_seconds']:.3g}", f"{took:.3g}", f"{one['predicted_seconds'] / took:.2f}"]
        rows.append([f"{one['case']}, {one['clips']} x {one['hypotheses']}", *memory, *speed])
    headings = ("step, B x K", "GiB predicted", "measured", "ratio", "s predicted", "measured", "ratio")
    return table(headings, rows)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of which Whisper; weights are random")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(AUTOCAST), default="float32", help="of autocast; float32: none")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=2, help="steps after a first one; the fastest counts")
    parser.add_argument("--tokens", type=int, default=40, help="T, decoder tokens of the longest hypothesis")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    options = parser.parse_args(argv)
    if min(options.threads, options.repeats) < 1:
        parser.error("--threads and --repeats count things; use 1 or more")
    if not PREFIX_TOKENS + 2 <= options.tokens <= 448:
        parser.error(f"--tokens {options.tokens}: Whisper's decoder has 448 positions; use {PREFIX_TOKENS + 2} to 448")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; use --device cpu")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    os.environ.setdefault(*ALLOCATOR)  # before the first process starts, which reads it then
    torch.set_num_threads(options.threads)
    where = environment(options.device, options.threads)
    records = [record_of(case, options) for case in CASES]
    rates = [one["device_rate"] for one in records]
    print(hardware_line(where))
    print(
        f"shape of whisper-{options.shape}, {options.tokens} tokens, {options.precision}; "
        f"{_span(rates, 'operations', 1e12)} TFLOP/s, {_span(rates, 'bandwidth', 1e9)} GB/s, "
        f"{rates[0]['share']:.2f} reached\n"
    )
    print(lines(records) + "\n")
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report({"benchmark": "estimate", **where, **settings, "cases": records}, options.out)


def _span(rates: list[dict[str, Any]], name: str, unit: float) -> str:
    """The lowest and the highest of the cases."""
    values = [one[name] / unit for one in rates]
    return f"{min(values):.3g} to {max(values):.3g}"


if __name__ == "__main__":
    main()
